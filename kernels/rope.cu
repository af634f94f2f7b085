// Queries, keys and values between their projection and attention: bias, head norms, rotation, cache.
//
// Rotary position embedding (RoFormer, arXiv:2104.09864), pairs as in the Hugging Face checkpoints: value i of
// a head turns with value i + half. Angles are computed once per step and kind of layer, position * frequency
// rounded to f32 and then the accurate sine and cosine over the full range (a fast sine is off by whole turns
// at long contexts). Everything that a head goes through on its way is one launch, a warp per head of a token:
// it reads the head once, keeps it in shared memory (partners of a pair lie in different lanes for most head
// sizes), and writes queries back in place, keys and values to the paged cache (kv.rs). Limited by memory, 4
// bytes read per number and 4, 2 or 1 written; at a few tokens by the launch and two loads after one another
// (heads, then angles). On an H100, with 32 heads and 8 key heads of 128: 12 us for 512 tokens, 4 us for one.
// Knows no model, no sequence.
#include "rows.cuh"

namespace rope {

using namespace rows;

constexpr int kWarps = 4;

// One head's way into a cache without scales. All lanes call.
template <class T>
__device__ inline void keep(T *cell, float *, const float *head, int dim, bool whole) {
    for (int at = threadIdx.x % 32 * 4; at < dim; at += 128) {
        float4 v = *reinterpret_cast<const float4 *>(head + at);
        store4<T>(cell, nullptr, at, dim, whole, v);
    }
}

// In whole numbers of 8 bits, with one scale.
template <>
__device__ inline void keep<int8_t>(int8_t *cell, float *scale, const float *head, int dim, bool whole) {
    int lane = threadIdx.x % 32;
    unsigned most = 0;
    for (int at = lane * 4; at < dim; at += 128)
        most = max(most, magnitude4(*reinterpret_cast<const float4 *>(head + at)));
    float d = largest<32>(most) / 127.0f;
    for (int at = lane * 4; at < dim; at += 128) {
        float4 v = *reinterpret_cast<const float4 *>(head + at);
        int q[4] = {round8(v.x, d), round8(v.y, d), round8(v.z, d), round8(v.w, d)};
        store_bytes(cell, at, dim, whole, q);
    }
    if (lane == 0) *scale = d;
}

// head = (bias added, times `weight`) in shared memory, 0 beyond `dim` to the next multiple of 4; returns this
// lane's part of the squares before the weight.
__device__ inline float stage(float *head, const float *from, const float *bias, const float *weight, int dim,
                              bool whole) {
    float squares = 0.0f;
    for (int at = threadIdx.x % 32 * 4; at < dim; at += 128) {
        float4 v = load4(from, at, dim, whole);
        if (bias) v = add4(v, load4(bias, at, dim, whole));
        squares += squares4(v);
        if (weight) v = times4(v, load4(weight, at, dim, whole));
        *reinterpret_cast<float4 *>(head + at) = v;
    }
    __syncwarp();
    return squares;
}

// Scales a head and turns its first 2 * half values.
__device__ inline void turn(float *head, float scale, const float *cos, const float *sin, int half, int dim) {
    int lane = threadIdx.x % 32;
    for (int i = lane; i < half; i += 32) {
        float a = head[i] * scale, b = head[i + half] * scale;
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
    }
    for (int i = 2 * half + lane; i < dim; i += 32) head[i] *= scale;
    __syncwarp();
}

// Queries after turning, by their position: 1 + beta * ln(1 + floor(position / period)).
__device__ inline void sharpen(float *head, float beta, unsigned periods, int dim) {
    float factor = 1.0f + beta * log1pf(float(periods));
    for (int i = threadIdx.x % 32; i < dim; i += 32) head[i] *= factor;
    __syncwarp();
}

struct Heads {
    float *qkv;
    const float *bias, *q_norm, *k_norm;
    float eps;
    const float *cos, *sin;
    int half;
    const uint32_t *slots;
    // Slots, slots per block.
    unsigned room, block_size;
    int heads, kv_heads, dim;
    bool whole;
    // Null if queries are not scaled by their position.
    const uint32_t *positions;
    float beta;
    unsigned period;
};

// A warp does one head of a token; a token without a slot of the cache is left alone.
template <class T> __device__ inline void prepare(const Heads &a, T *keys, T *values, float *scales) {
    DYNAMIC_SHARED(shared);
    size_t token = blockIdx.x;
    int warp = threadIdx.x / 32, all = a.heads + 2 * a.kv_heads, h = blockIdx.y * kWarps + warp;
    unsigned slot = a.slots[token];
    if (h >= all || slot >= a.room) return;
    float *head = reinterpret_cast<float *>(shared) + warp * ((a.dim + 3) / 4 * 4);
    float *from = a.qkv + (token * all + h) * a.dim;
    bool query = h < a.heads, value = h >= a.heads + a.kv_heads;
    const float *weight = value ? nullptr : query ? a.q_norm : a.k_norm;
    float squares = stage(head, from, a.bias ? a.bias + size_t(h) * a.dim : nullptr, weight, a.dim, a.whole);
    if (!value) {
        float scale = weight ? 1.0f / sqrtf(warp_sum(squares) / float(a.dim) + a.eps) : 1.0f;
        turn(head, scale, a.cos + token * a.half, a.sin + token * a.half, a.half, a.dim);
    }
    if (query && a.positions) sharpen(head, a.beta, a.positions[token] / a.period, a.dim);
    if (query) return keep<float>(from, nullptr, head, a.dim, a.whole);
    int kv_head = (h - a.heads) % a.kv_heads;
    size_t cell = (size_t(slot / a.block_size) * a.kv_heads + kv_head) * a.block_size + slot % a.block_size;
    size_t scale_at = value ? size_t(a.room) * a.kv_heads + cell : cell;
    keep<T>((value ? values : keys) + cell * a.dim, scales + scale_at, head, a.dim, a.whole);
}

// Norms all queries of a token as one row, or all its keys (blockIdx.y), in place.
__device__ inline void norm_token(float *row, const float *weight, float eps, int width, bool whole) {
    DYNAMIC_SHARED(shared);
    float squares = 0.0f;
    int first = threadIdx.x * 4, step = blockDim.x * 4;
    for (int at = first; at < width; at += step) squares += squares4(load4(row, at, width, whole));
    float scale = 1.0f / sqrtf(block_sum(squares, reinterpret_cast<float *>(shared)) / float(width) + eps);
    for (int at = first; at < width; at += step) {
        float4 v = scale4(load4(row, at, width, whole), scale);
        store4<float>(row, nullptr, at, width, whole, times4(v, load4(weight, at, width, whole)));
    }
}

} // namespace rope

extern "C" __global__ void __launch_bounds__(256)
    rope_norm_tokens(float *qkv, const float *q_norm, const float *k_norm, float eps, size_t stride, int queries,
                     int keys, int whole) {
    let_next_begin();
    wait_for_previous();
    float *row = qkv + blockIdx.x * stride;
    if (blockIdx.y == 0) return rope::norm_token(row, q_norm, eps, queries, whole != 0);
    rope::norm_token(row + queries, k_norm, eps, keys, whole != 0);
}
EXPORT(rope_norm_tokens)

// cos and sin, [tokens][half]: of position * frequency, times `factor`. One thread each.
extern "C" __global__ void __launch_bounds__(128)
    rope_angles(const uint32_t *positions, const uint32_t *longs, const float *inv_freq,
                const float *long_inv_freq, int half, float factor, size_t total, float *cos_out, float *sin_out) {
    let_next_begin();
    wait_for_previous();
    size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= total) return;
    size_t token = at / half, i = at % half;
    bool is_long = long_inv_freq && longs[token] != 0;
    float angle = float(positions[token]) * (is_long ? long_inv_freq : inv_freq)[i];
    cos_out[at] = cosf(angle) * factor;
    sin_out[at] = sinf(angle) * factor;
}
EXPORT(rope_angles)

#define PREPARE(kind, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        rope_prepare_##kind(float *qkv, const float *bias, const float *q_norm, const float *k_norm, float eps,  \
                            const float *cos, const float *sin, int half, const uint32_t *slots, unsigned room,  \
                            unsigned block_size, int heads, int kv_heads, int dim, int whole, T *keys,           \
                            T *values, float *scales, const uint32_t *positions, float beta, unsigned period) {  \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        rope::Heads a = {qkv, bias, q_norm, k_norm, eps, cos, sin, half, slots, room,                            \
                         block_size, heads, kv_heads, dim, whole != 0, positions, beta, period};                 \
        rope::prepare<T>(a, keys, values, scales);                                                               \
    }                                                                                                            \
    EXPORT(rope_prepare_##kind)

PREPARE(f32, float)
PREPARE(f16, f16)
PREPARE(i8, int8_t)
PREPARE(e4m3, e4m3)
#undef PREPARE
