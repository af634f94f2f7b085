// Products of quantised weights with more than 8 inputs of 8 bits. For cards whose tensor cores multiply halves at a
// quarter of the rate: GeForce.
#include "product_tiles.cuh"

// `squares`, `eps`: what a norm has left to be multiplied with the sums (norm.cuh). Blocks: x inputs, y rows, in tiles, z
// those that share a tile's columns.
#define PRODUCT(name, kind, inputs)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 2) product_tiles_##name##_##inputs(                            \
        const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const void *x,        \
        const float2 *x_scales, int rows, int groups, int n, float *out, uint64_t stride, const float *bias,         \
        float *partials, unsigned *counts, const float *squares, float eps) {                                        \
        using Shape = product_tiles::Shape##inputs<quant::kind>;                                                     \
        tiles::run<quant::kind, Shape, product_tiles::Warp<quant::kind, Shape>>([&] {                                \
            return tiles::Work{{{low, high, scales, supers}, x, x_scales, rows, groups, n, out, stride, bias,        \
                                partials, counts, 2, {squares, eps}},                                                \
                               {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), int(gridDim.z)}};                 \
        });                                                                                                          \
    }                                                                                                                \
    EXPORT(product_tiles_##name##_##inputs)

EACH_KIND(EACH_SIZE)

#undef PRODUCT
