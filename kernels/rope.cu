// Queries, keys and values between their projection and attention: bias, head norms, rotation, cache.
//
// What a head goes through is in rope.cuh. Angles are computed once per step and kind of layer, those of one kind by the
// embedding (embed.cu): the accurate sine and cosine over the full range (a fast sine is off by whole turns at long
// contexts). Everything that a head goes through on its way is one launch, a warp per head of a token:
// it reads the head once, and writes queries back in place, keys and values to the paged cache (kv.rs). Steps that only
// decode mostly go without it: their attention does the same (attention_decode.cu). Limited by memory, 4
// bytes read per number and 4, 2 or 1 written; at a few tokens by the launch and two loads after one another
// (heads, then angles). On an H100, with 32 heads and 8 key heads of 128: 12 us for 512 tokens, 4 us for one.
// Knows no model, no sequence.
#include "rope.cuh"

namespace rope {

constexpr int kWarps = 4;

// Where a step's heads come from, and where keys and values go.
struct Places {
    float *qkv;
    const uint32_t *slots;
    // Slots, slots per block.
    unsigned room, block_size;
    int dim;
    bool whole;
};

// A warp does one head of a token; a token without a slot of the cache is left alone.
template <class T>
__device__ inline void prepare(const Rules &rules, const Places &a, T *keys, T *values, float *scales) {
    DYNAMIC_SHARED(shared);
    size_t token = blockIdx.x;
    int warp = threadIdx.x / 32, all = rules.heads + 2 * rules.kv_heads, h = blockIdx.y * kWarps + warp;
    unsigned slot = a.slots[token];
    if (h >= all || slot >= a.room) return;
    float *head = reinterpret_cast<float *>(shared) + warp * ((a.dim + 3) / 4 * 4);
    float *from = a.qkv + (token * all + h) * a.dim;
    const float *cos = rules.cos + token * rules.half, *sin = rules.sin + token * rules.half;
    prepare_head(rules, head, from, h, token, cos, sin, a.dim, a.whole);
    if (rules.is_query(h)) return keep<float>(from, nullptr, head, a.dim, a.whole);
    bool value = rules.is_value(h);
    int kv_head = (h - rules.heads) % rules.kv_heads;
    size_t cell = (size_t(slot / a.block_size) * rules.kv_heads + kv_head) * a.block_size + slot % a.block_size;
    size_t scale_at = value ? size_t(a.room) * rules.kv_heads + cell : cell;
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

// The angles of `tokens` tokens, one thread each.
extern "C" __global__ void __launch_bounds__(128)
    rope_angles(const uint32_t *positions, const uint32_t *longs, const float *inv_freq, const float *long_inv_freq,
                int half, float factor, float *cos, float *sin, size_t tokens) {
    let_next_begin();
    wait_for_previous();
    rope::Turns turns = {positions, longs, inv_freq, long_inv_freq, half, factor, cos, sin};
    size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < tokens * half) turns.put(at / half, int(at % half));
}
EXPORT(rope_angles)

#define PREPARE(kind, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        rope_prepare_##kind(float *qkv, const float *bias, const float *q_norm, const float *k_norm, float eps,  \
                            const float *cos, const float *sin, int half, const uint32_t *positions, float beta, \
                            unsigned period, const uint32_t *slots, unsigned room, unsigned block_size, int heads,\
                            int kv_heads, int dim, int whole, T *keys, T *values, float *scales) {               \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        rope::Rules rules = {bias, q_norm, k_norm, eps, cos, sin, half, positions, beta, period, heads, kv_heads};\
        rope::Places places = {qkv, slots, room, block_size, dim, whole != 0};                                   \
        rope::prepare<T>(rules, places, keys, values, scales);                                                   \
    }                                                                                                            \
    EXPORT(rope_prepare_##kind)

PREPARE(f32, float)
PREPARE(f16, f16)
PREPARE(i8, int8_t)
PREPARE(e4m3, e4m3)
#undef PREPARE
