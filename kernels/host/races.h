// What the emulator tells the checker of races (races.cpp) beside the reads and writes that the compiler's
// instrumentation reports. In a build without the checker (no SERIN_RACES) every call is empty.
//
// Knows no kernel, and nothing of how threads take turns.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef SERIN_RACES
// For twins of intrinsics, whose accesses are reported by hand, as the hardware makes them.
#define EMU_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#define EMU_SITE __builtin_return_address(0)
#else
#define EMU_UNSEEN
#define EMU_SITE nullptr
#endif

namespace emu::races {

#ifdef SERIN_RACES
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

// What threads have for themselves: their stacks, and the place of their indices.
struct Private {
    const void *stacks;
    size_t stack_bytes;
    const void *place;
    size_t place_bytes;
};

#ifdef SERIN_RACES
#define EMU_HOOK(name, ...) void name(__VA_ARGS__);
#else
#define EMU_HOOK(name, ...) inline void name(__VA_ARGS__) {}
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

EMU_HOOK(begin_launch, const char *kernel, const Private &, const unsigned *blocks, const unsigned *threads)
EMU_HOOK(end_launch)
// Blocks in the order x, y, z.
EMU_HOOK(begin_block, unsigned index, const void *shared, size_t bytes, size_t room)
EMU_HOOK(end_block)
// The thread that runs from now on.
EMU_HOOK(resume, unsigned thread)
// All threads of the block have met at a barrier, or the lanes in `mask` of the warp that begins at `base`.
EMU_HOOK(block_met)
EMU_HOOK(warp_met, unsigned base, unsigned mask)
// Of the running thread:
EMU_HOOK(fence)
EMU_HOOK(waited)
EMU_HOOK(atomic, const void *at, size_t bytes, const void *site)
EMU_HOOK(read, const void *at, size_t bytes, const void *site)
EMU_HOOK(copy_begun, const void *to, const void *from, size_t bytes, size_t valid, const void *site)
EMU_HOOK(copy_arrived, const void *to, size_t bytes)

// Global memory is allocated with unknown content, written by the host or by a copy, or given back.
enum Memory { kFresh, kWritten, kFreed };
EMU_HOOK(memory, Memory what, uintptr_t at, size_t bytes)

#undef EMU_HOOK
#ifndef SERIN_RACES
#pragma GCC diagnostic pop
#endif

} // namespace emu::races
