// Products of two matrices of different kinds with the same up to 8 inputs, side by side in one launch: the queries, keys
// and values of llama.cpp's mixtures, whose values are finer.
//
// The first blocks are those of the first matrix, the others those of the second; each does what product_quant.cu does.
// A block branches on its matrix's kind once. The kinds are those that mixtures have, so that one kernel for each number
// of inputs takes any two of them, and has the registers of the largest.
#include "product_quant.cuh"

namespace product_mixed {

using product_quant::Matrix;

// A matrix and its kind: 0, 1, 2 for Q4_K, Q5_K, Q6_K.
template <int N>
__device__ void run(int kind, const Matrix &matrix, const int8_t *x, const float2 *x_scales, int groups,
                    const norms::Scale &scale, size_t stride, unsigned block) {
    if (kind == 0) product_quant::run<quant::Q4_K, N>(matrix, x, x_scales, groups, scale, stride, block);
    else if (kind == 1) product_quant::run<quant::Q5_K, N>(matrix, x, x_scales, groups, scale, stride, block);
    else product_quant::run<quant::Q6_K, N>(matrix, x, x_scales, groups, scale, stride, block);
}

} // namespace product_mixed

// `low` to `split`, twice: the first matrix's, of `blocks` blocks, and the second's.
#define PRODUCT(n)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128, product_quant::resident(n)) product_mixed_##n(                 \
        int kind, const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, int rows,   \
        float *out, const float *bias, int split, int kind2, const uint8_t *low2, const uint8_t *high2,              \
        const uint8_t *scales2, const uint8_t *supers2, int rows2, float *out2, const float *bias2, int split2,      \
        int blocks, const int8_t *x, const float2 *x_scales, int groups, uint64_t stride, const float *squares,      \
        float eps) {                                                                                                 \
        product_quant::Matrix first = {{low, high, scales, supers}, rows, out, bias, split};                         \
        product_quant::Matrix second = {{low2, high2, scales2, supers2}, rows2, out2, bias2, split2};                \
        norms::Scale scale = {squares, eps};                                                                         \
        int block = blockIdx.x;                                                                                      \
        if (block < blocks) product_mixed::run<n>(kind, first, x, x_scales, groups, scale, stride, block);           \
        else product_mixed::run<n>(kind2, second, x, x_scales, groups, scale, stride, block - blocks);               \
    }                                                                                                                \
    EXPORT(product_mixed_##n)

PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)
PRODUCT(5)
PRODUCT(6)
PRODUCT(7)
PRODUCT(8)

#undef PRODUCT
