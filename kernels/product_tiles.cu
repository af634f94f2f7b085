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

using Shape64 = Shape<true, 64, 64, 2, 2, 1, 4, 3>;
using Shape128 = Shape<true, 128, 128, 4, 2, 1, 4, 2>;

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;

    __device__ Warp(unsigned char *tables) : Base(tables) {}

    __device__ void take_scales(const Stage<K, T> &from, size_t first_row, int first_group, int groups) const {
        float2 *to = reinterpret_cast<float2 *>(table) + lane;
        Base::scales(from, first_row, first_group, groups, [&](int group, float2 scale) { to[group * 32] = scale; });
    }

    // The weights of 16 rows and the groups `group`, `group + 1`, in the order of mma_s8_k32's registers.
    __device__ void weights(uint32_t a[2][4], const Stage<K, T> &from, int at_row, int group) const {
        if constexpr (K == quant::Q8_0) {
            for (int j = 0; j < 2; j++)
                ldmatrix_x4(a[j], from.low(at_row + lane % 16) + (group + j) * 32 + lane / 16 * 16);
        } else {
            uint32_t packed[4];
            ldmatrix_x4(packed, from.low(at_row + lane % 16) + (group + lane / 16) * 16);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned char *bits = from.high(at_row + i % 2 * 8 + lane / 4);
                uint2 high = make_uint2(0, 0);
                if constexpr (K == quant::Q5_K) high.x = reinterpret_cast<const unsigned *>(bits)[group + i / 2];
                if constexpr (K == quant::Q6_K) high = reinterpret_cast<const uint2 *>(bits)[group + i / 2];
                uint2 both = quant::pair<K>(packed[i], high, lane % 4);
                a[i / 2][i % 2] = both.x;
                a[i / 2][2 + i % 2] = both.y;
            }
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

    // Adds the products of two groups of a step, of which `at` is the first one's place in the table.
    __device__ void two_groups(const Stage<K, T> &from, int at) {
        int group = part * kGroups + at;
        const float2 *scales = reinterpret_cast<const float2 *>(table);
        uint32_t a[T::MF][2][4];
        float2 w[T::MF][2][2];
#pragma unroll
        for (int m = 0; m < T::MF; m++) {
            weights(a[m], from, row + m * 16, group);
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[m][i / 2][i % 2] = scales[(at + i / 2) * 32 + m * 16 + i % 2 * 8 + lane / 4];
        }
#pragma unroll
        for (int f = 0; f < T::NF; f++) {
            uint32_t b[4];
            int first = input + f * 8;
            ldmatrix_x4(b, from.x(first + lane % 8, group * 2 + lane / 8));
            float4 even = *reinterpret_cast<const float4 *>(from.x_scales(first + lane % 4 * 2, group / 2));
            float4 odd = *reinterpret_cast<const float4 *>(from.x_scales(first + lane % 4 * 2 + 1, group / 2));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float2 x[2] = {j == 0 ? make_float2(even.x, even.y) : make_float2(even.z, even.w),
                                     j == 0 ? make_float2(odd.x, odd.y) : make_float2(odd.z, odd.w)};
#pragma unroll
                for (int m = 0; m < T::MF; m++) add(sums[m][f], a[m][j], b + 2 * j, w[m][j], x);
            }
        }
    }
};

} // namespace product_tiles

#define PRODUCTS(name, kind)                                                                                         \
    TILED(product_tiles_##name##_64, kind, product_tiles::Shape64, product_tiles::Warp, __launch_bounds__(128))      \
    TILED(product_tiles_##name##_128, kind, product_tiles::Shape128, product_tiles::Warp, __launch_bounds__(256))

EACH_KIND(PRODUCTS)

#undef PRODUCTS
