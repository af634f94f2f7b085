// Sums of quantised rows times up to 8 inputs: the loop of product_quant.cu, product_mixed.cu and product_gated.cu.
//
// A warp works on R rows at once: each lane takes every 32nd group of 32 columns, of all R rows and all N inputs,
// and its sums meet in shuffles at the end. Weights are loaded 16 bytes a lane, side by side, past the caches'
// keeping; inputs (8 bits, acts.cuh) come from the first-level cache, whose traffic R rows share: at N = 8 it would
// else pass what a multiprocessor can read. Rows that are too few to fill a card are split over the warps of a
// block (`split`), which meet in shared memory once. How a row is split depends on the matrix and the card alone,
// so that an answer does not depend on how many others are asked for at once.
//
// What limits it is memory bandwidth: 1.2 to 4 instructions per number and lane, where a card's arithmetic has
// room for 5 (H100) to 20 (RTX 4090) in the time that 4.5 bits take to arrive. Whole-number dot products over 8-bit
// inputs are llama.cpp's idea (mmvq); other than there, all loads are aligned and none is shared by halves.
//
// A group's index within its matrix has 32 bits, which saves registers and instructions (`Matrix::new` in product.rs).
// Knows no output: who adds a bias and writes where, the kernels say.
#pragma once
#include "norm.cuh"
#include "quant.cuh"

namespace product_quant {

using quant::Kind;
using quant::Planes;

constexpr int kWarps = 4;

// Rows that a warp works on at once.
__host__ __device__ constexpr int rows_at_once(int n) { return n <= 4 ? 2 : 4; }

// Blocks that a multiprocessor has registers for.
__host__ __device__ constexpr int resident(int n) { return n == 1 ? 9 : n == 2 ? 7 : n <= 4 ? 5 : 3; }

template <Kind K, int N> struct Group {
    static constexpr int R = rows_at_once(N);

    // Adds the products of one group: `at[r]` its index in row r.
    static __device__ void add(float sums[R][N], const Planes &planes, const unsigned at[R], int group, const int8_t *x,
                               const float2 *x_scales, int groups) {
        quant::RawBits<K> bits[R];
        quant::RawScale raw[R];
#pragma unroll
        for (int r = 0; r < R; r++) bits[r] = quant::load_bits<K>(planes, at[r]);
#pragma unroll
        for (int r = 0; r < R; r++) raw[r] = quant::load_scale<K>(planes, at[r]);
        int weights[R][8];
        float2 scales[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            quant::words<K>(bits[r], weights[r]);
            scales[r] = quant::scale_of<K>(raw[r], group);
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            size_t index = unsigned(i * groups + group);
            const uint4 *from = reinterpret_cast<const uint4 *>(x) + index * 2;
            uint4 a = __ldg(from), b = __ldg(from + 1);
            float2 x_scale = __ldg(x_scales + index);
            const unsigned inputs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int r = 0; r < R; r++) {
                int sum[2] = {quant::kMagic, quant::kMagic};
#pragma unroll
                for (int w = 0; w < 8; w++) {
                    int &to = sum[quant::kHalves<K> ? w / 4 : 0];
                    to = __dp4a(weights[r][w], int(inputs[w]), to);
                }
                sums[r][i] = quant::add<K>(sums[r][i], scales[r], x_scale, sum[0], sum[1]);
            }
        }
    }
};

// Has a row's first 4 KiB on their way, of each plane.
template <Kind K> __device__ void fetch_row(const Planes &planes, size_t start, int groups, int lane) {
    int at = lane * 128;
    if (at < groups * quant::kLowBytes<K>) prefetch(planes.low + start * quant::kLowBytes<K> + at);
    if (at < groups * quant::kHighBytes<K>) prefetch(planes.high + start * quant::kHighBytes<K> + at);
    constexpr int kScale = quant::kScaleBytes<K>;
    if (at < groups * kScale) prefetch(planes.scales + start * kScale + at);
}

// Of the warps of a block, `split` share R rows: where a warp is among them, and in its part of the columns.
struct Place {
    int team, part, lane;

    __device__ explicit Place(int split) {
        int warp = threadIdx.x / 32;
        team = warp / split, part = warp % split, lane = threadIdx.x % 32;
    }
};

// The same of R rows that warps share: each has every `split`th of them on its way.
template <Kind K, int R>
__device__ void fetch_rows(const Planes &planes, const unsigned start[R], int groups, const Place &place, int split) {
#pragma unroll
    for (int r = 0; r < R; r++)
        if (r % split == place.part) fetch_row<K>(planes, start[r], groups, place.lane);
}

// Sums of R rows, of which `start[r]` is row r's first group, for the warps with part 0: lane r * N + i has row r's
// with input i. Shared memory: 128 bytes a warp, which may be in use until here.
template <Kind K, int N>
__device__ float sum_rows(const Planes &planes, const unsigned start[rows_at_once(N)], const int8_t *RESTRICT x,
                          const float2 *RESTRICT x_scales, int groups, const Place &place, int split, float *shared) {
    constexpr int R = rows_at_once(N);
    static_assert(R * N <= 32, "a lane holds one result");
    float sums[R][N] = {};
#pragma unroll 1
    for (int group = place.part * 32 + place.lane; group < groups; group += 32 * split) {
        unsigned at[R];
#pragma unroll
        for (int r = 0; r < R; r++) at[r] = start[r] + group;
        Group<K, N>::add(sums, planes, at, group, x, x_scales, groups);
    }
    float mine = 0.0f;
#pragma unroll
    for (int v = 0; v < R * N; v++) {
        float sum = warp_sum(sums[v / N][v % N]);
        if (place.lane == v) mine = sum;
    }
    if (split > 1) {
        shared[threadIdx.x] = mine;
        __syncthreads();
        for (int other = 1; place.part == 0 && other < split; other++) mine += shared[threadIdx.x + other * 32];
    }
    return mine;
}

// A matrix's product: `out[i * stride + row]`.
struct Matrix {
    Planes planes;
    int rows;
    float *out;
    const float *bias;
    int split;
};

// Rows of block `block`. Shared memory: 128 bytes a warp.
template <Kind K, int N>
__device__ void run(const Matrix &matrix, const int8_t *RESTRICT x, const float2 *RESTRICT x_scales, int groups,
                    const norms::Scale &scale, size_t stride, unsigned block) {
    DYNAMIC_SHARED(memory);
    constexpr int R = rows_at_once(N);
    Place place(matrix.split);
    unsigned first = (block * (kWarps / matrix.split) + place.team) * R, rows = matrix.rows, start[R];
#pragma unroll
    for (int r = 0; r < R; r++) start[r] = (first + r < rows ? first + r : rows - 1) * groups;
    fetch_rows<K, R>(matrix.planes, start, groups, place, matrix.split);
    wait_for_previous();
    float *shared = reinterpret_cast<float *>(memory);
    float sum = sum_rows<K, N>(matrix.planes, start, x, x_scales, groups, place, matrix.split, shared);
    if (place.part != 0) return;
    int input = place.lane % N;
    float by = scale.of(input, scale.each(N, groups * 32), N);
    unsigned row = first + place.lane / N;
    if (place.lane < R * N && row < rows)
        matrix.out[input * stride + row] = __fmaf_rn(sum, by, matrix.bias ? matrix.bias[row] : 0.0f);
}

} // namespace product_quant

// A kernel for each number of inputs.
#define EACH_COUNT(one, name, kind)                                                                                  \
    one(name, kind, 1) one(name, kind, 2) one(name, kind, 3) one(name, kind, 4)                                      \
    one(name, kind, 5) one(name, kind, 6) one(name, kind, 7) one(name, kind, 8)
