// Products of quantised weights with 9 to 64 inputs of 8 bits whose results join the residual stream, and the norm after:
// the last product of attention and that of the feed-forward part. For GeForce.
//
// The sums are those of product_tiles.cu, and what becomes of them is what product_normed.cu makes of them, bit for bit. A
// tile's rows are a piece of a normed row (norm.cuh), so that a block rounds what it has by itself. Where several blocks
// share the columns of a tile, the last one does it.
#include "product_tiles.cuh"

namespace product_tiles_normed {

using namespace product_tiles;
using Rounded = norms::Unscaled<int8_t>;

template <class T> struct NormedTile {
    static_assert(T::M == norms::kPiece, "a tile's rows are a piece");
    static constexpr int kWarps = T::kThreads / 32, kMine = Whole<T>::kAtOnce / kWarps;
    Whole<T> whole;
    Rounded to;

    // A warp has the piece of every eighth input, a lane four numbers of it. All it reads is under way at once.
    template <class F> __device__ void put(int first, F values) const {
        const Tile<T> &tile = whole.tile;
        int warp = threadIdx.x / 32, row = threadIdx.x % 32 * 4;
        float4 bias = make_float4(0, 0, 0, 0), before[kMine];
        if (tile.p.bias) bias = rows::load4(tile.p.bias, int(tile.row0) + row, to.width, false);
#pragma unroll
        for (int i = 0; i < kMine; i++) {
            int input = tile.input0 + first + warp + i * kWarps;
            if (input < tile.p.n) before[i] = *to.at(input, tile.part.down);
        }
#pragma unroll
        for (int i = 0; i < kMine; i++) {
            int own = first + warp + i * kWarps, input = tile.input0 + own;
            if (input >= tile.p.n) return;
            float4 sum = rows::add4(before[i], rows::add4(values(row, own), bias));
            *to.at(input, tile.part.down) = sum;
            if (to.values) to.put(input, tile.part.down, sum);
        }
    }

    template <class W> __device__ void finish(const W &warp) const {
        whole.finish(warp, [&](int first, auto values) { put(first, values); });
    }
};

// Inputs are whole.
template <class Of> struct Shaped : Of {
    static constexpr bool kScaled = false;
};

} // namespace product_tiles_normed

// `width`: rows of the weights, whole pieces. Blocks: as of product_tiles.
#define PRODUCT(name, kind, inputs)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 2) product_tiles_normed_##name##_##inputs(                     \
        const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const void *x,        \
        const float2 *x_scales, int groups, int n, const float *bias, int width, float *stream, const float *weight, \
        int8_t *values, float2 *value_scales, float *squares, float *partials, unsigned *counts) {                   \
        using Shape = product_tiles_normed::Shaped<product_tiles::Shape##inputs<quant::kind>>;                       \
        using Warp = product_tiles::Warp<quant::kind, Shape>;                                                        \
        tiles::run<quant::kind, Shape, Warp>(                                                                        \
            [&] {                                                                                                    \
                return tiles::Work{{{low, high, scales, supers}, x, x_scales, width, groups, n, nullptr, 0, bias,    \
                                    partials, counts, 2},                                                            \
                                   {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), int(gridDim.z)}};             \
            },                                                                                                       \
            [&](const tiles::Tile<Shape> &tile, const Warp &warp) {                                                  \
                product_tiles_normed::NormedTile<Shape>{                                                             \
                    {tile}, {width, stream, weight, values, value_scales, squares}}.finish(warp);                    \
            });                                                                                                      \
    }                                                                                                                \
    EXPORT(product_tiles_normed_##name##_##inputs)

EACH_KIND(EACH_SIZE)

#undef PRODUCT
