// Products of quantised weights with more than 8 inputs in bf16: tiles, tensor cores in half precision. For cards whose
// tensor cores are fast with it: A100, H100, B200.
//
// A warp turns packed weights into bf16 in registers, right into the fragments of the products: an unsigned number's
// bits, read as bf16, are that number times 2^-133 (subnormal, or the smallest normal ones), and one fused multiply-add
// gives it scale and minimum, rounded once. Scales are taken 2^97 times, so that neither they nor their products leave
// bf16's range; sums are brought back in the end, which is exact. Sums of all columns stay in the tensor cores' f32:
// nothing is done per result and group, which is what limits whole-number tensor cores (product_tiles.cu). The idea is
// that of Marlin (arXiv:2408.11743); here weights stay in planes as the matrix-vector products want them: the order of
// columns within 32 is renamed instead, the same for weights and inputs, so sums do not notice.
//
// Exact but for the rounding of weights and inputs to bf16 (2^-9 of each), where 8-bit inputs have 2^-8 of the largest
// of 32.
#include "tiles.cuh"

namespace product_halves {

using namespace tiles;

// Shapes as they were measured on an H100: Q8_0 with 32 inputs and all kinds with 64 in steps of two groups. A warp has
// all 64 inputs, so that weights are unpacked once.
template <Kind K> using Shape16 = Shape<false, 128, 16, 4, 1, 2, 4>;
template <Kind K> using Shape32 = Shape<false, 128, 32, 4, 1, 2, K == quant::Q8_0 ? 2 : 4>;
template <Kind K> using Shape64 = Shape<false, 128, 64, 4, 1, 2, 2>;
template <Kind K> using Shape128 = Shape<false, 128, 128, 4, 2, 1, 4>;
// Blocks of 128 inputs that registers leave room for.
template <Kind K> constexpr int kBlocks128 = quant::kHighBytes<K> != 0 ? 1 : 2;

// A number's bits are worth kBit each; scales are taken kFromBits times, so that sums come out kUp times too small.
constexpr float kBit = 0x1p-133f, kFromBits = 0x1p97f, kUp = 0x1p36f;
static_assert(kBit * kFromBits * kUp == 1.0f, "numbers are what they were");

// What a kind's unsigned numbers are above its numbers.
template <Kind K> constexpr int kOffset = K == quant::Q4_0                         ? 8
                                          : K == quant::Q5_0                       ? 16
                                          : K == quant::Q6_K                       ? 32
                                          : K == quant::Q8_0 || K == quant::IQ4_NL ? 128
                                                                                   : 0;
// The middle of a kind's unsigned numbers.
template <Kind K> constexpr float kMiddle = quant::kFifths<K> ? 15.5f : 7.5f;
// How often scales have to be taken where `quant::scale_of` divides them for numbers that come multiplied.
template <Kind K>
constexpr float kFactor = (K == quant::Q4_0 ? 16.0f : K == quant::Q5_0 ? 8.0f : K == quant::Q6_K ? 4.0f : 1.0f) * kFromBits;

// Unsigned numbers: four bytes each of the numbers 4 w .. 4 w + 3 and 16 + 4 w .. 16 + 4 w + 3 of a group.
template <Kind K> __device__ inline uint2 unsigned_pair(uint32_t low, uint32_t second, uint2 high, int w) {
    constexpr uint32_t kFour = 0x0f0f0f0fu;
    if constexpr (K == quant::Q8_0) return make_uint2(low ^ 0x80808080u, second ^ 0x80808080u);
    if constexpr (K == quant::Q4_0) return make_uint2((low & kFour) ^ 0x08080808u, (low >> 4 & kFour) ^ 0x08080808u);
    if constexpr (K == quant::Q6_K) {
        // The bits 2 w and 2 w + 1 of each byte go to 4 and 5; none leaves its byte.
        int by = (4 - 2 * w) & 31;
        auto turned = [&](uint32_t bits) { return ((bits << by | bits >> (-by & 31)) & 0x30303030u) ^ 0x20202020u; };
        return make_uint2((low & kFour) | turned(high.x), (low >> 4 & kFour) | turned(high.y));
    }
    if constexpr (K == quant::Q5_0) {
        // The fifth bits are turned over on a card.
        return make_uint2((low & kFour) | ((high.x << (4 - w) & 0x10101010u) ^ 0x10101010u),
                          (low >> 4 & kFour) | ((high.x >> w & 0x10101010u) ^ 0x10101010u));
    }
    if constexpr (K == quant::IQ4_NL) {
        uint2 both = quant::pair<K>(low, high, w);
        return make_uint2(both.x ^ 0x80808080u, both.y ^ 0x80808080u);
    }
    if constexpr (quant::kMinimum<K>) return quant::pair<K>(low, high, w);
}

// Four numbers as two pairs of bf16, the first two in the first pair: `scale` times each, and `more`.
__device__ inline uint2 halves(uint32_t bytes, uint32_t scale, uint32_t more) {
    return make_uint2(fma_bf16x2(__byte_perm(bytes, 0, 0x4140), scale, more),
                      fma_bf16x2(__byte_perm(bytes, 0, 0x4342), scale, more));
}

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;

    // Where the lane's numbers of an input lie, 8 columns of either half of the part's first group.
    int at_x[2];

    template <class R>
    __device__ Warp(unsigned char *tables, const R &rows, int groups) : Base(tables, rows, groups) {
        int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; half++) {
            int at = part * kGroups * 4 + half * 2 + t / 2;
            at_x[half] = kept(Stage<K, T>::x_at(input + g, at) + t % 2 * 8);
        }
    }

    // Pairs: the scale and what is added, or the scales of a group's halves.
    __device__ void take_scales(const unsigned char *stage, int first_group) const {
        uint2 *to = reinterpret_cast<uint2 *>(table) + lane;
        Base::scales(stage, first_group, kFactor<K>, 1 / kUp, [&](int group, float2 scale) {
            float less = scale.x * (-kOffset<K> * kBit);
            float second = quant::kHalves<K> ? scale.y : quant::kMinimum<K> ? -scale.y : less;
            uint32_t twice = twice_bf16(scale.x);
            // What the scale loses by rounding is made up for in the middle of the numbers.
            if constexpr (quant::kPairs<K>) second += (scale.x - __uint_as_float(twice << 16)) * (kMiddle<K> * kBit);
            to[group * 32] = make_uint2(twice, twice_bf16(second));
        });
        __syncwarp();
    }

    // The weights of 16 rows and the columns 4 t .. 4 t + 3 of a group's first half, then of its second, in the order
    // of mma's registers. `packed`: words of rows g and g + 8.
    __device__ void weights(uint32_t a[2][4], const unsigned char *stage, int m, int group, const uint32_t packed[2],
                            const uint32_t second[2]) const {
        int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint2 high = Base::further(stage, m * 16 + i * 8, group);
            uint2 bytes = unsigned_pair<K>(packed[i], second[i], high, t);
            uint2 scale = reinterpret_cast<const uint2 *>(table)[group * 32 + m * 16 + i * 8 + g];
            uint32_t rest = scale.x, more[2] = {scale.y, scale.y};
            if constexpr (quant::kHalves<K>) {
                constexpr uint32_t kNothing = 0x80008000u, kLess = kNothing | kOffset<K> * 0x10001u;
                rest = scale.y;
                more[0] = fma_bf16x2(scale.x, kLess, kNothing), more[1] = fma_bf16x2(scale.y, kLess, kNothing);
            }
            uint2 low = halves(bytes.x, scale.x, more[0]), high_half = halves(bytes.y, rest, more[1]);
            a[0][i] = low.x, a[0][2 + i] = low.y;
            a[1][i] = high_half.x, a[1][2 + i] = high_half.y;
        }
    }

    // Adds the products of one group of the part.
    __device__ void add_group(const unsigned char *stage, int group) {
        uint32_t packed[T::MF][2], second[T::MF][2], a[T::MF][2][4];
        Base::words(packed, second, stage, group);
#pragma unroll
        for (int m = 0; m < T::MF; m++) weights(a[m], stage, m, group, packed[m], second[m]);
#pragma unroll
        for (int f = 0; f < T::NF; f++) {
            // Two groups further on everything lies 128 bytes further on.
            const unsigned char *x = stage + f * 8 * Stage<K, T>::kX + group / 2 * 128;
            uint2 first = *reinterpret_cast<const uint2 *>(x + (at_x[0] ^ (group % 2 * 64)));
            uint2 rest = *reinterpret_cast<const uint2 *>(x + (at_x[1] ^ (group % 2 * 64)));
            const uint32_t b[2][2] = {{first.x, first.y}, {rest.x, rest.y}};
#pragma unroll
            for (int m = 0; m < T::MF; m++) {
                mma(sums[m][f], a[m][0], b[0], bf16());
                mma(sums[m][f], a[m][1], b[1], bf16());
            }
        }
    }

    __device__ void add_step(const unsigned char *stage) {
#pragma unroll 2
        for (int group = 0; group < kGroups; group++) add_group(stage, group);
    }

    // The value of a sum.
    static __device__ float value(float sum, int) { return sum * kUp; }
};

} // namespace product_halves

// Behind the inputs: blocks of a multiprocessor, by the registers that they take without spilling. Three were slower
// than two on an H100, by 3 % with 16 inputs and 7 % with 32.
#define PRODUCT(name, kind, inputs, ...)                                                                             \
    TILED(product_halves_##name##_##inputs, kind, product_halves::Shape##inputs<quant::kind>,                        \
          product_halves::Warp,                                                                                      \
          __launch_bounds__(256 __VA_ARGS__))
#define PRODUCTS(name, kind)                                                                                         \
    PRODUCT(name, kind, 16, , 2)                                                                                     \
    PRODUCT(name, kind, 32, , 2)                                                                                     \
    PRODUCT(name, kind, 64, , 2)                                                                                     \
    PRODUCT(name, kind, 128, , product_halves::kBlocks128<quant::kind>)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
