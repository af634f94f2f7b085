// Products of quantised weights with up to 8 inputs at once: the weights are read once, and time is the reading.
// How is said in product_quant.cuh.
#include "product_quant.cuh"

#define PRODUCT(name, kind, n)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, product_quant::resident(n))                                    \
        product_quant_##name##_##n(const uint8_t *low, const uint8_t *high, const uint8_t *scales,                   \
                                   const uint8_t *supers, const int8_t *x, const float2 *x_scales, int rows,         \
                                   int groups, float *out, uint64_t stride, const float *bias, int split,            \
                                   const float *squares, float eps) {                                                \
        product_quant::run<quant::kind, n>({{low, high, scales, supers}, rows, out, bias, split}, x, x_scales,       \
                                           groups, {squares, eps}, stride, blockIdx.x);                              \
    }                                                                                                                \
    EXPORT(product_quant_##name##_##n)
#define PRODUCTS(name, kind) EACH_COUNT(PRODUCT, name, kind)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
