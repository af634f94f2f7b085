// Products of quantised weights with very many inputs of 8 bits: tiles, whole-number tensor cores.
//
// `quant::pair` turns one packed word into the two registers that the product of 32 columns wants of it. Scales become
// floats once for each warp, a row a lane, in a small table of its own. Each group's whole-number sum is scaled and
// added in f32 (llama.cpp's MMQ does so too: groups have scales of their own on both sides). That is what limits it:
// 12 to 16 floating-point instructions for the 4 results of each tensor-core instruction, so that peak is about the
// card's f32 rate / 4 for each group of 32, i.e. 8 times its f32 multiply rate; sums become floats without conversion
// (quant.cuh). For cards whose tensor cores multiply halves at a fraction of that: GeForce.
#include "tiles.cuh"

namespace product_tiles {

using namespace tiles;

// Numbers of 4 bits leave room for two blocks of 128 rows and 64 inputs on a multiprocessor with 100 KiB of shared
// memory, others for two of 64 rows.
template <Kind K> constexpr int kRows64 = K == quant::Q4_0 || K == quant::Q4_K ? 128 : 64;
template <Kind K> using Shape64 = Shape<true, kRows64<K>, 64, kRows64<K> / 32, 2, 1, 4>;
template <Kind K> using Shape128 = Shape<true, 128, 128, 4, 2, 1, 4>;

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;
    static_assert(T::WK == 1, "a warp has all groups of a step");

    // Offsets in a stage, of the first group: what the lane gives to ldmatrix of 16 inputs, and the scales of the input
    // 2t; those of 2t + 1 lie behind them.
    int at_x, at_scales;

    __device__ Warp(unsigned char *tables, size_t first_row, int groups) : Base(tables, first_row, groups) {
        at_x = kept(Stage<K, T>::x_at(input + lane / 16 * 8 + lane % 8, lane / 8 % 2));
        at_scales = kept(Stage<K, T>::x_scales_at(input + lane % 4 * 2, 0));
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
        int c[4] = {quant::kMagic, quant::kMagic, quant::kMagic, quant::kMagic};
        int second[4] = {quant::kMagic, quant::kMagic, quant::kMagic, quant::kMagic};
        if constexpr (quant::kHalves<K>) {
            mma_s8_k16(c, a, b);
            mma_s8_k16(second, a + 2, b + 1);
        } else {
            mma_s8_k32(c, a, b);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = quant::add<K>(to[i], w[i / 2], x[i % 2], c[i], second[i]);
    }

    // Adds the products of one group of a step.
    __device__ void add_group(const unsigned char *stage, int group) {
        using In = Stage<K, T>;
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

    __device__ void add_step(const unsigned char *stage) {
#pragma unroll 2
        for (int group = 0; group < kGroups; group++) {
            // Nothing is read ahead of it, so that two blocks' registers suffice.
            if (T::M > T::N) __syncwarp();
            add_group(stage, group);
        }
    }

    // The value of a sum.
    static __device__ float value(float sum) { return sum; }
};

} // namespace product_tiles

#define PRODUCTS(name, kind)                                                                                         \
    TILED(product_tiles_##name##_64, kind, product_tiles::Shape64<quant::kind>, product_tiles::Warp,                 \
          __launch_bounds__(2 * product_tiles::kRows64<quant::kind>, 2))                                             \
    TILED(product_tiles_##name##_128, kind, product_tiles::Shape128<quant::kind>, product_tiles::Warp,               \
          __launch_bounds__(256))

EACH_KIND(PRODUCTS)

#undef PRODUCTS
