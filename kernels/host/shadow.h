// What the checker of races remembers of memory: for each piece of it the last write, and the reads since.
//
// Pages of 4 KiB begin with pieces of 16 bytes and are cut up as far as accesses need it, so that vectors cost one
// look-up and bytes are still told apart. Global pages are found by address through two levels, without a lock: a
// page belongs to one allocation, and one launch at a time touches it.
//
// Knows no order of threads: stamps are compared in races.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu::races {

// Who did something and when: the run of a block (32 bits), its thread (10), the block's time (20), marks (2).
typedef uint64_t Stamp;

// Values of `Cell::write` that no thread has. Memory beyond every allocation, and memory without content.
constexpr Stamp kNowhere = 0, kUnwritten = 1, kByHost = 2;
// Marks of writes.
constexpr Stamp kAtomic = 1, kInFlight = 2;
// Marks of reads: by lanes of one warp, which `who` names; by several warps, a thread of another one is `who`; by several
// blocks, a set that `who` names.
constexpr Stamp kOneWarp = 0, kWarps = 1, kBlocks = 2;

inline Stamp stamp(uint32_t run, unsigned thread, unsigned time) {
    return Stamp(run) << 32 | Stamp(thread) << 22 | Stamp(time) << 2;
}
inline uint32_t run_of(Stamp s) { return uint32_t(s >> 32); }
inline unsigned thread_of(Stamp s) { return unsigned(s >> 22) & 1023; }
inline unsigned time_of(Stamp s) { return unsigned(s >> 2) & 0xfffff; }
inline unsigned mark_of(Stamp s) { return unsigned(s & 3); }
constexpr unsigned kMostTime = 0xfffff;

struct Cell {
    Stamp write, read;
    uint32_t who;
    // Places in the program, from its start.
    uint32_t write_site, read_site;
    uint8_t write_bytes, read_bytes;
};

constexpr unsigned kPageBits = 12;
constexpr size_t kPage = size_t(1) << kPageBits;

struct Page {
    Cell *cells;
    unsigned shift;

    // Begins anew, in pieces of 16 bytes.
    void fill(Stamp write);
    void drop();
    // Pieces become as small as an access wants that begins `at` in the page.
    void fit(size_t at, size_t bytes) {
        size_t odd = (at | bytes) & ((size_t(1) << shift) - 1);
        if (odd) split(unsigned(__builtin_ctzll(odd)));
    }

  private:
    void split(unsigned to);
};

// The page of a global address; null where there never was any.
Page *page_of(uintptr_t at);
// The same, made if need be.
Page *make_page(uintptr_t at);

} // namespace emu::races
