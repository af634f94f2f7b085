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

// The largest magnitude of four numbers, and over groups of `kLanes` lanes.
__device__ inline float largest4(float4 v) { return larger(larger(v.x, v.y), larger(v.z, v.w)); }

template <int kLanes> __device__ inline float largest(float most) {
    for (int by = kLanes / 2; by > 0; by >>= 1) most = larger(most, __shfl_xor_sync(kAll, most, by));
    return most;
}

// The smallest number that has all its bits, and whose inverse is a number.
constexpr float kSmallest = 1.17549435e-38f;

// v / d to the nearest, where d is the largest magnitude / 127.
__device__ inline int round8(float v, float d) { return d == 0.0f ? 0 : __float2int_rn(v / d); }

// The low bytes of four numbers, the first in the lowest.
__device__ inline uint32_t bytes_of4(int a, int b, int c, int d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

__device__ inline void store_bytes(int8_t *row, int at, int width, bool whole, uint32_t bytes) {
    if (whole && at < width) {
        *reinterpret_cast<uint32_t *>(row + at) = bytes;
    } else {
        for (int i = 0; i < 4; i++)
            if (at + i < width) row[at + i] = int8_t(bytes >> 8 * i);
    }
}

// Numbers rounded to 8 bits: four of a block of 32, and the block's pair (acts.cuh).
struct Rounded {
    uint32_t bytes;
    float2 scale;
};

// Eight lanes hold a block. One division for all of them, without a branch for numbers out of the ordinary.
__device__ inline Rounded round32(float4 v) {
    float d = largest<8>(largest4(v)) * (1.0f / 127.0f), steps = d < kSmallest ? 0.0f : inverse(d);
    v = scale4(v, steps);
    uint32_t bytes =
        bytes_of4(__float2int_rn(v.x), __float2int_rn(v.y), __float2int_rn(v.z), __float2int_rn(v.w));
    int sum = __dp4a(int(bytes), 0x01010101, 0);
    for (int by = 4; by > 0; by >>= 1) sum += __shfl_xor_sync(kAll, sum, by);
    return {bytes, make_float2(d, d * float(sum))};
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

template <>
__device__ inline void store4<int8_t>(int8_t *row, float2 *scales, int at, int width, bool whole, float4 v) {
    Rounded to = round32(v);
    store_bytes(row, at, width, whole, to.bytes);
    if (at < width && at % 32 == 0) scales[at / 32] = to.scale;
}

} // namespace rows
