// The checker of races: what the compiler's instrumentation (-fsanitize=thread) calls for every read and write of
// a kernel, in place of the sanitizer's own runtime.
//
// Threads are fibers that run one after the other, so nothing here is concurrent: a race is two accesses that the
// memory model does not order (order.h), in whatever order they came. The first error ends the launch. Also errors:
// reads of what nobody has written, accesses outside of the launch's shared memory or of every allocation, reads of
// what an asynchronous copy may still be writing, and whatever a kernel does to memory before it has waited for the
// launch before it, reads of weights aside.
//
// Knows no kernel.
#include "emulator.h"
#include "order.h"
#include "requests.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" char __executable_start, _end;

namespace emu::races {

namespace {

std::mutex lock;
// By address: how many bytes. For messages.
std::map<uintptr_t, size_t> allocations;
std::atomic<uint32_t> runs{1};

struct Checker {
    // Everything is private while no block runs.
    uintptr_t stacks = 0, place = 0, shared = 0;
    size_t stack_bytes = ~size_t(0), place_bytes = 0, shared_room = 0;

    size_t shared_bytes = 0, threads = 0;
    unsigned thread = 0;
    Dim grid = {};
    Order order;
    Stamp now = 0;
    std::vector<Page> pages;
    std::vector<bool> waited;
    // Sets of blocks: members, and what a set becomes with one more.
    std::vector<std::vector<uint32_t>> sets;
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> larger;
    Requests *requests = nullptr;
    std::string message;
};
thread_local Checker checker;

// One access of the running thread.
struct Access {
    uintptr_t at;
    size_t bytes;
    const void *site;
    bool writes, shared;
};

uint32_t place_of(const void *site) { return uint32_t(uintptr_t(site) - 1 - uintptr_t(&__executable_start)); }

std::string number(const char *form, size_t value) {
    char text[32];
    std::snprintf(text, sizeof text, form, value);
    return text;
}

std::string block_name(uint32_t run) {
    Dim grid = checker.grid;
    unsigned block = run - checker.order.first();
    std::string name = "block " + number("%zu", block % grid.x);
    if (grid.y * grid.z > 1)
        name += "," + number("%zu", block / grid.x % grid.y) + "," + number("%zu", block / grid.x / grid.y);
    return name;
}

std::string thread_name(Stamp s) { return "thread " + number("%zu", thread_of(s)) + " of " + block_name(run_of(s)); }

// "4 bytes at 0x1234": a place in the program, for addr2line.
std::string size_and_site(size_t bytes, uint32_t site) { return number("%zu bytes at ", bytes) + number("%#zx", site); }

std::string memory_name(const Access &a) {
    if (a.shared) return "shared memory, byte " + number("%zu", a.at - checker.shared);
    std::lock_guard<std::mutex> guard(lock);
    auto next = allocations.upper_bound(a.at);
    if (next == allocations.begin() || a.at - (--next)->first >= next->second + kPage)
        return "global memory at " + number("%#zx", a.at);
    return "global memory, byte " + number("%zu", a.at - next->first) + " of an allocation of " +
           number("%zu", next->second);
}

[[noreturn]] void report(const Access &a, const std::string &why) {
    Checker &c = checker;
    c.message = memory_name(a) + ": " + thread_name(c.now) + (a.writes ? " writes " : " reads ") +
                size_and_site(a.bytes, place_of(a.site)) + ", " + why;
    fail(c.message.c_str());
}

[[noreturn]] void report_race(const Access &a, Stamp other, bool wrote, size_t bytes, uint32_t site) {
    std::string who = wrote && mark_of(other) & kAtomic ? " changed by an atomic " : wrote ? " wrote " : " read ";
    report(a, "which nothing orders with what " + thread_name(other) + who + size_and_site(bytes, site));
}

bool concerns(const Access &a, Stamp s) {
    const Order &order = checker.order;
    return a.shared ? order.in_block(s) : order.in_launch(s);
}

// What a read and a write both ask of the last write.
void check_write(const Access &a, const Cell &cell) {
    Checker &c = checker;
    Stamp last = cell.write;
    if (!a.shared && last == kNowhere) report(a, "outside of every allocation");
    if (!concerns(a, last)) {
        if (!a.shared && !c.waited[c.thread] && (a.writes || run_of(last) != 0))
            report(a, a.writes ? "before it has waited for the launch before"
                               : "before it has waited for the launch before: another launch has written it");
        return;
    }
    if (mark_of(last) & kInFlight)
        report(a, "which a copy of " + thread_name(last) + " may still be writing: " +
                      size_and_site(cell.write_bytes, cell.write_site));
    if (!c.order.before(last, c.thread)) report_race(a, last, true, cell.write_bytes, cell.write_site);
}

// The set that `set` becomes with a run in it.
uint32_t with(uint32_t set, uint32_t run) {
    Checker &c = checker;
    for (uint32_t member : c.sets[set])
        if (member == run) return set;
    auto [found, fresh] = c.larger.insert({{set, run}, uint32_t(c.sets.size())});
    if (fresh) {
        c.sets.push_back(c.sets[set]);
        c.sets.back().push_back(run);
    }
    return found->second;
}

void note_read(const Access &a, Cell &cell) {
    Checker &c = checker;
    Stamp last = cell.read;
    uint32_t lane = 1u << c.thread % 32;
    cell.read_site = place_of(a.site);
    cell.read_bytes = uint8_t(a.bytes);
    if (!concerns(a, last) || (c.order.in_block(last) && mark_of(last) != kBlocks && c.order.is_past(last))) {
        cell.read = c.now | kOneWarp;
        cell.who = lane;
    } else if (mark_of(last) == kBlocks) {
        cell.who = with(cell.who, c.order.run());
    } else if (!c.order.in_block(last)) {
        cell.read = c.now | kBlocks;
        cell.who = with(with(0, run_of(last)), c.order.run());
    } else if (mark_of(last) == kOneWarp && thread_of(last) / 32 == c.thread / 32) {
        // Those who have met this lane since need not be remembered.
        unsigned base = c.thread / 32 * 32;
        for (unsigned i = 0; i < 32; i++) {
            Stamp reader = stamp(c.order.run(), base + i, time_of(last));
            if (cell.who >> i & 1 && c.order.before(reader, c.thread)) cell.who &= ~(1u << i);
        }
        cell.read = c.now | kOneWarp;
        cell.who |= lane;
    } else if (mark_of(last) == kOneWarp) {
        cell.read = c.now | kWarps;
        cell.who = thread_of(last);
    }
}

void check_reads(const Access &a, const Cell &cell) {
    Checker &c = checker;
    Stamp last = cell.read;
    if (!concerns(a, last)) return;
    auto race = [&](Stamp other) { report_race(a, other, false, cell.read_bytes, cell.read_site); };
    if (mark_of(last) == kBlocks) {
        for (uint32_t run : c.sets[cell.who])
            if (run != c.order.run() && !c.order.knows_run(run, c.thread))
                report(a, "which nothing orders with what " + block_name(run) + " read: " +
                              size_and_site(cell.read_bytes, cell.read_site));
    } else if (mark_of(last) == kWarps) {
        // Two readers are known, of two warps: one at least is of another warp.
        for (unsigned thread : {thread_of(last), unsigned(cell.who)}) {
            Stamp reader = stamp(run_of(last), thread, time_of(last));
            bool own_warp = c.order.in_block(last) && thread / 32 == c.thread / 32;
            if (!own_warp && !c.order.before(reader, c.thread)) race(reader);
        }
    } else {
        for (unsigned i = 0; i < 32; i++) {
            Stamp reader = stamp(run_of(last), thread_of(last) / 32 * 32 + i, time_of(last));
            if (cell.who >> i & 1 && !c.order.before(reader, c.thread)) race(reader);
        }
    }
}

// Returns whether anybody has written it.
bool read_cell(const Access &a, Cell &cell) {
    if (cell.read == checker.now) return true;
    bool written = a.shared ? concerns(a, cell.write) : cell.write != kUnwritten;
    // What is larger than a vector is a structure, which may have gaps between its members.
    if (!written && a.bytes > 16) return false;
    if (!written) report(a, "which nobody has written");
    check_write(a, cell);
    note_read(a, cell);
    return true;
}

void write_cell(const Access &a, Cell &cell, unsigned mark) {
    bool chain = mark == kAtomic && mark_of(cell.write) == kAtomic && concerns(a, cell.write);
    if (mark == kAtomic && (a.shared ? !concerns(a, cell.write) : cell.write == kUnwritten))
        report(a, "which nobody has written");
    if (!chain) check_write(a, cell);
    check_reads(a, cell);
    cell.write = checker.now | mark;
    cell.read = 0;
    cell.write_site = place_of(a.site);
    cell.write_bytes = uint8_t(a.bytes);
}

// Calls `f` for each cell of an access, which is of shared memory or in an allocation, or else an error.
template <class F> void each_cell(const Access &a, F f) {
    Checker &c = checker;
    if (c.order.too_long()) fail("a block meets more often than the checker of races can count");
    size_t offset = a.at - c.shared;
    if (a.shared && offset + a.bytes > c.shared_bytes)
        report(a, "beyond the " + number("%zu", c.shared_bytes) + " bytes of the launch");
    for (size_t done = 0; done < a.bytes;) {
        uintptr_t at = a.at + done;
        size_t in_page = a.shared ? (offset + done) % kPage : at % kPage;
        size_t bytes = a.bytes - done < kPage - in_page ? a.bytes - done : kPage - in_page;
        Page *page = a.shared ? &c.pages[(offset + done) / kPage] : page_of(at);
        if (!page || !page->cells) report(a, "outside of every allocation");
        page->fit(in_page, bytes);
        Cell *cells = page->cells + (in_page >> page->shift);
        for (size_t i = 0; i < bytes >> page->shift; i++) f(cells[i]);
        done += bytes;
    }
}

// Nobody else sees it, or it is no memory of the card: constants of the program.
bool is_private(uintptr_t at) {
    const Checker &c = checker;
    if (at - c.stacks < c.stack_bytes || at - c.place < c.place_bytes) return true;
    uintptr_t first = uintptr_t(&__executable_start), end = uintptr_t(&_end);
    return at - first < end - first;
}

void count(const Access &a) {
    Checker &c = checker;
    if (c.requests) c.requests->add(c.thread, a.at, a.bytes, a.shared, a.site);
}

inline void touch(const void *p, size_t bytes, bool writes, const void *site) {
    if (is_private(uintptr_t(p))) return;
    Checker &c = checker;
    Access a = {uintptr_t(p), bytes, site, writes, uintptr_t(p) - c.shared < c.shared_room};
    count(a);
    if (writes) return each_cell(a, [&](Cell &cell) { write_cell(a, cell, 0); });
    bool any = false;
    each_cell(a, [&](Cell &cell) { any |= read_cell(a, cell); });
    if (!any) report(a, "which nobody has written");
}

} // namespace

void begin_launch(const char *kernel, const Private &own, const unsigned *blocks, const unsigned *threads) {
    Checker &c = checker;
    c.stacks = uintptr_t(own.stacks);
    c.stack_bytes = own.stack_bytes;
    c.place = uintptr_t(own.place);
    c.place_bytes = own.place_bytes;
    c.grid = {blocks[0], blocks[1], blocks[2]};
    c.threads = threads[0] * threads[1] * threads[2];
    uint32_t count = blocks[0] * blocks[1] * blocks[2];
    c.order.begin_launch(runs.fetch_add(count), count);
    c.sets.assign(1, {});
    c.larger.clear();
    c.requests = Requests::of(kernel);
}

void end_launch() {
    checker.stacks = 0;
    checker.stack_bytes = ~size_t(0);
}

void begin_block(unsigned index, const void *shared, size_t bytes, size_t room) {
    Checker &c = checker;
    c.shared = uintptr_t(shared);
    c.shared_bytes = bytes;
    c.shared_room = room;
    for (size_t i = c.pages.size(); i * kPage < room; i++) {
        c.pages.push_back({nullptr, 0});
        c.pages.back().fill(kNowhere);
    }
    c.waited.assign(c.threads, false);
    c.order.begin_block(c.order.first() + index, unsigned(c.threads));
}

void end_block() {
    if (checker.requests) checker.requests->flush();
}

void resume(unsigned thread) {
    checker.thread = thread;
    checker.now = checker.order.now(thread);
}

void block_met() {
    checker.order.block_met();
    if (checker.requests) checker.requests->flush();
}

void warp_met(unsigned base, unsigned mask) {
    checker.order.warp_met(base, mask);
    if (checker.requests && mask == ~0u) checker.requests->flush(base / 32);
}

void fence() {
    Checker &c = checker;
    c.order.fence(c.thread);
    resume(c.thread);
}

void waited() { checker.waited[checker.thread] = true; }

void atomic(const void *at, size_t bytes, const void *site) {
    if (is_private(uintptr_t(at))) return;
    Checker &c = checker;
    Access a = {uintptr_t(at), bytes, site, true, uintptr_t(at) - c.shared < c.shared_room};
    count(a);
    each_cell(a, [&](Cell &cell) { write_cell(a, cell, kAtomic); });
    c.order.atomic(c.thread, a.at);
}

void read(const void *at, size_t bytes, const void *site) { touch(at, bytes, false, site); }

void copy_begun(const void *to, const void *from, size_t bytes, size_t valid, const void *site) {
    Checker &c = checker;
    if (valid) touch(from, valid, false, site);
    Access a = {uintptr_t(to), bytes, site, true, uintptr_t(to) - c.shared < c.shared_room};
    if (!a.shared) fail("cp.async to memory that is not shared");
    count(a);
    each_cell(a, [&](Cell &cell) { write_cell(a, cell, kInFlight); });
}

void copy_arrived(const void *to, size_t bytes) {
    Access a = {uintptr_t(to), bytes, nullptr, true, true};
    each_cell(a, [&](Cell &cell) { cell.write = checker.now; });
}

// Allocations begin on a page, and no two share one.
void memory(Memory what, uintptr_t at, size_t bytes) {
    if (what != kWritten) {
        std::lock_guard<std::mutex> guard(lock);
        if (what == kFresh) allocations[at] = bytes;
        else allocations.erase(at);
    }
    for (uintptr_t page_at = at / kPage * kPage; page_at < at + bytes; page_at += kPage) {
        Page *page = make_page(page_at);
        uintptr_t from = page_at < at ? at : page_at, to = at + bytes - page_at < kPage ? at + bytes : page_at + kPage;
        if (what == kFreed) {
            page->drop();
            continue;
        }
        if (what == kFresh || !page->cells) page->fill(kNowhere);
        page->fit(from % kPage, to - from);
        for (uintptr_t i = from; i < to; i += size_t(1) << page->shift) {
            Cell &cell = page->cells[i % kPage >> page->shift];
            cell.write = what == kFresh ? kUnwritten : kByHost;
            cell.read = 0;
        }
    }
}

} // namespace emu::races

#define SERIN_SEEN(bytes)                                                                                            \
    void __tsan_read##bytes(void *at) { emu::races::touch(at, bytes, false, EMU_SITE); }                             \
    void __tsan_write##bytes(void *at) { emu::races::touch(at, bytes, true, EMU_SITE); }                             \
    void __tsan_unaligned_read##bytes(void *at) { emu::races::touch(at, bytes, false, EMU_SITE); }                   \
    void __tsan_unaligned_write##bytes(void *at) { emu::races::touch(at, bytes, true, EMU_SITE); }

extern "C" {

// Whether this thread's launches count what they ask of memory.
void serin_emulator_count(int on) { emu::races::Requests::count(on); }

// `Requests::table`, cut off at `room`; returns the length of all of it.
size_t serin_emulator_counts(char *out, size_t room) {
    std::string text = emu::races::Requests::table();
    std::copy_n(text.data(), std::min(room, text.size()), out);
    return text.size();
}

SERIN_SEEN(1)
SERIN_SEEN(2)
SERIN_SEEN(4)
SERIN_SEEN(8)
SERIN_SEEN(16)
void __tsan_read_range(void *at, size_t bytes) { emu::races::touch(at, bytes, false, EMU_SITE); }
void __tsan_write_range(void *at, size_t bytes) { emu::races::touch(at, bytes, true, EMU_SITE); }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}

} // extern "C"
