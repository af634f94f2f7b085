// From rows of logits to what is reported of a drawn token: its log-probability and the likeliest tokens.
//
// They describe the model, not the request: of the logits as they are before anything is edited. So one launch comes
// before sampling, which edits logits in place, and keeps what the other needs after it. The first cuts a row into
// parts, a block each: sum of exponentials, the likeliest tokens, and the logits of the tokens that sampling will edit.
// The second has a warp a row: it joins the parts, and finds the logit of the token that was drawn. Natural logarithms
// are the host's. Limited by latency: 20 rounds of finding a maximum each. Knows no request.
#include "common.cuh"

namespace logprobs {

constexpr unsigned kThreads = 128, kWarps = kThreads / 32;
// logprobs.rs has the same three.
constexpr unsigned kMost = 20, kMostParts = 64;
struct Row {
    // The log of the sum of exponentials is `most + ln(sum)`.
    float most, sum;
    float drawn;
    uint32_t count;
    uint32_t ids[kMost];
    float logits[kMost];
};
static_assert(sizeof(Row) == 176, "as logprobs.rs has it");

// sample.cu: Params and Edit.
struct Params {
    uint32_t others[7];
    uint32_t first, entries;
    uint32_t rest[3];
};
struct Edit {
    uint32_t id, count;
    float bias;
};
static_assert(sizeof(Params) == 48 && sizeof(Edit) == 12, "as sample.cu has them");

struct Part {
    float most, sum;
    // The largest first; 0: there are no more.
    uint64_t keys[kMost];
};
static_assert(sizeof(Part) == 8 * 21, "as logprobs.rs has it");

// A row's slice of the list of edits.
struct Slice {
    unsigned first, entries;

    __device__ Slice(const Params &params, unsigned known)
        : first(min(params.first, known)), entries(min(params.entries, known - first)) {}
};

// Larger logit, larger key; of equal ones the lower id has it. 0 of what is not finite.
__device__ inline uint64_t key(float l, unsigned id) {
    uint32_t bits = __float_as_uint(l == 0.0f ? 0.0f : l);
    if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
    uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | uint32_t(~id);
}

__device__ inline float logit_of(uint64_t key) {
    uint32_t ordered = uint32_t(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ inline uint64_t warp_most(uint64_t v) {
    for (int by = 16; by > 0; by >>= 1) v = max(v, __shfl_xor_sync(kAll, v, by));
    return v;
}

// The largest key of this thread's tokens below `limit`.
__device__ inline uint64_t best_below(const float *logits, unsigned from, unsigned to, uint64_t limit) {
    uint64_t best = 0;
    for (unsigned id = from + threadIdx.x; id < to; id += kThreads) {
        uint64_t mine = key(logits[id], id);
        if (mine < limit) best = max(best, mine);
    }
    return best;
}

// The likeliest tokens of a block's tokens, the largest key first.
__device__ inline void likeliest(const float *logits, unsigned from, unsigned to, Part &part, uint64_t *scratch) {
    uint64_t mine = best_below(logits, from, to, ~uint64_t(0));
    for (unsigned i = 0; i < kMost; i++) {
        uint64_t best = warp_most(mine);
        if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
        __syncthreads();
        best = max(max(scratch[0], scratch[1]), max(scratch[2], scratch[3]));
        __syncthreads();
        if (threadIdx.x == 0) part.keys[i] = best;
        if (best != 0 && mine == best) mine = best_below(logits, from, to, best);
    }
}

__device__ inline void sum_up(const float *logits, unsigned from, unsigned to, Part &part, float *scratch) {
    float most = -INFINITY;
    for (unsigned id = from + threadIdx.x; id < to; id += kThreads) most = fmaxf(most, logits[id]);
    most = block_max(most, scratch);
    float sum = 0.0f;
    for (unsigned id = from + threadIdx.x; id < to; id += kThreads) sum += expf(logits[id] - most);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        part.most = most;
        part.sum = sum;
    }
}

// By one warp, each lane with the parts `lane` and `lane + 32`.
__device__ inline void join(const Part *all, unsigned parts, Row &row) {
    unsigned lane = threadIdx.x;
    float most = -INFINITY, sum = 0.0f;
    for (unsigned i = lane; i < parts; i += 32) most = fmaxf(most, all[i].most);
    most = warp_max(most);
    for (unsigned i = lane; i < parts; i += 32) sum += all[i].sum * expf(all[i].most - most);
    sum = warp_sum(sum);
    unsigned at[2] = {0, 0}, count = 0;
    for (unsigned i = 0; i < kMost; i++) {
        uint64_t mine[2];
#pragma unroll
        for (unsigned j = 0; j < 2; j++)
            mine[j] = lane + 32 * j < parts && at[j] < kMost ? all[lane + 32 * j].keys[at[j]] : 0;
        uint64_t best = warp_most(max(mine[0], mine[1]));
        if (best == 0) break;
#pragma unroll
        for (unsigned j = 0; j < 2; j++) at[j] += mine[j] == best;
        if (lane == 0) {
            row.ids[i] = ~uint32_t(best);
            row.logits[i] = logit_of(best);
        }
        count++;
    }
    if (lane == 0) {
        row.most = most;
        row.sum = sum;
        row.count = count;
    }
}

} // namespace logprobs

// Grid: parts, rows. `len` tokens a part, at most 64 parts. `kept`: a number for each edit.
extern "C" __global__ void __launch_bounds__(128)
    logprobs_parts(const float *logits, const logprobs::Params *params, const logprobs::Edit *edits, unsigned known,
                   float *kept, logprobs::Part *all, unsigned vocab, unsigned len) {
    DYNAMIC_SHARED(memory);
    let_next_begin();
    wait_for_previous();
    unsigned row = blockIdx.y, part = blockIdx.x, parts = gridDim.x;
    logits += size_t(row) * vocab;
    logprobs::Slice slice(params[row], known);
    for (unsigned i = part * logprobs::kThreads + threadIdx.x; i < slice.entries; i += parts * logprobs::kThreads) {
        unsigned id = edits[slice.first + i].id;
        kept[slice.first + i] = id < vocab ? logits[id] : 0.0f;
    }
    unsigned from = min(part * len, vocab), to = min(from + len, vocab);
    logprobs::Part &own = all[size_t(row) * logprobs::kMostParts + part];
    logprobs::sum_up(logits, from, to, own, reinterpret_cast<float *>(memory));
    __syncthreads();
    logprobs::likeliest(logits, from, to, own, reinterpret_cast<uint64_t *>(memory));
}
EXPORT(logprobs_parts)

// Grid: rows, of one warp each. `rows`: memory that the host reads. What was drawn is ~0 where logits are not finite:
// such a row has no logit of its own.
extern "C" __global__ void __launch_bounds__(32)
    logprobs_join(const float *logits, const logprobs::Params *params, const logprobs::Edit *edits, unsigned known,
                  const float *kept, const logprobs::Part *all, const uint32_t *ids, logprobs::Row *rows,
                  unsigned vocab, unsigned parts) {
    let_next_begin();
    wait_for_previous();
    unsigned row = blockIdx.x, id = ids[row];
    logprobs::join(all + size_t(row) * logprobs::kMostParts, parts, rows[row]);
    logprobs::Slice slice(params[row], known);
    unsigned found = 0;
    for (unsigned i = threadIdx.x; i < slice.entries; i += 32)
        if (edits[slice.first + i].id == id) found = i + 1;
    for (int by = 16; by > 0; by >>= 1) found = max(found, __shfl_xor_sync(kAll, found, by));
    if (threadIdx.x != 0) return;
    float drawn = id < vocab ? logits[size_t(row) * vocab + id] : 0.0f;
    rows[row].drawn = found > 0 ? kept[slice.first + found - 1] : drawn;
}
EXPORT(logprobs_join)
