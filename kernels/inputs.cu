// What the host has written for a step, from its own pinned memory into the card's.
//
// A copy would queue behind whatever a loader sends, on the one engine that copies to the card; a kernel reads over
// the bus itself. It is the first of a step, so that everything after it reads the card's memory, and part of a
// recorded step: how much there is stands in the memory that it reads. Each section's length in words, then the
// sections, all on 16 bytes. Limited by the bus: a few kilobytes in about 2 us, expected, not measured.
// Knows no section's meaning.
#include "common.cuh"

namespace inputs {

constexpr int kThreads = 256;

} // namespace inputs

// Copies the sections `first .. first + gridDim.y`, of which section i starts at `starts[i]` words, on both sides.
extern "C" __global__ void __launch_bounds__(256)
    step_inputs(const uint32_t *host, uint32_t *card, int first, uint32_t start0, uint32_t start1, uint32_t start2) {
    int section = first + int(blockIdx.y);
    uint32_t start = section == 0 ? start0 : section == 1 ? start1 : start2;
    // The host writes between launches: no cache may keep it.
    uint32_t words = *static_cast<const volatile uint32_t *>(host + section);
    const uint4 *from = reinterpret_cast<const uint4 *>(host + start);
    uint4 *to = reinterpret_cast<uint4 *>(card + start);
    uint32_t pieces = (words + 3) / 4;
    for (uint32_t i = blockIdx.x * inputs::kThreads + threadIdx.x; i < pieces; i += gridDim.x * inputs::kThreads)
        to[i] = __ldcs(from + i);
}
EXPORT(step_inputs)
