// The feed-forward part up to its last product, of quantised weights with more than 8 inputs of 8 bits: gate and up, the
// activation of the gate, and rounding to the 8 bits that the last product takes. For GeForce.
//
// A tile has the rows of the gate and of up of as many outputs as are half its rows, so that it has both sums of each.
// The sums are those of product_tiles.cu, and what becomes of them is what rows.cu makes of them, bit for bit. Where
// several blocks share the columns of a tile, the last one does it.
#include "product_tiles.cuh"
#include "rows.cuh"

namespace product_tiles_gated {

using namespace product_tiles;

// A tile's rows: 16 of the gate and the same 16 of up, in turn. Up's rows lie `outputs` rows behind those of the gate.
template <class T> struct GateAndUp {
    static constexpr int kOutputs = T::M / 2;
    unsigned first, outputs;
    int last;

    __device__ GateAndUp(int begin, int all)
        : first(begin), outputs(all), last(min(all - begin, kOutputs) - 1) {}
    __device__ unsigned at(int row) const {
        return min(row / 32 * 16 + row % 16, last) + (row & 16 ? outputs : 0u);
    }
    // The gate's row of an output of the tile.
    __device__ static int gate(int output) { return output / 16 * 32 + output % 16; }
    __device__ static int up(int output) { return gate(output) + 16; }
};

// Where outputs go, `[n][outputs]`.
struct Out {
    int gelu, outputs;
    int8_t *values;
    float2 *scales;
};

template <class T> struct GatedTile {
    using Of = GateAndUp<T>;
    static constexpr int kAtOnce = Whole<T>::kAtOnce;
    Whole<T> whole;
    Out out;

    // Four outputs of an input, places in the tile. All lanes call, eight of them for 32 outputs side by side.
    __device__ void put(int input, int output, float4 gate, float4 up) const {
        const Tile<T> &tile = whole.tile;
        int width = out.outputs, at = tile.part.down * Of::kOutputs + output;
        size_t row = size_t(tile.part.across) * T::N + input;
        if (row >= size_t(tile.p.n)) at = width;
        if (tile.p.bias) {
            gate = rows::add4(gate, rows::load4(tile.p.bias, at, width, false));
            up = rows::add4(up, rows::load4(tile.p.bias + width, at, width, false));
        }
        auto activated = [&](float v) { return rows::activated(out.gelu, v); };
        gate = make_float4(activated(gate.x), activated(gate.y), activated(gate.z), activated(gate.w));
        rows::store4<int8_t>(out.values + row * width, out.scales + row * (width / 32), at, width, true,
                             rows::times4(gate, up));
    }

    template <class W> __device__ void finish(const W &warp) const {
        constexpr int kFours = Of::kOutputs / 4;
        static_assert(kFours * kAtOnce % T::kThreads == 0, "whole warps");
        whole.finish(warp, [&](int first, auto values) {
#pragma unroll 1
            for (int i = threadIdx.x; i < kFours * kAtOnce; i += T::kThreads) {
                int input = first + i / kFours, output = i % kFours * 4;
                put(input, output, values(Of::gate(output), input), values(Of::up(output), input));
            }
        });
    }
};

// With the activation behind it, the loop's registers are short.
template <class Of> struct Shaped : Of {
    static constexpr bool kShort = true;
};

template <Kind K, class T> __device__ void run(const Product &product, const Out &out) {
    Part part = {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), int(gridDim.z)};
    GateAndUp<T> both(part.down * GateAndUp<T>::kOutputs, out.outputs);
    tiles::run<K, T, Warp<K, T>>(product, part, both, [&](const Warp<K, T> &warp) {
        GatedTile<T>{{{product, part}}, out}.finish(warp);
    });
}

} // namespace product_tiles_gated

// The gate's rows lie above those of up, as many; their number is a multiple of 32. Blocks: as of product_tiles.
#define PRODUCT(name, kind, inputs)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 2) product_tiles_gated_##name##_##inputs(                      \
        const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const void *x,        \
        const float2 *x_scales, int groups, int n, const float *bias, int gelu, int outputs, int8_t *values,         \
        float2 *value_scales, float *partials, unsigned *counts, const float *squares, float eps) {                  \
        tiles::Product product = {{low, high, scales, supers}, x, x_scales, 2 * outputs, groups, n, nullptr, 0,      \
                                  bias, partials, counts, 2, {squares, eps}};                                        \
        using Shape = product_tiles_gated::Shaped<product_tiles::Shape##inputs<quant::kind>>;                        \
        product_tiles_gated::run<quant::kind, Shape>(product, {gelu, outputs, values, value_scales});                \
    }                                                                                                                \
    EXPORT(product_tiles_gated_##name##_##inputs)

EACH_KIND_BUT_Q6_K(EACH_SIZE)
// Registers do not suffice for 64 inputs of it.
PRODUCT(q6_k, Q6_K, 16)
PRODUCT(q6_k, Q6_K, 32)

#undef PRODUCT
