// Products of weights in f32, f16 or bf16 with up to 8 inputs at once; more are the library's (Card::gemm).
//
// Halves go through tensor cores even for one input: a warp takes 16 rows, each lane 16 bytes of two of them and of
// one input, which are just the registers of two 16 x 8 x 16 products if the order of columns within 32 is
// renamed - the same for weights and inputs, so sums do not notice. No shared memory, no shuffles, the same
// arithmetic however many inputs there are, and an eighth of the instructions that conversions would take.
// f32 is multiplied as it is, two rows a warp.
//
// Rows that are too few to fill a card are split over the warps of a block, which meet in shared memory at the end.
// What limits it is memory bandwidth: 4 x 128 columns of 16 rows are asked for before the first is used.
//
// Of gate and up a warp takes eight rows each, so that a lane has both sums of an output: the activation is applied
// before anything is written, and what is written is what rows.cu would have made of it.
#include "norm.cuh"

namespace product_dense {

constexpr int kWarps = 8;
// Pieces of 32 columns that a warp asks for at once.
constexpr int kAhead = 4;

// What comes out of a product, and where: `out[i * stride + row]`.
struct Output {
    float *at;
    size_t stride;
    const float *bias;
    size_t rows;
    int n;

    // `by`: what the sum is to be multiplied with.
    __device__ void put(size_t row, int input, float sum, float by) const {
        if (row < rows && input < n)
            at[size_t(input) * stride + row] = __fmaf_rn(sum, by, bias ? bias[row] : 0.0f);
    }
};

// Eight numbers of a row from column `k` on; beyond its end, zeros. `whole`: rows are whole pieces of 16 bytes.
template <class T> __device__ inline uint4 load8(const T *row, int k, int columns, bool whole, bool keep) {
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (k >= columns) return eight;
    if (whole) {
        const uint4 *from = reinterpret_cast<const uint4 *>(row + k);
        return keep ? __ldg(from) : __ldcs(from);
    }
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        T zero = from_float<T>(0.0f);
        int at = k + 2 * i;
        pairs[i] = pack2(at < columns ? row[at] : zero, at + 1 < columns ? row[at + 1] : zero);
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Sums of eight rows from `first` on and of eight from `first + gap` on, columns' part `part` of `split`, in the order of
// `mma`.
template <class T>
__device__ void sum_halves(float sums[4], const T *weights, const T *x, size_t first, size_t gap, size_t rows,
                           int columns, int n, int part, int split) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    size_t low_row = first + g < rows ? first + g : rows - 1;
    size_t high_row = first + g + gap < rows ? first + g + gap : rows - 1;
    const T *low = weights + low_row * columns, *high = weights + high_row * columns;
    const T *input = x + size_t(g) * columns;
    bool whole = columns % 8 == 0;
    int pieces = (columns + 31) / 32;
    for (int piece = part * kAhead; piece < pieces; piece += split * kAhead) {
        uint4 a[kAhead], b[kAhead], inputs[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            int k = (piece + i) * 32 + t * 8;
            a[i] = load8(low, k, columns, whole, false);
            b[i] = load8(high, k, columns, whole, false);
            inputs[i] = load8(input, g < n ? k : columns, columns, whole, true);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            const uint32_t a1[4] = {a[i].x, b[i].x, a[i].y, b[i].y}, a2[4] = {a[i].z, b[i].z, a[i].w, b[i].w};
            const uint32_t b1[2] = {inputs[i].x, inputs[i].y}, b2[2] = {inputs[i].z, inputs[i].w};
            mma(sums, a1, b1, T());
            mma(sums, a2, b2, T());
        }
    }
}

// Has the first numbers that a warp will ask for on their way: 256 bytes of each of its 16 rows, twice.
template <class T>
__device__ void fetch_rows(const T *weights, size_t first, size_t gap, size_t rows, int columns, int part, int split) {
    int lane = threadIdx.x % 32;
    size_t row = first + lane / 2 + (lane < 16 ? 0 : gap - 8);
    for (int piece = part; piece < part + 2 * split; piece += split) {
        int k = piece * 32 * kAhead + lane % 2 * 64;
        if (row < rows && k < columns) prefetch(weights + row * columns + k);
    }
}

// Sums of the rows that `split` warps share; those with part 0 have them in the end. Shared memory: 512 bytes a warp.
template <class T>
__device__ void sum_rows(float sums[4], const T *RESTRICT weights, const T *RESTRICT x, size_t first, size_t gap,
                         size_t rows, int columns, int n, int part, int split) {
    DYNAMIC_SHARED(memory);
    fetch_rows(weights, first, gap, rows, columns, part, split);
    wait_for_previous();
    sum_halves(sums, weights, x, first, gap, rows, columns, n, part, split);
    if (split > 1) {
        float4 *all = reinterpret_cast<float4 *>(memory);
        all[threadIdx.x] = make_float4(sums[0], sums[1], sums[2], sums[3]);
        __syncthreads();
        for (int other = 1; part == 0 && other < split; other++) {
            float4 more = all[threadIdx.x + other * 32];
            sums[0] += more.x, sums[1] += more.y, sums[2] += more.z, sums[3] += more.w;
        }
    }
}

// Blocks of kWarps warps, of which `split` share 16 rows.
template <class T>
__device__ void halves(const T *RESTRICT weights, const T *RESTRICT x, int columns, const norms::Scale &scale,
                       const Output &out, int split) {
    int warp = threadIdx.x / 32, part = warp % split;
    unsigned first = (blockIdx.x * unsigned(kWarps / split) + warp / split) * 16;
    float sums[4] = {};
    sum_rows(sums, weights, x, first, 8, out.rows, columns, out.n, part, split);
    if (part != 0) return;
    int lane = asked(threadIdx.x) % 32;  // not kept through the loop: registers are short
    float each = scale.each(out.n, columns);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int input = lane % 4 * 2 + i % 2;
        out.put(first + i / 2 * 8 + lane / 4, input, sums[i], scale.of(input, each, 8));
    }
}

// The gate's rows lie above those of up, `outputs` each; `out[i * outputs + row]`.
template <class T>
__device__ void gated(const T *RESTRICT weights, const T *RESTRICT x, size_t outputs, int columns, int n,
                      const norms::Scale &scale, const float *RESTRICT bias, int gelu, T *RESTRICT out, int split) {
    int warp = threadIdx.x / 32, part = warp % split;
    unsigned first = (blockIdx.x * unsigned(kWarps / split) + warp / split) * 8;
    float sums[4] = {};
    sum_rows(sums, weights, x, first, outputs, 2 * outputs, columns, n, part, split);
    let_next_begin();
    if (part != 0) return;
    int lane = asked(threadIdx.x) % 32;  // not kept through the loop: registers are short
    size_t row = first + lane / 4;
    float each = scale.each(n, columns);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int input = lane % 4 * 2 + i;
        float by = scale.of(input, each, 8);
        if (row >= outputs) continue;
        float gate = __fmaf_rn(sums[i], by, bias ? bias[row] : 0.0f);
        float up = __fmaf_rn(sums[i + 2], by, bias ? bias[row + outputs] : 0.0f);
        if (input < n) out[input * outputs + row] = from_float<T>(rows::activated(gelu, gate) * up);
    }
}

// Rows that join the residual stream, and the norm after, as in product_normed.cu. `counts`: one for each piece.
template <class T>
__device__ void normed(const T *RESTRICT weights, const T *RESTRICT x, int columns, int n, const float *RESTRICT bias,
                       const norms::Unscaled<T> &to, unsigned *counts, int split) {
    DYNAMIC_SHARED(memory);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % split, each = kWarps / split * 16;
    int first = int(blockIdx.x) * each + warp / split * 16, piece = int(blockIdx.x) * each / norms::kPiece;
    float sums[4] = {};
    if (lane == 0 && to.values) fetch_line(to.weight + first);
    sum_rows(sums, weights, x, first, 8, to.width, columns, n, part, split);
    let_next_begin();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = first + i / 2 * 8 + lane / 4, input = lane % 4 * 2 + i % 2;
        if (part == 0 && input < n) to.stream[size_t(input) * to.width + row] += sums[i] + (bias ? bias[row] : 0.0f);
    }
    if (!to.values || !is_last(counts + piece, norms::kPiece / (kWarps * 16) * split, reinterpret_cast<unsigned *>(memory))) return;
    for (int input = warp; input < n; input += kWarps) to.put(input, piece, __ldcg(to.at(input, piece)));
}

// As `load8`, four numbers in f32.
__device__ inline float4 load4(const float *row, int k, int columns, bool whole, bool keep) {
    if (whole) {
        const float4 *from = reinterpret_cast<const float4 *>(row + k);
        return keep ? __ldg(from) : __ldcs(from);
    }
    return make_float4(row[k], k + 1 < columns ? row[k + 1] : 0.0f, k + 2 < columns ? row[k + 2] : 0.0f,
                       k + 3 < columns ? row[k + 3] : 0.0f);
}

// Blocks of kWarps warps, of which `split` share two rows. Shared memory: 64 bytes a warp.
template <int N>
__device__ void floats(const float *RESTRICT weights, const float *RESTRICT x, int columns, const Output &out,
                       int split) {
    DYNAMIC_SHARED(memory);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % split;
    size_t first = (size_t(blockIdx.x) * (kWarps / split) + warp / split) * 2;
    const float *rows[2];
    for (int r = 0; r < 2; r++) rows[r] = weights + (first + r < out.rows ? first + r : out.rows - 1) * columns;
    bool whole = columns % 4 == 0;
    wait_for_previous();
    float sums[2][N] = {};
#pragma unroll 2
    for (int k = (part * 32 + lane) * 4; k < columns; k += split * 128) {
        float4 a = load4(rows[0], k, columns, whole, false), b = load4(rows[1], k, columns, whole, false);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float4 v = load4(x + size_t(i) * columns, k, columns, whole, true);
            sums[0][i] += a.x * v.x + a.y * v.y + a.z * v.z + a.w * v.w;
            sums[1][i] += b.x * v.x + b.y * v.y + b.z * v.z + b.w * v.w;
        }
    }
    float mine = 0.0f;
#pragma unroll
    for (int v = 0; v < 2 * N; v++) {
        float sum = warp_sum(sums[v / N][v % N]);
        if (lane == v) mine = sum;
    }
    if (split > 1) {
        float *all = reinterpret_cast<float *>(memory);
        if (lane < 16) all[warp * 16 + lane] = mine;
        __syncthreads();
        for (int other = 1; part == 0 && other < split; other++)
            if (lane < 16) mine += all[(warp + other) * 16 + lane];
    }
    if (part == 0 && lane < 2 * N) out.put(first + lane / N, lane % N, mine, 1.0f);
}

} // namespace product_dense

#define PRODUCT_HALVES(name, type)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        product_dense_##name(const type *weights, const type *x, uint64_t rows, int columns, int n, float *out,      \
                             uint64_t stride, const float *bias, int split, const float *squares, float eps) {       \
        product_dense::halves<type>(weights, x, columns, {squares, eps}, {out, stride, bias, rows, n}, split);       \
    }                                                                                                                \
    EXPORT(product_dense_##name)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        product_gated_##name(const type *weights, const type *x, uint64_t outputs, int columns, int n,               \
                             const float *bias, int gelu, type *out, int split, const float *squares, float eps) {   \
        product_dense::gated<type>(weights, x, outputs, columns, n, {squares, eps}, bias, gelu, out, split);         \
    }                                                                                                                \
    EXPORT(product_gated_##name)
PRODUCT_HALVES(f16, f16)
PRODUCT_HALVES(bf16, bf16)
#undef PRODUCT_HALVES

// Only bf16 has room for rows without a norm's scale.
extern "C" __global__ void __launch_bounds__(256)
    product_normed_bf16(const bf16 *weights, const bf16 *x, int columns, int n, const float *bias, int width,
                        float *stream, const float *weight, bf16 *values, float *squares, unsigned *counts, int split) {
    product_dense::normed<bf16>(weights, x, columns, n, bias, {width, stream, weight, values, nullptr, squares}, counts,
                                split);
}
EXPORT(product_normed_bf16)

#define PRODUCT_FLOATS(inputs)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        product_dense_f32_##inputs(const float *weights, const float *x, uint64_t rows, int columns, int n,          \
                                   float *out, uint64_t stride, const float *bias, int split) {                      \
        product_dense::floats<inputs>(weights, x, columns, {out, stride, bias, rows, n}, split);                     \
    }                                                                                                                \
    EXPORT(product_dense_f32_##inputs)
PRODUCT_FLOATS(1)
PRODUCT_FLOATS(2)
PRODUCT_FLOATS(3)
PRODUCT_FLOATS(4)
PRODUCT_FLOATS(5)
PRODUCT_FLOATS(6)
PRODUCT_FLOATS(7)
PRODUCT_FLOATS(8)
#undef PRODUCT_FLOATS

// out[i][row] += bias[row], for products of the library's.
extern "C" __global__ void __launch_bounds__(256)
    product_bias(float *out, uint64_t stride, const float *bias, uint64_t rows, uint64_t n) {
    wait_for_previous();
    size_t row = size_t(blockIdx.x) * 256 + threadIdx.x;
    if (row >= rows) return;
    float add = bias[row];
    for (size_t i = blockIdx.y; i < n; i += gridDim.y) out[i * stride + row] += add;
}
EXPORT(product_bias)
