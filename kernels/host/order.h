// What happened before what in one launch, as far as CUDA's memory model promises it.
//
// A block has one clock, which goes on whenever threads meet or fence; a thread's stamp bears the time of the last
// such event of its own. Barriers order all threads of a block, and __syncwarp the lanes that it names. Shuffles,
// votes and products of tensor cores order nothing (CUDA Programming Guide, "Warp Shuffle Functions"). Blocks are
// ordered by fences and atomics alone: what a thread knew at its fence is left at each word that it, or whoever has
// met it since, changes by an atomic; whoever changes that word later knows it after a fence of its own or of
// a thread that it meets.
//
// Knows no memory.
#pragma once

#include "shadow.h"

#include <array>
#include <map>
#include <vector>

namespace emu::races {

// Times of threads by run of a block: what they had done by then is known.
struct Known {
    std::map<uint32_t, std::vector<unsigned>> times;

    bool empty() const { return times.empty(); }
    void add(const Known &other);
    bool has(Stamp s) const;
};

class Order {
  public:
    // Runs of blocks `first` to `first + count - 1` are one launch.
    void begin_launch(uint32_t first, uint32_t count);
    void begin_block(uint32_t run, unsigned threads);

    void block_met();
    void warp_met(unsigned base, unsigned mask);
    void fence(unsigned thread);
    void atomic(unsigned thread, uintptr_t at);

    Stamp now(unsigned thread) const { return stamp(run_, thread, began_[thread]); }
    uint32_t run() const { return run_; }
    uint32_t first() const { return first_; }
    bool in_launch(Stamp s) const { return run_of(s) - first_ < count_; }
    bool in_block(Stamp s) const { return run_of(s) == run_; }
    // Of this block, and before its last barrier.
    bool is_past(Stamp s) const { return time_of(s) < barrier_; }

    // Whether what was stamped happened before what `thread` does next; both of this launch.
    bool before(Stamp s, unsigned thread) const {
        unsigned other = thread_of(s);
        if (in_block(s)) {
            if (other == thread || is_past(s)) return true;
            if (other / 32 == thread / 32 && time_of(s) <= met_[thread][other % 32]) return true;
        }
        return knows(s, thread);
    }
    // Whether `thread` knows anything that a run has done.
    bool knows_run(uint32_t run, unsigned thread) const;
    bool too_long() const { return time_ > kMostTime; }

  private:
    // By thread, and what all threads of the block have since its last barrier.
    struct Side {
        std::map<unsigned, Known> own;
        Known all;

        void clear();
        void meet();
        void meet(unsigned base, unsigned mask);
        void give(Known &to, unsigned thread) const;
    };

    bool knows(Stamp s, unsigned thread) const;

    uint32_t first_ = 0, count_ = 0, run_ = 0;
    unsigned threads_ = 0, time_ = 0, barrier_ = 0;
    std::vector<unsigned> began_;
    // Until when a thread knows what each lane of its warp has done.
    std::vector<std::array<unsigned, 32>> met_;
    // Known at the last fence; heard by atomics since; known of others.
    Side fenced_, heard_, known_;
    std::map<uintptr_t, Known> left_;
};

} // namespace emu::races
