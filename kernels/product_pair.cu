// Products of two matrices of different kinds with the same more than 8 inputs of 8 bits, side by side in one launch: the
// queries, keys and values of llama.cpp's mixtures, whose values are finer. For GeForce.
//
// The first blocks are those of the first matrix, the others those of the second; each does what product_tiles.cu does,
// and branches on its matrix's kind once. A small matrix would by itself leave most of the card idle.
#include "product_tiles.cuh"

namespace product_pair {

using namespace product_tiles;

template <int N, Kind K> struct ShapeOf;
template <Kind K> struct ShapeOf<16, K> { using T = Shape16<K>; };
template <Kind K> struct ShapeOf<32, K> { using T = Shape32<K>; };
template <Kind K> struct ShapeOf<64, K> {
    struct T : Shape64<K> {
        static constexpr bool kShort = true;
    };
};

template <int N, Kind K, class F> __device__ inline void of_kind(F again) {
    using T = typename ShapeOf<N, K>::T;
    tiles::run<K, T, Warp<K, T>>(again);
}

// One of the matrices.
struct Matrix {
    Planes planes;
    int rows;
    float *out;
    const float *bias;
    int shares;
    // Where its blocks leave their sums, and how many have.
    float *partials;
    unsigned *counts;
};

// What a block has to do, without the matrices' kinds. `blocks`: of the first matrix; those of a share stand side by side.
// Worked out where it is asked for, so that nothing of it is kept in registers from the first time on.
__device__ inline Work work_of(const Matrix &first, const Matrix &second, int blocks, Product both) {
    int block = asked(blockIdx.y);
    bool is_first = block < blocks;
    const Matrix matrix = is_first ? first : second;
    if (!is_first) block -= blocks;
    both.planes = matrix.planes, both.rows = matrix.rows;
    both.out = matrix.out, both.bias = matrix.bias;
    both.partials = matrix.partials, both.counts = matrix.counts;
    int down = (matrix.rows + 127) / 128;
    return {both, {int(blockIdx.x), block % down, block / down, matrix.shares}};
}

// `kind`: 0, 1, 2 for Q4_K, Q5_K, Q6_K.
template <int N, class F> __device__ void multiply(int kind, F again) {
    if (kind == 0) of_kind<N, quant::Q4_K>(again);
    else if (kind == 1) of_kind<N, quant::Q5_K>(again);
    else of_kind<N, quant::Q6_K>(again);
}

} // namespace product_pair

// `low` to `shares`, twice: the first matrix's, of `blocks` blocks, and the second's, which leaves its blocks' sums and
// counts behind the first's. Blocks: x inputs, y those of both matrices.
#define PRODUCT(inputs)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 2) product_pair_##inputs(                                      \
        int kind, const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, int rows,   \
        float *out, const float *bias, int shares, int kind2, const uint8_t *low2, const uint8_t *high2,             \
        const uint8_t *scales2, const uint8_t *supers2, int rows2, float *out2, const float *bias2, int shares2,     \
        int blocks, const void *x, const float2 *x_scales, int groups, int n, uint64_t stride, float *partials,      \
        unsigned *counts, float *partials2, unsigned *counts2, const float *squares, float eps) {                    \
        product_pair::multiply<inputs>(int(blockIdx.y) < blocks ? kind : kind2, [&] {                                \
            return product_pair::work_of({{low, high, scales, supers}, rows, out, bias, shares, partials, counts},   \
                                         {{low2, high2, scales2, supers2}, rows2, out2, bias2, shares2, partials2,   \
                                          counts2},                                                                  \
                                         blocks,                                                                     \
                                         {{}, x, x_scales, 0, groups, n, nullptr, stride, nullptr, nullptr, nullptr, \
                                          2, {squares, eps}});                                                       \
        });                                                                                                          \
    }                                                                                                                \
    EXPORT(product_pair_##inputs)

PRODUCT(16)
PRODUCT(32)
PRODUCT(64)

#undef PRODUCT
