// Products of quantised weights with more than 8 inputs of 8 bits: tiles, whole-number tensor cores.
//
// `quant::pair` turns one packed word into the two registers that the product of 32 columns wants of it. Scales become
// floats once for each warp, a row a lane, in a small table of its own. Each group's whole-number sum is scaled and
// added in f32 (llama.cpp's MMQ does so too: groups have scales of their own on both sides). That is what limits it: two
// multiply-adds for each result and group (`scaled`), and one more for a minimum. For cards whose tensor cores
// multiply halves at a quarter of the rate: GeForce.
#include "tiles.cuh"

namespace product_tiles {

using namespace tiles;

// Two blocks have to fit on a multiprocessor with 100 KiB of shared memory. With 64 inputs, numbers of more than 4 bits
// only do so in steps of two groups.
template <Kind K> constexpr int kGroups64 = quant::kLowBytes<K> == 16 && !quant::kHighBytes<K> ? 4 : 2;
template <Kind K> using Shape16 = Shape<true, 128, 16, 4, 1, 2, 4>;
template <Kind K> using Shape32 = Shape<true, 128, 32, 4, 1, 2, 4>;
template <Kind K> using Shape64 = Shape<true, 128, 64, 4, 2, 1, kGroups64<K>>;

// A sum from quant::kMagic on, times a scale of weights. Its bits read as a float are kMagicFloat + sum, so kMagicFloat
// times the scale is taken away again. That is exact before the one rounding: a scale has at most 19 bits (a half times a
// whole number of 8), and kMagicFloat has 2. With few inputs nothing is gained by it: `quant::add` is as short there.
constexpr float kMagicFloat = 12582912.0f;
__device__ inline float scaled(int sum, float scale) {
    return __fmaf_rn(__int_as_float(sum), scale, -kMagicFloat * scale);
}

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using In = Stage<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;

    // Offsets in a stage, of the part's first group: what the lane gives to ldmatrix of 16 inputs, and the scales of the
    // input 2t; those of 2t + 1 lie behind them.
    int at_x, at_scales;

    __device__ Warp(unsigned char *tables, size_t first_row, int groups) : Base(tables, first_row, groups) {
        int group = part * kGroups;
        at_x = kept(In::x_at(input + lane / 16 * 8 + lane % 8, group * 2 + lane / 8 % 2));
        at_scales = kept(In::x_scales_at(input + lane % 4 * 2, group / 2));
    }

    __device__ void take_scales(const unsigned char *stage, int first_group) const {
        float2 *to = reinterpret_cast<float2 *>(table) + lane;
        Base::scales(stage, first_group, 1.0f, 1.0f, [&](int group, float2 scale) { to[group * 32] = scale; });
    }

    // The weights of a group, by 16 rows, in the order of mma_s8_k32's registers.
    __device__ void weights(uint32_t a[T::MF][4], const unsigned char *stage, int group) const {
        uint32_t packed[T::MF][2], second[T::MF][2];
        Base::words(packed, second, stage, group);
#pragma unroll
        for (int m = 0; m < T::MF; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint2 both = make_uint2(packed[m][i], second[m][i]);
                if constexpr (K != quant::Q8_0)
                    both = quant::pair<K>(packed[m][i], Base::further(stage, m * 16 + i * 8, group), lane % 4);
                a[m][i] = both.x, a[m][2 + i] = both.y;
            }
    }

    // Adds the products of one group of 16 rows and 8 inputs. `w`: scales of rows g and g + 8; `x`: of the inputs
    // 2t and 2t + 1.
    static __device__ void add(float to[4], const uint32_t a[4], const uint32_t b[2], const float2 w[2],
                               const float2 x[2]) {
        int first[4], second[4];
        if constexpr (quant::kHalves<K>) {
            mma_s8_k16(first, a, b, quant::kMagic);
            mma_s8_k16(second, a + 2, b + 1, quant::kMagic);
        } else {
            mma_s8_k32(first, a, b, quant::kMagic);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 scale = w[i / 2], by = x[i % 2];
            to[i] = __fmaf_rn(scaled(first[i], scale.x), by.x, to[i]);
            if constexpr (quant::kHalves<K>) to[i] = __fmaf_rn(scaled(second[i], scale.y), by.x, to[i]);
            if constexpr (quant::kMinimum<K>) to[i] = __fmaf_rn(-scale.y, by.y, to[i]);
        }
    }

    // Adds the products of one group of a step.
    __device__ void add_group(const unsigned char *stage, int group) {
        const float2 *scales = reinterpret_cast<const float2 *>(table) + group * 32 + lane / 4;
        uint32_t a[T::MF][4];
        float2 w[T::MF][2];
        weights(a, stage, group);
#pragma unroll
        for (int i = 0; i < 2 * T::MF; i++) w[i / 2][i % 2] = scales[i * 8];
        const unsigned char *from = stage + (at_x ^ group * 32);
        const unsigned char *of = stage + (at_scales ^ group / 2 * 16) + group % 2 * 8;
#pragma unroll
        for (int f = 0; f < T::NF; f += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, from + f * 8 * In::kX);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const unsigned char *even = of + (f + i) * 8 * In::kXScales, *odd = even + In::kXScales;
                const float2 x[2] = {*reinterpret_cast<const float2 *>(even), *reinterpret_cast<const float2 *>(odd)};
#pragma unroll
                for (int m = 0; m < T::MF; m++) add(sums[m][f + i], a[m], b + 2 * i, w[m], x);
            }
        }
    }

    // One group at a time, so that two blocks' registers suffice.
    __device__ void add_step(const unsigned char *stage) {
#pragma unroll 1
        for (int group = 0; group < kGroups; group++) add_group(stage, group);
    }

    // The value of a sum.
    static __device__ float value(float sum) { return sum; }
};

} // namespace product_tiles

#define PRODUCT(name, kind, inputs)                                                                                  \
    TILED(product_tiles_##name##_##inputs, kind, product_tiles::Shape##inputs<quant::kind>, product_tiles::Warp,     \
          __launch_bounds__(256, 2))
#define PRODUCTS(name, kind)                                                                                         \
    PRODUCT(name, kind, 16)                                                                                          \
    PRODUCT(name, kind, 32)                                                                                          \
    PRODUCT(name, kind, 64)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
