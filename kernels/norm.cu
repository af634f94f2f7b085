// RMS norm (arXiv:1910.07467), alone or together with the join of a branch to the residual stream before it.
//
// One block per row; a row is read once and kept in registers, up to 8 x float4 per thread, so that the sum of
// squares costs no second pass. The join, the norm of the branch itself where a model has one, the norm of the
// sum, the product with the weight and the rounding to what the next product reads are one launch. Limited by
// memory: 8 bytes read and 4 written per number of a join, plus the output; at a few rows by the launch and the
// latency of one load and one or two block sums, which is why weights are fetched before the sums are waited
// for, and few rows get blocks as wide as may be. On an H100, rows of 4,096: 10 us for 512 rows, 4 to 5 us for one. Sums
// in f32, in the order of the threads: the same numbers every time. Knows no layer.
//
// Few rows are normed without their scale (norm.cuh), by the product before where it has a kernel for that, and else
// here: a warp for each piece of a row, none of which waits for another.
#include "norm.cuh"

// Not `norm`, which is a function of CUDA's.
namespace norms {

using namespace rows;

// 1 / rms of a row from each thread's part of its squares.
__device__ inline float one_over_rms(float squares, int width, float eps, float *scratch) {
    return 1.0f / sqrtf(block_sum(squares, scratch) / float(width) + eps);
}

// v += branch, or its norm times `weight`; `v` holds row `x` afterwards, and so does `x`.
template <int kKeep>
__device__ inline void join(float4 v[kKeep], float *x, const float *branch, const float *weight, float eps,
                            int width, bool whole, float *scratch) {
    float4 b[kKeep];
    float squares = 0.0f;
    int first = threadIdx.x * 4, step = blockDim.x * 4;
#pragma unroll
    for (int i = 0; i < kKeep; i++) {
        b[i] = load4(branch, first + i * step, width, whole);
        squares += squares4(b[i]);
    }
    float scale = weight ? one_over_rms(squares, width, eps, scratch) : 1.0f;
#pragma unroll
    for (int i = 0; i < kKeep; i++) {
        int at = first + i * step;
        if (weight) b[i] = times4(scale4(b[i], scale), load4(weight, at, width, whole));
        v[i] = add4(load4(x, at, width, whole), b[i]);
        store4<float>(x, nullptr, at, width, whole, v[i]);
    }
}

// out[row] = norm(x[row]) * weight, or of x[pick[row]]; with a branch, x[row] += branch[row] first. Without
// `values`, the join is all. A row picked that is not one of x's `rows` gives NaN.
template <class T, int kKeep>
__device__ inline void row(float *x, const uint32_t *pick, unsigned rows, const float *branch,
                           const float *branch_weight, float branch_eps, const float *weight, float eps,
                           int width, bool whole, T *values, float2 *scales) {
    DYNAMIC_SHARED(shared);
    float *scratch = reinterpret_cast<float *>(shared);
    size_t row = blockIdx.x, from = pick ? pick[row] : row;
    int first = threadIdx.x * 4, step = blockDim.x * 4;
    float4 v[kKeep], w[kKeep];
    float *x_row = x + from * width;
    if (branch) {
        join<kKeep>(v, x_row, branch + row * width, branch_weight, branch_eps, width, whole, scratch);
        if (!values) return;
    } else {
#pragma unroll
        for (int i = 0; i < kKeep; i++)
            v[i] = from < rows ? load4(x_row, first + i * step, width, whole) : make_float4(NAN, NAN, NAN, NAN);
    }
    // Twice 8 x float4 would not fit into the registers of 1024 threads.
    constexpr bool kEarly = kKeep <= 4;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kKeep; i++) {
        if (kEarly) w[i] = load4(weight, first + i * step, width, whole);
        squares += squares4(v[i]);
    }
    float scale = one_over_rms(squares, width, eps, scratch);
#pragma unroll
    for (int i = 0; i < kKeep; i++) {
        int at = first + i * step;
        if (i * step >= width) break;
        if (!kEarly) w[i] = load4(weight, at, width, whole);
        float4 out = times4(scale4(v[i], scale), w[i]);
        store4<T>(values + row * width, scales + row * (width / 32), at, width, whole, out);
    }
}

// A warp for each of `all` pieces of rows, which join the residual stream first.
template <class T> __device__ inline void pieces(const Unscaled<T> &to, const float *branch, int all) {
    int index = int(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), each = to.width / kPiece;
    if (index >= all) return;
    float4 *at = to.at(index / each, index % each);
    size_t from = at - reinterpret_cast<float4 *>(to.stream);
    *at = add4(*at, reinterpret_cast<const float4 *>(branch)[from]);
    to.put(index / each, index % each, *at);
}

} // namespace norms

#define NORM(name, T, keep)                                                                                      \
    extern "C" __global__ void __launch_bounds__(1024)                                                           \
        name(float *x, const uint32_t *pick, unsigned rows, const float *branch, const float *branch_weight,     \
             float branch_eps, const float *weight, float eps, int width, int whole, T *values,                  \
             float2 *scales) {                                                                                   \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        norms::row<T, keep>(x, pick, rows, branch, branch_weight, branch_eps, weight, eps, width, whole != 0,     \
                           values, scales);                                                                      \
    }                                                                                                            \
    EXPORT(name)

NORM(norm_4_f32, float, 4)
NORM(norm_4_f16, f16, 4)
NORM(norm_4_bf16, bf16, 4)
NORM(norm_4_q8, int8_t, 4)
NORM(norm_8_f32, float, 8)
NORM(norm_8_f16, f16, 8)
NORM(norm_8_bf16, bf16, 8)
NORM(norm_8_q8, int8_t, 8)
#undef NORM

#define PIECES(name, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        norm_pieces_##name(float *x, const float *branch, const float *weight, int width, int all, T *values,    \
                           float2 *scales, float *squares) {                                                     \
        let_next_begin();                                                                                        \
        wait_for_previous();                                                                                     \
        norms::pieces<T>({width, x, weight, values, scales, squares}, branch, all);                              \
    }                                                                                                            \
    EXPORT(norm_pieces_##name)

PIECES(bf16, bf16)
PIECES(q8, int8_t)
#undef PIECES
