// What happens to rows number by number: rounding to what a product reads, biases, gated activations, soft caps.
//
// Each thread has four numbers, a block 512 side by side; all are limited by memory, or at a few rows by their
// launch. Exponentials and tangents are the accurate ones: they hide behind the loads. Gates: SwiGLU and GEGLU
// (arXiv:2002.05202), GELU in its tanh form (arXiv:1606.08415). On an H100 gates take 84 % of its bandwidth with
// 512 rows of 14,336, and 3 us for one. Knows no layer.
#include "rows.cuh"

namespace rows {

constexpr int kThreads = 128, kPerBlock = 4 * kThreads;

// The block's piece of numbers that lie end to end: how many are left of it.
__device__ inline int piece(size_t total, size_t &start) {
    start = size_t(blockIdx.x) * kPerBlock;
    return int(min(total - start, size_t(kPerBlock)));
}

// x -> values, `total` numbers. Rows need not be told apart: blocks of 32 never cross from one to the next.
template <class T>
__device__ inline void convert(const float *x, size_t total, bool whole, T *values, float2 *scales) {
    size_t start;
    int left = piece(total, start), at = threadIdx.x * 4;
    store4<T>(values + start, scales + start / 32, at, left, whole, load4(x + start, at, left, whole));
}

__device__ inline float capped(float v, float cap) { return cap * tanhf(v / cap); }

// values[row] = activation(gate) * up, gate and up side by side in a row of gate_up.
template <class T>
__device__ inline void gated(int gelu, const float *gate_up, int width, bool whole, T *values, float2 *scales) {
    size_t row = blockIdx.x;
    int at = blockIdx.y * kPerBlock + threadIdx.x * 4;
    const float *gate = gate_up + row * 2 * width;
    float4 g = load4(gate, at, width, whole), u = load4(gate + width, at, width, whole);
    float4 a = make_float4(activated(gelu, g.x), activated(gelu, g.y), activated(gelu, g.z), activated(gelu, g.w));
    store4<T>(values + row * width, scales + row * (width / 32), at, width, whole, times4(a, u));
}

} // namespace rows

#define ROWS(kind, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        rows_convert_##kind(const float *x, size_t total, int whole, T *values, float2 *scales) {                \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        rows::convert<T>(x, total, whole != 0, values, scales);                                                  \
    }                                                                                                            \
    EXPORT(rows_convert_##kind)                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        rows_gated_##kind(int gelu, const float *gate_up, int width, int whole, T *values, float2 *scales) {     \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        rows::gated<T>(gelu, gate_up, width, whole != 0, values, scales);                                        \
    }                                                                                                            \
    EXPORT(rows_gated_##kind)

ROWS(f32, float)
ROWS(f16, f16)
ROWS(bf16, bf16)
ROWS(q8, int8_t)
#undef ROWS

// Every row of x += bias.
extern "C" __global__ void __launch_bounds__(128)
    rows_add_bias(float *x, const float *bias, int width, int whole) {
    let_next_begin();
    wait_for_previous();
    float *row = x + size_t(blockIdx.x) * width;
    int at = blockIdx.y * rows::kPerBlock + threadIdx.x * 4;
    float4 sum = rows::add4(rows::load4(row, at, width, whole != 0), rows::load4(bias, at, width, whole != 0));
    rows::store4<float>(row, nullptr, at, width, whole != 0, sum);
}
EXPORT(rows_add_bias)

// x = cap * tanh(x / cap), `total` numbers.
extern "C" __global__ void __launch_bounds__(128) rows_soft_cap(float *x, size_t total, float cap, int whole) {
    let_next_begin();
    wait_for_previous();
    size_t start;
    int left = rows::piece(total, start), at = threadIdx.x * 4;
    float4 v = rows::load4(x + start, at, left, whole != 0);
    v = make_float4(rows::capped(v.x, cap), rows::capped(v.y, cap), rows::capped(v.z, cap), rows::capped(v.w, cap));
    rows::store4<float>(x + start, nullptr, at, left, whole != 0, v);
}
EXPORT(rows_soft_cap)
