// What a card's memory is asked for, by kernel and place in the program: sectors of 32 bytes of global memory, and
// passes over the banks of shared memory. For cost models; counted for one thread of the host, while it wishes so.
//
// The lanes of a warp run one after the other. A request is what they do at one place for the n-th time since they
// last met: loops of unlike length stay together on a card in the same way.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace emu::races {

// What a lane asks for; nothing if it takes no part.
struct Piece {
    uintptr_t at;
    size_t bytes;
};
typedef std::array<Piece, 32> Lanes;

class Requests {
  public:
    // This thread's, for a launch that begins now; null if it counts nothing.
    static Requests *of(const char *kernel);
    // From now on; forgets what was counted before.
    static void count(bool on);
    // What this thread has counted, a line for each kernel and place: the kernel, the place from the program's start,
    // `global` or `shared`, requests, bytes, sectors or passes, and those that the same bytes would take side by side.
    static std::string table();

    void add(unsigned thread, uintptr_t at, size_t bytes, bool shared, const void *site);
    // All lanes of a warp have met, or all threads of the block.
    void flush(unsigned warp);
    void flush();

  private:
    typedef std::pair<const void *, bool> Place;
    struct Open {
        size_t done[32] = {};
        std::vector<Lanes> requests;
    };
    struct Totals {
        uint64_t requests, bytes, units, least;
    };

    std::string kernel_;
    std::map<Place, Open> warps_[32];
    std::map<std::pair<std::string, Place>, Totals> totals_;
};

} // namespace emu::races
