// Attention in f32 throughout, for any cache and any head: the plain way.
//
// For caches in f32, for heads that the tensor-core kernels do not take, and for whoever wants to know what
// those should have given. A block takes one query token and as many heads as fill whole pieces of 32 outputs
// (which 8-bit outputs are written in), one head after the other; its four warps go through the head's tokens
// 32 at a time, a lane to a token for the scores and a lane to a number for the sums. Latency limits it: no
// tokens are shared between queries, and nothing is copied ahead.
#include "attention.cuh"

namespace attention_exact {

using namespace attention;

constexpr int kWarps = 4;
// Outputs of a head that a warp's registers hold. Wider heads take a pass each, with the scores computed again.
constexpr int kColumns = 256;

// One head's numbers of a token.
template <class T> __device__ inline float number(const unsigned char *from, size_t slot, int head_dim, int d) {
    return to_float(reinterpret_cast<const T *>(from)[slot * head_dim + d]);
}
template <>
__device__ inline float number<int8_t>(const unsigned char *from, size_t slot, int head_dim, int d) {
    return float(reinterpret_cast<const int8_t *>(from)[slot * head_dim + d]);
}

struct Rules {
    float scale, cap;
    int window;
};

// Shared memory of a block.
struct Places {
    // `[head_dim]`, `[heads of the block][head_dim]`, `[warps][head_dim]`, `[warps]`, `[warps]`, `[warps][32]`.
    float *query, *out, *sums, *most, *sum, *weights;
    uint32_t *slots;

    __device__ Places(unsigned char *shared, int head_dim, int unit) {
        query = reinterpret_cast<float *>(shared);
        out = query + head_dim;
        sums = out + unit * head_dim;
        most = sums + kWarps * head_dim;
        sum = most + kWarps;
        weights = sum + kWarps;
        slots = reinterpret_cast<uint32_t *>(weights + kWarps * 32);
    }
};

// Numbers that a lane has on their way at a time; with more of e4m3, eight blocks' registers do not suffice.
template <class T> constexpr int kTogether = 4;
template <> constexpr int kTogether<e4m3> = 2;

template <class T>
__device__ float score(const Cache &cache, const float *query, uint32_t slot, int head_dim, const Rules &rules) {
    float dot = 0.0f;
#pragma unroll kTogether<T>
    for (int d = 0; d < head_dim; d++) dot = fmaf(query[d], number<T>(cache.keys, slot, head_dim, d), dot);
    if (kHasScales<T>) dot *= cache.key_scales[slot];
    return rules.cap > 0.0f ? rules.cap * tanhf(dot / rules.cap) : dot;
}

// A warp's share of one head's tokens, every fourth run of 32 from `from` on, for outputs from `column` on.
template <class T>
__device__ void look(const Cache &cache, const Row &row, int head, int from, int position, int head_dim, int column,
                     const Rules &rules, const Places &places) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *weights = places.weights + warp * 32, most = -INFINITY, sum = 0.0f;
    uint32_t *slots = places.slots + warp * 32;
    float out[kColumns / 32];
    for (float &v : out) v = 0.0f;
    for (int at = from + warp * 32; at <= position; at += kWarps * 32) {
        int token = at + lane, count = min(32, position + 1 - at);
        uint32_t slot = 0;
        float s = -INFINITY;
        if (lane < count) {
            slot = slot_in(cache, row.table[token / cache.block_size], head, token % cache.block_size);
            s = score<T>(cache, places.query, slot, head_dim, rules);
        }
        float higher = fmaxf(most, warp_max(s)), fade = expf(most - higher);
        float p = lane < count ? expf(s - higher) : 0.0f;
        sum = sum * fade + warp_sum(p);
        most = higher;
        if (kHasScales<T> && lane < count) p *= cache.value_scales[slot];
        weights[lane] = p;
        slots[lane] = slot;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kColumns / 32; i++) {
            int d = column + i * 32 + lane;
            if (d >= head_dim) continue;
            float v = out[i] * fade;
            for (int j = 0; j < count; j++) v = fmaf(weights[j], number<T>(cache.values, slots[j], head_dim, d), v);
            out[i] = v;
        }
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < kColumns / 32; i++) {
        int d = column + i * 32 + lane;
        if (d < head_dim) places.sums[warp * head_dim + d] = out[i];
    }
    if (lane == 0) {
        places.most[warp] = most;
        places.sum[warp] = sum;
    }
}

__device__ inline float joined(const Places &places, int head_dim, int d) {
    float most = -INFINITY, sum = 0.0f, out = 0.0f;
    for (int w = 0; w < kWarps; w++) most = fmaxf(most, places.most[w]);
    for (int w = 0; w < kWarps; w++) {
        if (!(places.sum[w] > 0.0f)) continue;
        float weight = expf(places.most[w] - most);
        sum += weight * places.sum[w];
        out += weight * places.sums[w * head_dim + d];
    }
    return sum > 0.0f ? out / sum : 0.0f;
}

// Grid: query tokens of the longest row, units of heads, rows. A row without tokens gets zeros at its first
// place if `padded`, else nothing.
template <class T>
__device__ void run(const float *RESTRICT qkv, int stride, int heads, int head_dim, int unit, const Cache &cache,
                    const uint32_t *rows, const uint32_t *tables, const Rules &rules, int padded, void *out,
                    float2 *out_scales, int out_kind) {
    DYNAMIC_SHARED(shared);
    Places places(shared, head_dim, unit);
    Row row = row_at(rows, tables, blockIdx.z);
    int index = blockIdx.x;
    if (index >= (padded ? max(row.len, 1) : row.len)) return;
    int position = row.context - row.len + index, group = heads / cache.kv_heads;
    if (row.context == 0) position = -1;
    int first_head = blockIdx.y * unit, count = min(unit, heads - first_head), from = first_seen(position, rules.window);
    size_t token = size_t(row.start) + index;
    for (int h = 0; h < count; h++) {
        const float *q = qkv + token * stride + size_t(first_head + h) * head_dim;
        if (position >= 0)
            for (int d = threadIdx.x; d < head_dim; d += kWarps * 32) places.query[d] = q[d] * rules.scale;
        __syncthreads();
        for (int column = 0; column < head_dim; column += kColumns)
            look<T>(cache, row, (first_head + h) / group, from, position, head_dim, column, rules, places);
        __syncthreads();
        for (int d = threadIdx.x; d < head_dim; d += kWarps * 32)
            places.out[h * head_dim + d] = joined(places, head_dim, d);
        __syncthreads();
    }
    int lane = threadIdx.x % 32, width = heads * head_dim;
    for (int piece = threadIdx.x / 32; piece * 32 < count * head_dim; piece += kWarps) {
        int d = piece * 32 + lane;
        float v = d < count * head_dim ? places.out[d] : 0.0f;
        store_as(out_kind, out, out_scales, token, first_head * head_dim + piece * 32, width, v);
    }
}

} // namespace attention_exact

#define EXACT(name, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(128, 8)                                                            \
        name(const float *qkv, int stride, int heads, int head_dim, int unit, const unsigned char *keys,            \
             const unsigned char *values, const float *key_scales, const float *value_scales, int kv_heads,         \
             int block_size, const uint32_t *rows, const uint32_t *tables, float scale, float cap, int window,      \
             int padded, void *out, float2 *out_scales, int out_kind) {                                             \
        wait_for_previous();                                                                                        \
        attention_exact::run<type>(qkv, stride, heads, head_dim, unit,                                              \
                                   {keys, values, key_scales, value_scales, kv_heads, block_size}, rows, tables,    \
                                   {scale, cap, window}, padded, out, out_scales, out_kind);                        \
    }                                                                                                               \
    EXPORT(name)

EXACT(attention_exact_f32, float)
EXACT(attention_exact_f16, f16)
EXACT(attention_exact_i8, int8_t)
EXACT(attention_exact_e4m3, e4m3)
