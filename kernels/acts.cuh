// How the inputs of products are written: as floats, halves, or rounded to 8 bits in blocks of 32.
//
// Quantised products multiply whole numbers: each block of 32 inputs is `d * q`, q in -127..127, kept as q and as
// the pair (d, d * sum of q), which weights with an offset need. Rounding is llama.cpp's (q8_1) with d in f32.
#pragma once
#include "common.cuh"

// A warp writes 32 numbers that stand side by side, one per lane: those of row `row`, from column `column` on
// (a multiple of 32). `width` is the length of a row; lanes beyond it write nothing. All lanes have to call.
template <class T>
__device__ inline void store_acts(T *values, float2 *, size_t row, int column, int width, float v) {
    int at = column + threadIdx.x % 32;
    if (at < width) values[row * width + at] = from_float<T>(v);
}

// `width` is a multiple of 32. `scales` has width / 32 pairs a row.
template <>
__device__ inline void store_acts<int8_t>(int8_t *values, float2 *scales, size_t row, int column, int width,
                                          float v) {
    int lane = threadIdx.x % 32;
    float most = warp_max(fabsf(v));
    // The largest of numbers passes over what is none; a model that yields NaN must be seen to.
    float d = __any_sync(kAll, v != v) ? NAN : most / 127.0f;
    int q = d > 0.0f && d < INFINITY ? __float2int_rn(v / d) : 0;
    float sum = warp_sum(float(q));
    values[row * width + column + lane] = int8_t(q);
    if (lane == 0) scales[row * (width / 32) + column / 32] = make_float2(d, d * sum);
}
