// The checker's memory of memory: see shadow.h.
#include "shadow.h"

#include <atomic>
#include <cstdlib>
#include <sys/mman.h>

namespace emu::races {

namespace {

// Addresses have 48 bits: a gibibyte of pages each on the second level.
constexpr unsigned kLowBits = 30, kTopBits = 48 - kLowBits;
std::atomic<Page *> directory[size_t(1) << kTopBits];

constexpr size_t kPagesEach = size_t(1) << (kLowBits - kPageBits);

} // namespace

void Page::fill(Stamp write) {
    drop();
    shift = 4;
    size_t count = kPage >> shift;
    cells = static_cast<Cell *>(std::calloc(count, sizeof(Cell)));
    for (size_t i = 0; i < count; i++) cells[i].write = write;
}

void Page::drop() {
    std::free(cells);
    cells = nullptr;
}

void Page::split(unsigned to) {
    unsigned each = 1u << (shift - to);
    size_t count = kPage >> shift;
    Cell *finer = static_cast<Cell *>(std::malloc(count * each * sizeof(Cell)));
    for (size_t i = 0; i < count; i++)
        for (unsigned j = 0; j < each; j++) finer[i * each + j] = cells[i];
    drop();
    cells = finer;
    shift = to;
}

Page *page_of(uintptr_t at) {
    Page *pages = at >> (kLowBits + kTopBits) ? nullptr : directory[at >> kLowBits].load(std::memory_order_acquire);
    return pages ? pages + (at >> kPageBits & (kPagesEach - 1)) : nullptr;
}

Page *make_page(uintptr_t at) {
    std::atomic<Page *> &slot = directory[at >> kLowBits];
    if (!slot.load(std::memory_order_acquire)) {
        size_t bytes = kPagesEach * sizeof(Page);
        void *fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (fresh == MAP_FAILED) std::abort();
        Page *none = nullptr;
        if (!slot.compare_exchange_strong(none, static_cast<Page *>(fresh))) munmap(fresh, bytes);
    }
    return page_of(at);
}

} // namespace emu::races
