// The order of a launch's threads and blocks: see order.h.
#include "order.h"

#include <algorithm>

namespace emu::races {

void Known::add(const Known &other) {
    for (const auto &[run, theirs] : other.times) {
        auto &mine = times[run];
        mine.resize(std::max(mine.size(), theirs.size()));
        for (size_t i = 0; i < theirs.size(); i++) mine[i] = std::max(mine[i], theirs[i]);
    }
}

bool Known::has(Stamp s) const {
    auto found = times.find(run_of(s));
    return found != times.end() && time_of(s) <= found->second[thread_of(s)];
}

void Order::Side::clear() {
    own.clear();
    all.times.clear();
}

void Order::Side::meet() {
    for (const auto &mine : own) all.add(mine.second);
    own.clear();
}

void Order::Side::meet(unsigned base, unsigned mask) {
    Known joined;
    for (const auto &mine : own)
        if (mine.first - base < 32 && mask >> (mine.first - base) & 1) joined.add(mine.second);
    if (joined.empty()) return;
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1) own[base + i] = joined;
}

void Order::Side::give(Known &to, unsigned thread) const {
    to.add(all);
    auto mine = own.find(thread);
    if (mine != own.end()) to.add(mine->second);
}

void Order::begin_launch(uint32_t first, uint32_t count) {
    first_ = first;
    count_ = count;
    left_.clear();
}

void Order::begin_block(uint32_t run, unsigned threads) {
    run_ = run;
    threads_ = threads;
    time_ = barrier_ = 1;
    began_.assign(threads, 1);
    met_.assign(threads, {});
    for (Side *side : {&fenced_, &heard_, &known_}) side->clear();
}

void Order::block_met() {
    barrier_ = ++time_;
    began_.assign(threads_, barrier_);
    for (Side *side : {&fenced_, &heard_, &known_}) side->meet();
}

void Order::warp_met(unsigned base, unsigned mask) {
    std::array<unsigned, 32> joined = {};
    for (unsigned i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        met_[base + i][i] = began_[base + i];
        for (unsigned j = 0; j < 32; j++) joined[j] = std::max(joined[j], met_[base + i][j]);
    }
    time_++;
    for (unsigned i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        met_[base + i] = joined;
        began_[base + i] = time_;
    }
    for (Side *side : {&fenced_, &heard_, &known_})
        if (!side->own.empty()) side->meet(base, mask);
}

// Takes in what was heard, and makes what is known ready to be left.
void Order::fence(unsigned thread) {
    Known &known = known_.own[thread];
    heard_.give(known, thread);
    Known now;
    auto &times = now.times[run_];
    times.assign(threads_, barrier_ - 1);
    unsigned base = thread / 32 * 32;
    for (unsigned i = 0; i < 32 && base + i < threads_; i++)
        times[base + i] = std::max(times[base + i], met_[thread][i]);
    times[thread] = began_[thread];
    known_.give(now, thread);
    fenced_.own[thread].add(now);
    began_[thread] = ++time_;
}

void Order::atomic(unsigned thread, uintptr_t at) {
    auto found = left_.find(at);
    bool leaves = !fenced_.all.empty() || fenced_.own.count(thread);
    if (found != left_.end()) heard_.own[thread].add(found->second);
    if (leaves) fenced_.give(left_[at], thread);
}

bool Order::knows(Stamp s, unsigned thread) const {
    if (known_.all.has(s)) return true;
    auto own = known_.own.find(thread);
    return own != known_.own.end() && own->second.has(s);
}

bool Order::knows_run(uint32_t run, unsigned thread) const {
    if (known_.all.times.count(run)) return true;
    auto own = known_.own.find(thread);
    return own != known_.own.end() && own->second.times.count(run);
}

} // namespace emu::races
