// What a card's memory is asked for, by kernel and place in the program: sectors of 32 bytes of global memory, and
// passes over the banks of shared memory. For cost models; only counted when it is switched on.
//
// The lanes of a warp run one after the other. A request is what they do at one place for the n-th time since they
// last met: with loops of unlike length that is how a card's lanes stay together as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace emu::races {

struct Totals {
    bool shared;
    // `units`: sectors or passes; `least`: those that the same bytes would take side by side.
    uint64_t requests, bytes, units, least;
};

class Requests {
  public:
    // This thread's, for a launch that begins now; null if nothing is counted.
    static Requests *of(const char *kernel);
    static void count(bool on);
    // All that was counted by now, a line for each place.
    static std::string table();

    void add(unsigned thread, uintptr_t at, size_t bytes, bool shared, const void *site);
    // All lanes of a warp have met, or all of the block.
    void flush(unsigned warp);
    void flush();
    void end();

  private:
    struct Request {
        bool shared;
        std::vector<std::pair<uintptr_t, size_t>> lanes;
    };
    struct Place {
        size_t done[32];
        std::vector<Request> requests;
    };

    std::string kernel_;
    std::map<const void *, Place> warps_[32];
    std::map<const void *, Totals> totals_;
};

} // namespace emu::races
