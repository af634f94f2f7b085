// What the host has written for a step, from its own pinned memory into the card's.
//
// A copy would queue behind whatever a loader sends, on the one engine that copies to the card; a kernel reads over
// the bus itself. It is the first of a step, so that everything after it reads the card's memory, and part of a
// captured step: how much there is stands in the memory that it reads. Each section's length in words, then the
// sections, all on 16 bytes. Limited by the bus.
// Knows no section's meaning.
#include "common.cuh"

namespace inputs {

constexpr int kThreads = 1024;

} // namespace inputs

// Copies the sections `first .. first + gridDim.x`, of which section i starts at `starts[i]` words, on both sides: one
// block each, of which one thread asks for the length. Reads of one place in the host's memory are answered one after
// the other, about 1 us each (H100): when every warp of 8 blocks asked, a section took 65 us.
extern "C" __global__ void __launch_bounds__(1024)
    step_inputs(const uint32_t *host, uint32_t *card, int first, uint32_t start0, uint32_t start1, uint32_t start2,
                uint32_t start3) {
    DYNAMIC_SHARED(memory);
    uint32_t *length = reinterpret_cast<uint32_t *>(memory);
    let_next_begin();
    wait_for_previous();
    int section = first + int(blockIdx.x);
    // The host writes between launches: no cache may keep it.
    if (threadIdx.x == 0) *length = *static_cast<const volatile uint32_t *>(host + section);
    __syncthreads();
    uint32_t start = section == 0 ? start0 : section == 1 ? start1 : section == 2 ? start2 : start3;
    uint32_t pieces = (*length + 3) / 4;
    const uint4 *from = reinterpret_cast<const uint4 *>(host + start);
    uint4 *to = reinterpret_cast<uint4 *>(card + start);
    for (uint32_t i = threadIdx.x; i < pieces; i += inputs::kThreads) to[i] = __ldcs(from + i);
}
EXPORT(step_inputs)
