// Products of quantised weights with more than 8 inputs of 8 bits. For cards whose tensor cores multiply halves at a
// quarter of the rate: GeForce.
#include "product_tiles.cuh"

#define PRODUCT(name, kind, inputs)                                                                                  \
    TILED(product_tiles_##name##_##inputs, kind, product_tiles::Shape##inputs<quant::kind>, product_tiles::Warp,     \
          __launch_bounds__(256, 2))

EACH_KIND(EACH_SIZE)

#undef PRODUCT
