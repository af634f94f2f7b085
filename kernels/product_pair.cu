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
template <Kind K> struct ShapeOf<64, K> { using T = Shape64<K>; };

template <int N, Kind K> __device__ inline void of_kind(const Product &product, const Part &part) {
    using T = typename ShapeOf<N, K>::T;
    tiles::run<K, T, Warp<K, T>>(product, part);
}

// One of the matrices, of a kind: 0, 1, 2 for Q4_K, Q5_K, Q6_K.
struct Matrix {
    int kind;
    Planes planes;
    int rows;
    float *out;
    const float *bias;
    int shares;
};

// Block `block` of the matrix. The blocks of a share stand side by side.
template <int N>
__device__ void multiply(const Matrix &matrix, int block, Product product) {
    product.planes = matrix.planes, product.rows = matrix.rows;
    product.out = matrix.out, product.bias = matrix.bias;
    int down = (matrix.rows + 127) / 128;
    Part part = {int(blockIdx.x), block % down, block / down, matrix.shares};
    if (matrix.kind == 0) of_kind<N, quant::Q4_K>(product, part);
    else if (matrix.kind == 1) of_kind<N, quant::Q5_K>(product, part);
    else of_kind<N, quant::Q6_K>(product, part);
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
        unsigned *counts, float *partials2, unsigned *counts2) {                                                     \
        int block = blockIdx.y;                                                                                      \
        bool first = block < blocks;                                                                                 \
        product_pair::Matrix matrix = {kind, {low, high, scales, supers}, rows, out, bias, shares};                  \
        if (!first) matrix = {kind2, {low2, high2, scales2, supers2}, rows2, out2, bias2, shares2};                  \
        tiles::Product both = {{}, x, x_scales, 0, groups, n, nullptr, stride, nullptr,                              \
                               first ? partials : partials2, first ? counts : counts2, 2};                           \
        product_pair::multiply<inputs>(matrix, first ? block : block - blocks, both);                                \
    }                                                                                                                \
    EXPORT(product_pair_##inputs)

PRODUCT(16)
PRODUCT(32)
PRODUCT(64)

#undef PRODUCT
