// Attention of single query tokens over a paged cache: decoding.
//
// A block takes one sequence, one key head and one share of its tokens (split-KV, known as Flash-Decoding), for
// all query heads of the group at once, so that keys and values are read from memory once. Its four warps go
// through tiles of the share in turn, each on its own, and put their sums together at the end. The number of
// shares is fixed by the launch, and each is an equal part of what is visible now: a recorded launch stays good
// while contexts grow. With one share the block writes the output itself; else partial sums, which a second
// kernel puts together.
//
// What limits it is memory: 2 * head_dim numbers per token and key head, read once. Products go to tensor cores
// even for a group of one: on ordinary cores the scores of a group of 8 take more shuffles than a card has
// bandwidth for, and with tensor cores all that lies far below it (about 250 instructions of a warp per 8 KiB).
// A product has 16 rows and a group seldom more than 8 heads, so rows 8 to 15 carry what rows 0 to 7 lost when
// they were rounded to half precision, queries and probabilities alike: as exact as f32, for nothing. Groups
// of more than 8 take several blocks, which read the same keys at about the same time (through the L2 cache).
// Expected: 80 to 90 % of a card's bandwidth once a share has a few hundred tokens.
#include "attention.cuh"

namespace attention_decode {

using namespace attention;

constexpr int kWarps = 4, kHeads = 8;
// Shares are whole tiles of so many tokens.
constexpr int kUnit = 16;

template <int kDim, bool kBytes> struct Plan {
    using T = Tile<kDim, kDim <= 64 ? 32 : 16, kBytes>;
    static constexpr int kSum = kDim + 8;
    static constexpr int kQueries = 16 * T::kStep;
    // Queries; the warps' tiles, then their sums; largest score and sum of each warp and head.
    static constexpr int kShared = kQueries + kWarps * T::kShared + 2 * 4 * kWarps * kHeads;
    static_assert(4 * kHeads * kSum <= T::kShared, "a warp's sums fit where its tiles were");
};

// Rows 0 to 7: queries of the heads, times `scale`, rounded; rows 8 to 15: what was lost.
template <int kDim>
__device__ void stage_queries(const float *q, int heads, float scale, unsigned char *rows, int step) {
    for (int i = threadIdx.x; i < kHeads * kDim; i += kWarps * 32) {
        int head = i / kDim, d = i % kDim;
        float v = head < heads ? q[i] * scale : 0.0f;
        f16 near = from_float<f16>(v);
        reinterpret_cast<f16 *>(rows + head * step)[d] = near;
        reinterpret_cast<f16 *>(rows + (head + 8) * step)[d] = from_float<f16>(v - to_float(near));
    }
}

// What the warps have found, side by side.
struct Found {
    const float *sums, *most, *sum;
    int step, warp_step;
};

template <int kDim>
__device__ void leave(const Sums<kDim, true> &mine, float *sums, int step, float *most, float *sum) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
        float2 pair = make_float2(mine.out[j][0], mine.out[j][1]);
        *reinterpret_cast<float2 *>(sums + g * step + j * 8 + 2 * t) = pair;
    }
    if (t == 0) {
        most[warp * kHeads + g] = mine.most[0];
        sum[warp * kHeads + g] = mine.sum[0];
    }
}

// One head's largest score of all warps, the sum, and one of its outputs, neither divided yet.
struct Joined {
    float most, sum, out;
};

__device__ inline Joined join(const Found &found, int head, int d) {
    Joined all = {-INFINITY, 0.0f, 0.0f};
    for (int w = 0; w < kWarps; w++) all.most = fmaxf(all.most, found.most[w * kHeads + head]);
    for (int w = 0; w < kWarps; w++) {
        float sum = found.sum[w * kHeads + head];
        if (!(sum > 0.0f)) continue;
        float weight = exp2f(found.most[w * kHeads + head] - all.most);
        all.sum += weight * sum;
        all.out += weight * found.sums[w * found.warp_step + head * found.step + d];
    }
    return all;
}

struct Out {
    void *values;
    float2 *scales;
    int kind;
    // `[rows][heads][splits][kDim + 2]`: largest score, sum, undivided outputs.
    float *partials;
};

template <int kDim>
__device__ void write(const Found &found, const Out &out, int row, int token, int first_head, int count, int heads) {
    constexpr int kPieces = kDim / 32;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, splits = gridDim.x, split = blockIdx.x;
    for (int piece = warp; piece < count * kPieces; piece += kWarps) {
        int head = piece / kPieces, d = piece % kPieces * 32 + lane;
        Joined all = join(found, head, d);
        int global_head = first_head + head;
        if (splits == 1) {
            float v = all.sum > 0.0f ? all.out / all.sum : 0.0f;
            store_as(out.kind, out.values, out.scales, token, global_head * kDim + d - lane, heads * kDim, v);
            continue;
        }
        float *part = out.partials + ((size_t(row) * heads + global_head) * splits + split) * (kDim + 2);
        if (d == 0) {
            part[0] = all.most;
            part[1] = all.sum;
        }
        part[2 + d] = all.out;
    }
}

// Grid: splits, key heads times groups of 8 query heads, rows.
template <int kDim, bool kBytes>
__device__ void run(const float *RESTRICT qkv, int stride, int heads, const Cache &cache, const uint32_t *rows,
                    const uint32_t *tables, float scale, float bend, int window, const Out &out) {
    using P = Plan<kDim, kBytes>;
    using T = typename P::T;
    DYNAMIC_SHARED(shared);
    unsigned char *tile = shared + P::kQueries + threadIdx.x / 32 * T::kShared;
    float *most = reinterpret_cast<float *>(shared + P::kQueries + kWarps * T::kShared), *sum = most + kWarps * kHeads;
    int group = heads / cache.kv_heads, parts = (group + kHeads - 1) / kHeads;
    int head = blockIdx.y / parts, part = blockIdx.y % parts;
    int first_head = head * group + part * kHeads, count = min(kHeads, group - part * kHeads);
    Row row = row_at(rows, tables, blockIdx.z);

    int low = first_seen(row.context - 1, window), split = blockIdx.x, splits = gridDim.x;
    int share = ((row.context - low + splits - 1) / splits + kUnit - 1) / kUnit * kUnit;
    int from = low + split * share, to = min(row.context, from + share);
    Sums<kDim, true> sums;
    if (from < to) {
        const float *q = qkv + size_t(row.start) * stride + size_t(first_head) * kDim;
        stage_queries<kDim>(q, count, scale, shared, T::kStep);
        __syncthreads();
        Queries<kDim> queries(shared, T::kStep);
        Sight sight = {{from, from}, {to - 1, to - 1}, from, to - 1, from, to - 1};
        Span span = {from + int(threadIdx.x) / 32 * T::kKeys, to, kWarps * T::kKeys};
        if (span.from < to)
            walk<T, WarpTeam, true>(sums, queries, cache, row.table, head, span, sight, bend, tile);
        __syncwarp();
    }
    sums.finish();
    leave<kDim>(sums, reinterpret_cast<float *>(tile), P::kSum, most, sum);
    __syncthreads();
    Found found = {reinterpret_cast<float *>(shared + P::kQueries), most, sum, P::kSum, T::kShared / 4};
    write<kDim>(found, out, blockIdx.z, row.start, first_head, count, heads);
}

// What each share counts for, from its largest score and its sum, into `weights` by the first warp; every warp works
// out the sum of all shares. One without tokens counts for nothing.
__device__ float weigh(const float *all, int splits, int step, float *weights, int lane) {
    float most = -INFINITY, sum = 0.0f;
    for (int split = lane; split < splits; split += 32) most = fmaxf(most, all[size_t(split) * step]);
    most = warp_max(most);
    for (int split = lane; split < splits; split += 32) {
        float own = all[size_t(split) * step + 1];
        float weight = own > 0.0f ? exp2f(all[size_t(split) * step] - most) : 0.0f;
        if (threadIdx.x < 32) weights[split] = weight;
        sum += weight * own;
    }
    return warp_sum(sum);
}

// Loads that a thread of a merge has under way at once.
constexpr int kAhead = 8;

// Puts shares together. Grid: heads, rows. A block has `head_dim` threads for each of its parts, which take every
// so-manieth share, so that one or two round trips to memory bring all of them: what is added is little, and time is
// the waiting. Shared memory: a weight for each share, then a sum for each thread.
__device__ void merge(const float *RESTRICT partials, int splits, int heads, int head_dim,
                      const uint32_t *RESTRICT rows, const Out &out) {
    DYNAMIC_SHARED(shared);
    float *weights = reinterpret_cast<float *>(shared), *sums = weights + splits;
    int step = head_dim + 2, head = blockIdx.x, d = threadIdx.x % head_dim, part = threadIdx.x / head_dim;
    int parts = blockDim.x / head_dim, lane = threadIdx.x % 32;
    const float *all = partials + (size_t(blockIdx.y) * heads + head) * splits * step;
    float sum = 0.0f, total = 0.0f;
    for (int first = 0; first < splits; first += kAhead * parts) {
        float found[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            int split = first + i * parts + part;
            found[i] = split < splits ? all[size_t(split) * step + 2 + d] : 0.0f;
        }
        if (first == 0) {
            sum = weigh(all, splits, step, weights, lane);
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            int split = first + i * parts + part;
            if (split < splits) total += weights[split] * found[i];
        }
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    if (part != 0) return;
    for (int other = 1; other < parts; other++) total += sums[other * head_dim + d];
    float v = sum > 0.0f ? total / sum : 0.0f;
    int column = head * head_dim + d - lane;
    store_as(out.kind, out.values, out.scales, rows[size_t(blockIdx.y) * 4], column, heads * head_dim, v);
}

} // namespace attention_decode

#define DECODE(name, dim, bytes)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
        name(const float *qkv, int stride, int heads, const unsigned char *keys, const unsigned char *values,       \
             const float *key_scales, const float *value_scales, int kv_heads, int block_size,                      \
             const uint32_t *rows, const uint32_t *tables, float scale, float bend, int window, float *partials,    \
             void *out, float2 *out_scales, int out_kind) {                                                         \
        wait_for_previous();                                                                                        \
        attention_decode::run<dim, bytes>(qkv, stride, heads,                                                       \
                                          {keys, values, key_scales, value_scales, kv_heads, block_size}, rows,     \
                                          tables, scale, bend, window, {out, out_scales, out_kind, partials});      \
    }                                                                                                               \
    EXPORT(name)

DECODE(attention_decode_f16_64, 64, false)
DECODE(attention_decode_f16_96, 96, false)
DECODE(attention_decode_f16_128, 128, false)
DECODE(attention_decode_f16_256, 256, false)
DECODE(attention_decode_i8_64, 64, true)
DECODE(attention_decode_i8_96, 96, true)
DECODE(attention_decode_i8_128, 128, true)
DECODE(attention_decode_i8_256, 256, true)

extern "C" __global__ void __launch_bounds__(512)
    attention_merge(const float *partials, int splits, int heads, int head_dim, const uint32_t *rows, void *out,
                    float2 *out_scales, int out_kind) {
    let_next_begin();
    wait_for_previous();
    attention_decode::merge(partials, splits, heads, head_dim, rows, {out, out_scales, out_kind, nullptr});
}
EXPORT(attention_merge)
