// How row-wise kernels walk rows: four numbers per thread and step, so that a warp reads 512 bytes at a time.
//
// A row of f32 is read as float4, and written in the form that the next product wants (acts.cuh) as one store
// of 16, 8 or 4 bytes per thread. Rows that do not begin on 16 bytes, or whose width is no multiple of 4, go
// number by number through the same functions: `whole`, the same for all threads of a launch, says which.
#pragma once
#include "acts.cuh"

namespace rows {

// Numbers `at` to `at + 3` of a row; those from `width` on are 0.
__device__ inline float4 load4(const float *row, int at, int width, bool whole) {
    if (whole) return at < width ? *reinterpret_cast<const float4 *>(row + at) : make_float4(0, 0, 0, 0);
    return make_float4(at < width ? row[at] : 0.0f, at + 1 < width ? row[at + 1] : 0.0f,
                       at + 2 < width ? row[at + 2] : 0.0f, at + 3 < width ? row[at + 3] : 0.0f);
}

__device__ inline float4 add4(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ inline float4 times4(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ inline float4 scale4(float4 a, float by) {
    return make_float4(a.x * by, a.y * by, a.z * by, a.w * by);
}

__device__ inline float squares4(float4 a) {
    return __fmaf_rn(a.x, a.x, a.y * a.y) + __fmaf_rn(a.z, a.z, a.w * a.w);
}

// SwiGLU's and GEGLU's. Both are x * sigmoid(y): (1 + tanh(z)) / 2 = sigmoid(2 z).
__device__ inline float activated(int gelu, float x) {
    float y = gelu ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
    return x / (1.0f + expf(-y));
}

// The largest magnitude over groups of `kLanes` lanes. Compared as bits, whose order is that of magnitudes and
// in which NaN is the largest: a NaN is handed on, where fmaxf would drop it.
__device__ inline unsigned magnitude(float v) { return __float_as_uint(v) & 0x7fffffffu; }

__device__ inline unsigned magnitude4(float4 v) {
    return max(max(magnitude(v.x), magnitude(v.y)), max(magnitude(v.z), magnitude(v.w)));
}

template <int kLanes> __device__ inline float largest(unsigned magnitudes) {
    for (int by = kLanes / 2; by > 0; by >>= 1) {
        unsigned other = __shfl_xor_sync(kAll, magnitudes, by);
        magnitudes = max(magnitudes, other);
    }
    return __uint_as_float(magnitudes);
}

// The smallest number that has all its bits, and whose inverse is a number.
constexpr float kSmallest = 1.17549435e-38f;

// v / d to the nearest, where d is the largest magnitude / 127.
__device__ inline int round8(float v, float d) { return d == 0.0f ? 0 : __float2int_rn(v / d); }

__device__ inline void store_bytes(int8_t *row, int at, int width, bool whole, const int q[4]) {
    if (whole && at < width) {
        *reinterpret_cast<uint32_t *>(row + at) =
            (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | uint32_t(q[3]) << 24;
    } else {
        for (int i = 0; i < 4; i++)
            if (at + i < width) row[at + i] = int8_t(q[i]);
    }
}

// Writes numbers `at` to `at + 3` of a row of `width`; those from `width` on are left out. All lanes of a warp
// have to call together, lane by lane side by side, the warp's first number at a multiple of 32. `scales`: the
// row's pairs, if its form has them; its width is then a multiple of 32.
template <class T>
__device__ inline void store4(T *row, float2 *, int at, int width, bool whole, float4 v) {
    static_assert(sizeof(T) == 2, "half precision");
    T h[4] = {from_float<T>(v.x), from_float<T>(v.y), from_float<T>(v.z), from_float<T>(v.w)};
    if (whole && at < width) {
        *reinterpret_cast<uint2 *>(row + at) = make_uint2(pack2(h[0], h[1]), pack2(h[2], h[3]));
    } else {
        for (int i = 0; i < 4; i++)
            if (at + i < width) row[at + i] = h[i];
    }
}

template <>
__device__ inline void store4<float>(float *row, float2 *, int at, int width, bool whole, float4 v) {
    if (whole && at < width) {
        *reinterpret_cast<float4 *>(row + at) = v;
    } else {
        float all[4] = {v.x, v.y, v.z, v.w};
        for (int i = 0; i < 4; i++)
            if (at + i < width) row[at + i] = all[i];
    }
}

template <>
__device__ inline void store4<e4m3>(e4m3 *row, float2 *, int at, int width, bool whole, float4 v) {
    uint32_t four = e4m3_of4(v);
    if (whole && at < width) {
        *reinterpret_cast<uint32_t *>(row + at) = four;
    } else {
        for (int i = 0; i < 4; i++)
            if (at + i < width) row[at + i] = {uint8_t(four >> 8 * i)};
    }
}

// Eight lanes hold a block of 32. One division for all of them: each has a branch for numbers out of the ordinary.
template <>
__device__ inline void store4<int8_t>(int8_t *row, float2 *scales, int at, int width, bool whole, float4 v) {
    float d = largest<8>(magnitude4(v)) * (1.0f / 127.0f), steps = d < kSmallest ? 0.0f : 1.0f / d;
    v = scale4(v, steps);
    int q[4] = {__float2int_rn(v.x), __float2int_rn(v.y), __float2int_rn(v.z), __float2int_rn(v.w)};
    int sum = q[0] + q[1] + (q[2] + q[3]);
    for (int by = 4; by > 0; by >>= 1) sum += __shfl_xor_sync(kAll, sum, by);
    store_bytes(row, at, width, whole, q);
    if (at < width && at % 32 == 0) scales[at / 32] = make_float2(d, d * float(sum));
}

} // namespace rows
