// Products of quantised weights with more than 8 inputs in bf16: tiles, tensor cores in half precision.
//
// A warp turns packed weights into bf16 in registers, right into the fragments of the products: a number's bits become
// the lowest of 128's mantissa, an exact whole number after one subtraction, and one fused multiply-add gives it scale
// and minimum, rounded once. Sums of all columns then stay in the tensor cores' f32: nothing is done per result and
// group, which is what limits whole-number tensor cores (product_tiles.cu). About 2.3 instructions a number and lane,
// for all inputs together; at 32 inputs a third of what the other kernel takes (counted in the SASS for sm_90). The
// idea is that of Marlin (arXiv:2408.11743); here weights stay in planes as the matrix-vector products want them: the
// order of columns within 32 is renamed instead, the same for weights and inputs, so sums do not notice.
//
// Exact but for the rounding of weights and inputs to bf16 (2^-9 of each), where 8-bit inputs have 2^-8 of the largest
// of 32. Q8_0's numbers have a bit too many for that way and go through floats.
#include "tiles.cuh"

namespace product_halves {

using namespace tiles;

using Shape16 = Shape<false, 128, 16, 4, 1, 2, 4, 4>;
using Shape32 = Shape<false, 128, 32, 4, 1, 2, 4, 3>;
using Shape64 = Shape<false, 128, 64, 4, 2, 1, 4, 2>;
using Shape128 = Shape<false, 128, 128, 4, 2, 1, 4, 2>;

// The pair of bf16 that has the same number twice.
__device__ inline uint32_t twice(float v) {
    bf16 half = from_float<bf16>(v);
    return pack2(half, half);
}

// What is to be added to 128 and a kind's unsigned number so that the number itself comes out, as a pair.
template <Kind K>
constexpr uint32_t kOffset = K == quant::Q4_0 ? 0xc308c308u : K == quant::Q6_K ? 0xc320c320u : 0xc300c300u;
// How often the table's scale has to be taken where `quant::pair` multiplies a kind's numbers for its own ends.
template <Kind K> constexpr float kFactor = K == quant::Q4_0 ? 16.0f : K == quant::Q6_K ? 4.0f : 1.0f;

// Four unsigned numbers of up to 7 bits, from the words of `quant::pair`.
template <Kind K> __device__ inline uint32_t unsigned_bytes(uint32_t bytes) {
    if constexpr (K == quant::Q4_0) return (bytes >> 4 & 0x0f0f0f0fu) ^ 0x08080808u;
    if constexpr (K == quant::Q6_K) return (bytes >> 2 & 0x3f3f3f3fu) ^ 0x20202020u;
    return bytes;
}

// Four numbers as two pairs of bf16, the first two in the first pair: `scale` times each, less `minimum`.
template <Kind K> __device__ inline uint2 halves(uint32_t bytes, uint32_t scale, uint32_t minimum) {
    constexpr uint32_t kOne = 0x3f803f80u, kNothing = 0x80008000u;
    uint2 whole;
    if constexpr (K == quant::Q8_0) {
        whole = bf16_of_s8(bytes);
    } else {
        uint32_t numbers = unsigned_bytes<K>(bytes);
        whole.x = fma_bf16x2(__byte_perm(numbers, 0x43434343u, 0x4140), kOne, kOffset<K>);
        whole.y = fma_bf16x2(__byte_perm(numbers, 0x43434343u, 0x4342), kOne, kOffset<K>);
    }
    uint32_t less = quant::kMinimum<K> ? minimum : kNothing;
    return make_uint2(fma_bf16x2(whole.x, scale, less), fma_bf16x2(whole.y, scale, less));
}

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;

    // Where the lane's numbers of an input lie, 8 columns of a group of even and of odd number at a time: from the
    // input's beginning on, for the first two of the four groups.
    int at_x[2][2];

    __device__ Warp(unsigned char *tables) : Base(tables) {
        int g = lane / 4, t = lane % 4;
        for (int odd = 0; odd < 2; odd++)
            for (int half = 0; half < 2; half++)
                at_x[odd][half] = Stage<K, T>::x_at(input + g, odd * 4 + half * 2 + t / 2) + t % 2 * 8;
    }

    // Pairs: the scale and the minimum to be added, or the scales of a group's halves.
    __device__ void take_scales(const Stage<K, T> &from, size_t first_row, int first_group, int groups) const {
        uint2 *to = reinterpret_cast<uint2 *>(table) + lane;
        Base::scales(from, first_row, first_group, groups, [&](int group, float2 scale) {
            float second = quant::kHalves<K> ? scale.y * kFactor<K> : -scale.y;
            to[group * 32] = make_uint2(twice(scale.x * kFactor<K>), twice(second));
        });
    }

    // The weights of 16 rows and the columns 4 t .. 4 t + 3 of a group's first half, then of its second, in the order
    // of mma's registers. `packed`: words of rows g and g + 8.
    __device__ void weights(uint32_t a[2][4], const Stage<K, T> &from, int at_row, int group, int at,
                            const uint32_t packed[2], const uint32_t second[2]) const {
        int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned char *bits = from.high(at_row + i * 8 + g);
            uint2 high = make_uint2(0, 0), both = make_uint2(packed[i], second[i]);
            if constexpr (K == quant::Q5_K) high.x = reinterpret_cast<const unsigned *>(bits)[group];
            if constexpr (K == quant::Q6_K) high = reinterpret_cast<const uint2 *>(bits)[group];
            if constexpr (K != quant::Q8_0) both = quant::pair<K>(packed[i], high, t);
            uint2 scale = reinterpret_cast<const uint2 *>(table)[at * 32 + at_row - row + i * 8 + g];
            uint2 low = halves<K>(both.x, scale.x, scale.y);
            uint2 rest = halves<K>(both.y, quant::kHalves<K> ? scale.y : scale.x, scale.y);
            a[0][i] = low.x, a[0][2 + i] = low.y;
            a[1][i] = rest.x, a[1][2 + i] = rest.y;
        }
    }

    // The words that `weights` wants of the groups `group` and `group + 1`: [group][row], low and Q8_0's second ones.
    __device__ void words(uint32_t packed[2][2], uint32_t second[2][2], const Stage<K, T> &from, int at_row,
                          int group) const {
        uint32_t r[4];
        if constexpr (K == quant::Q8_0) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                ldmatrix_x4(r, from.low(at_row + lane % 16) + (group + j) * 32 + lane / 16 * 16);
                packed[j][0] = r[0], packed[j][1] = r[1], second[j][0] = r[2], second[j][1] = r[3];
            }
        } else {
            ldmatrix_x4(r, from.low(at_row + lane % 16) + (group + lane / 16) * 16);
#pragma unroll
            for (int i = 0; i < 4; i++) packed[i / 2][i % 2] = r[i], second[i / 2][i % 2] = 0;
        }
    }

    // Adds the products of two groups of a step, of which `at` is the first one's place in the table.
    __device__ void two_groups(const Stage<K, T> &from, int at) {
        int group = part * kGroups + at;
        uint32_t packed[T::MF][2][2], second[T::MF][2][2];
#pragma unroll
        for (int m = 0; m < T::MF; m++) words(packed[m], second[m], from, row + m * 16, group);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t a[T::MF][2][4];
#pragma unroll
            for (int m = 0; m < T::MF; m++)
                weights(a[m], from, row + m * 16, group + j, at + j, packed[m][j], second[m][j]);
#pragma unroll
            for (int f = 0; f < T::NF; f++) {
                // Two groups further on everything lies 128 bytes further on.
                const unsigned char *x = from.at + f * 8 * Stage<K, T>::kX + group * 64;
                uint2 first = *reinterpret_cast<const uint2 *>(x + at_x[j][0]);
                uint2 rest = *reinterpret_cast<const uint2 *>(x + at_x[j][1]);
                const uint32_t b[2][2] = {{first.x, first.y}, {rest.x, rest.y}};
#pragma unroll
                for (int m = 0; m < T::MF; m++) {
                    mma(sums[m][f], a[m][0], b[0], bf16());
                    mma(sums[m][f], a[m][1], b[1], bf16());
                }
            }
        }
    }
};

} // namespace product_halves

// Behind the inputs: blocks of a multiprocessor, by the registers that they take without spilling. Three were slower than
// two on an H100, by 3 % with 16 inputs and 7 % with 32.
#define PRODUCT(name, kind, inputs, ...)                                                                             \
    TILED(product_halves_##name##_##inputs, kind, product_halves::Shape##inputs, product_halves::Warp,               \
          __launch_bounds__(256 __VA_ARGS__))
#define PRODUCTS(name, kind)                                                                                         \
    PRODUCT(name, kind, 16, , 2)                                                                                     \
    PRODUCT(name, kind, 32, , 2)                                                                                     \
    PRODUCT(name, kind, 64, , 2)                                                                                     \
    PRODUCT(name, kind, 128)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
