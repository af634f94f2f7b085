// What a head of queries, keys or values goes through between its projection and attention, and how it is kept.
//
// Rotary position embedding (RoFormer, arXiv:2104.09864), pairs as in the Hugging Face checkpoints: value i of a head
// turns with value i + half. A warp works on a head in shared memory, since partners of a pair lie in different lanes
// for most head sizes. Used by a launch ahead of attention (rope.cu), and by decode attention itself
// (attention_decode.cu). Knows no grid: which head is whose, the kernels say.
#pragma once
#include "rows.cuh"

namespace rope {

using namespace rows;

struct CosSin {
    float cos, sin;
};

// Of any angle, to two units in the last place. The nearest multiple of pi / 2 is taken away in double precision, in two
// parts: what the first leaves is exact, since an angle has 24 bits. Sine and cosine of the rest are Taylor series.
__device__ inline CosSin cos_sin(float angle) {
    double quarters = rint(double(angle) * 0.6366197723675814);
    double rest = fma(-quarters, 1.5707963267948966, double(angle));
    float r = float(fma(-quarters, 6.123233995736766e-17, rest)), x = r * r;
    float s = __fmaf_rn(x, __fmaf_rn(x, __fmaf_rn(x, 1 / 362880.0f, -1 / 5040.0f), 1 / 120.0f), -1 / 6.0f);
    float c = __fmaf_rn(x, __fmaf_rn(x, __fmaf_rn(x, -1 / 3628800.0f, 1 / 40320.0f), -1 / 720.0f), 1 / 24.0f);
    s = __fmaf_rn(r * x, s, r), c = __fmaf_rn(x * x, c, __fmaf_rn(x, -0.5f, 1.0f));
    unsigned quarter = unsigned(int64_t(quarters));
    float cos = quarter % 2 ? s : c, sin = quarter % 2 ? c : s;
    return {(quarter + 1) % 4 < 2 ? cos : -cos, quarter % 4 < 2 ? sin : -sin};
}

// The angles of a step's tokens, `half` each: position * frequency rounded to f32, and sine and cosine of that, times
// `factor`.
struct Turns {
    const uint32_t *positions, *longs;
    const float *inv_freq, *long_inv_freq;
    int half;
    float factor;
    // `[tokens][half]`.
    float *cos, *sin;

    __device__ void put(size_t token, int i) const {
        bool is_long = long_inv_freq && longs[token] != 0;
        CosSin turn = cos_sin(float(positions[token]) * (is_long ? long_inv_freq : inv_freq)[i]);
        cos[token * half + i] = turn.cos * factor;
        sin[token * half + i] = turn.sin * factor;
    }
};

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
    float most = 0.0f;
    for (int at = lane * 4; at < dim; at += 128)
        most = larger(most, largest4(*reinterpret_cast<const float4 *>(head + at)));
    float d = largest<32>(most) / 127.0f;
    for (int at = lane * 4; at < dim; at += 128) {
        float4 v = *reinterpret_cast<const float4 *>(head + at);
        store_bytes(cell, at, dim, whole,
                    bytes_of4(round8(v.x, d), round8(v.y, d), round8(v.z, d), round8(v.w, d)));
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
#pragma unroll 1
    for (int i = lane; i < half; i += 32) {
        float a = head[i] * scale, b = head[i + half] * scale, c = cos[i], s = sin[i];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
#pragma unroll 1
    for (int i = 2 * half + lane; i < dim; i += 32) head[i] *= scale;
    __syncwarp();
}

// Queries after turning, by their position: 1 + beta * ln(1 + floor(position / period)).
__device__ inline void sharpen(float *head, float beta, unsigned periods, int dim) {
    float factor = 1.0f + beta * log1pf(float(periods));
    for (int i = threadIdx.x % 32; i < dim; i += 32) head[i] *= factor;
    __syncwarp();
}

// What a layer does to the heads of a step's tokens: `heads` of queries, then `kv_heads` of keys, as many of values.
struct Rules {
    // Null if there is none: of all heads; of a head of queries, of keys.
    const float *bias, *q_norm, *k_norm;
    float eps;
    // Of all tokens, `half` for each.
    const float *cos, *sin;
    int half;
    // Null if queries are not scaled by their position.
    const uint32_t *positions;
    float beta;
    unsigned period;
    int heads, kv_heads;

    __device__ bool is_query(int h) const { return h < heads; }
    __device__ bool is_value(int h) const { return h >= heads + kv_heads; }
};

// Head `h` of `token` as attention takes it, at `head` in shared memory; as projected it lies at `from`, which may be
// the same place. `cos`, `sin`: of this token. All lanes call.
__device__ inline void prepare_head(const Rules &rules, float *head, const float *from, int h, size_t token,
                                    const float *cos, const float *sin, int dim, bool whole) {
    bool query = rules.is_query(h), value = rules.is_value(h);
    const float *bias = rules.bias ? rules.bias + size_t(h) * dim : nullptr;
    const float *weight = value ? nullptr : query ? rules.q_norm : rules.k_norm;
    float squares = stage(head, from, bias, weight, dim, whole);
    if (value) return;
    float scale = weight ? 1.0f / sqrtf(warp_sum(squares) / float(dim) + rules.eps) : 1.0f;
    turn(head, scale, cos, sin, rules.half, dim);
    if (query && rules.positions) sharpen(head, rules.beta, rules.positions[token] / rules.period, dim);
}

} // namespace rope
