// Attention of many query tokens over a paged cache: prompts, in chunks, and whatever decodes beside them.
//
// FlashAttention-2 (arXiv:2307.08691) on a paged cache. A block takes 64 rows of one sequence and one key head,
// where a row is a query token and a head of the group: the group is packed into the rows, so that keys and
// values are read once for all its heads and short chunks still fill the products. Tiles of 64 tokens (32 for
// heads of 192 and 256) come through the block table; their four warps share them, and a warp leaves out what none of
// its 16 rows may see. Tiles of rows that see most tokens start first, so that short ones fill the end.
//
// Tensor cores limit it: 64 rows do 32 multiply-adds per byte of f16 cache and head. Queries and probabilities are
// half precision here, scores and sums f32. Rows are not split along their tokens: a single row with a very long
// context has no more blocks than key heads, and belongs into a decoding launch. Expected: 60 to 75 % of the
// tensor cores' f16 rate with f32 sums, for long chunks.
#include "attention.cuh"

namespace attention_prefill {

using namespace attention;

constexpr int kWarps = 4, kRows = 16 * kWarps;

template <int kDim, class Number> struct Plan {
    using T = Tile<kDim, kDim <= 128 ? 64 : 32, Number>;
    // Outputs of a row that are written at a time: with all 192, a GeForce would have room for one block.
    static constexpr int kPiece = kDim == 192 ? 64 : kDim, kSum = kPiece + 8;
    // Queries that are held in registers pass through the place of the tiles.
    static constexpr int kQueries = kRows * T::kStep, kKept = Queries<kDim>::kHeld ? 0 : kQueries;
    static constexpr int kTiles = kKept + T::kShared, kSums = 4 * kRows * kSum;
    static constexpr int kShared = kTiles > kSums ? kTiles : kSums;
    static_assert(kQueries <= kShared, "queries fit where the tiles will be");
};

// A block's rows: row i is query i / group of the chunk, head i % group of the group.
struct Rows {
    int first, count, group, head, past;

    __device__ int position(int row) const { return past + (first + min(row, count - 1)) / group; }
};

template <int kDim>
__device__ void stage_queries(const float *RESTRICT qkv, int stride, int start, const Rows &rows, float scale,
                              unsigned char *to, int step) {
    constexpr int kEach = kDim / 4;
    for (int i = threadIdx.x; i < kRows * kEach; i += kWarps * 32) {
        int row = i / kEach, d = i % kEach * 4, index = rows.first + row;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < rows.count) {
            int head = rows.head * rows.group + index % rows.group;
            const float *q = qkv + size_t(start + index / rows.group) * stride + size_t(head) * kDim + d;
            v = *reinterpret_cast<const float4 *>(q);
        }
        uint32_t low = pack2(from_float<f16>(v.x * scale), from_float<f16>(v.y * scale));
        uint32_t high = pack2(from_float<f16>(v.z * scale), from_float<f16>(v.w * scale));
        *reinterpret_cast<uint2 *>(to + row * step + d * 2) = make_uint2(low, high);
    }
}

// What the rows of this thread's warp see of the block's tokens.
__device__ inline Sight sight_of(const Rows &rows, int window) {
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, top = warp * 16;
    Sight sight;
    for (int r = 0; r < 2; r++) {
        sight.last[r] = rows.position(top + g + r * 8);
        sight.first[r] = first_seen(sight.last[r], window);
    }
    sight.all_last = rows.position(top);
    sight.any_last = top < rows.count ? rows.position(top + 15) : -1;
    sight.any_first = first_seen(sight.all_last, window);
    sight.all_first = first_seen(rows.position(top + 15), window);
    return sight;
}

// Each warp writes its rows, by way of shared memory, so that 32 neighbouring numbers lie in a warp; `kPiece` of a row
// at a time.
template <int kDim, int kPiece>
__device__ void write(Sums<kDim, false> &sums, const Rows &rows, int start, int heads, float *stage, int step,
                      void *out, float2 *out_scales, int out_kind) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    sums.finish();
    float *own = stage + warp * 16 * step;
#pragma unroll
    for (int first = 0; first < kDim; first += kPiece) {
        if (first > 0) __syncwarp();
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float by = sums.sum[r] > 0.0f ? 1.0f / sums.sum[r] : 0.0f;
#pragma unroll
            for (int j = 0; j < kPiece / 8; j++) {
                const float *two = sums.out[first / 8 + j] + 2 * r;
                *reinterpret_cast<float2 *>(own + (g + r * 8) * step + j * 8 + 2 * t) =
                    make_float2(two[0] * by, two[1] * by);
            }
        }
        __syncwarp();
        for (int i = 0; i < 16 && warp * 16 + i < rows.count; i++) {
            int index = rows.first + warp * 16 + i, head = rows.head * rows.group + index % rows.group;
            for (int d = 0; d < kPiece; d += 32) {
                store_as(out_kind, out, out_scales, size_t(start + index / rows.group), head * kDim + first + d,
                         heads * kDim, own[i * step + d + lane]);
            }
        }
    }
}

// Grid: tiles of rows of the longest chunk, key heads, rows of the step.
template <int kDim, class Number>
__device__ void run(const float *RESTRICT qkv, int stride, int heads, const Cache &cache, const uint32_t *steps,
                    const uint32_t *tables, float scale, float bend, int window, void *out, float2 *out_scales,
                    int out_kind) {
    using P = Plan<kDim, Number>;
    using T = typename P::T;
    DYNAMIC_SHARED(shared);
    Row row = row_at(steps, tables, blockIdx.z);
    int group = heads / cache.kv_heads, all = row.len * group, tiles = (all + kRows - 1) / kRows;
    if (int(blockIdx.x) >= tiles) return;
    int first = (tiles - 1 - int(blockIdx.x)) * kRows;
    Rows rows = {first, min(kRows, all - first), group, int(blockIdx.y), row.context - row.len};

    stage_queries<kDim>(qkv, stride, row.start, rows, scale, shared, T::kStep);
    __syncthreads();
    Queries<kDim> queries(shared + threadIdx.x / 32 * 16 * T::kStep, T::kStep);
    // Tiles come where queries were read from: of 32 keys, so that their bytes lie there too.
    if (Queries<kDim>::kHeld) __syncthreads();
    Sight sight = sight_of(rows, window);
    Span span = {first_seen(rows.position(0), window), rows.position(kRows - 1) + 1, T::kKeys};
    Sums<kDim, false> sums;
    walk<T, BlockTeam, false>(sums, queries, cache, row.table, rows.head, span, sight, bend, shared + P::kKept);
    __syncthreads();
    float *stage = reinterpret_cast<float *>(shared);
    write<kDim, P::kPiece>(sums, rows, row.start, heads, stage, P::kSum, out, out_scales, out_kind);
}

} // namespace attention_prefill

#define PREFILL(name, dim, number)                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
        name(const float *qkv, int stride, int heads, const unsigned char *keys, const unsigned char *values,       \
             const float *key_scales, const float *value_scales, int kv_heads, int block_size,                      \
             const uint32_t *rows, const uint32_t *tables, float scale, float bend, int window, void *out,          \
             float2 *out_scales, int out_kind) {                                                                    \
        wait_for_previous();                                                                                        \
        attention_prefill::run<dim, number>(qkv, stride, heads,                                                     \
                                           {keys, values, key_scales, value_scales, kv_heads, block_size}, rows,    \
                                           tables, scale, bend, window, out, out_scales, out_kind);                 \
    }                                                                                                               \
    EXPORT(name)

PREFILL(attention_prefill_f16_64, 64, f16)
PREFILL(attention_prefill_f16_96, 96, f16)
PREFILL(attention_prefill_f16_128, 128, f16)
PREFILL(attention_prefill_f16_192, 192, f16)
PREFILL(attention_prefill_f16_256, 256, f16)
PREFILL(attention_prefill_i8_64, 64, int8_t)
PREFILL(attention_prefill_i8_96, 96, int8_t)
PREFILL(attention_prefill_i8_128, 128, int8_t)
PREFILL(attention_prefill_i8_192, 192, int8_t)
PREFILL(attention_prefill_i8_256, 256, int8_t)
PREFILL(attention_prefill_e4m3_64, 64, e4m3)
PREFILL(attention_prefill_e4m3_96, 96, e4m3)
PREFILL(attention_prefill_e4m3_128, 128, e4m3)
PREFILL(attention_prefill_e4m3_192, 192, e4m3)
PREFILL(attention_prefill_e4m3_256, 256, e4m3)
