// Quantised weights as they lie on a card: planes of equal pieces, read by 16 bytes.
//
// The kinds' files in src/quant say what each plane holds and write it. A group is 32 numbers of a row, the unit of all
// kernels here. Two products use these functions: dot products by dp4a, and tensor cores; both start their
// whole-number sums at `kMagic`, whose bits read as a float are 1.5 * 2^23 + sum: turning a sum into a float then
// is one subtraction at full rate, where a conversion runs at a quarter of it. It is exact while
// |sum| < 2^22; the largest here is 32 * 127 * 128.
#pragma once
#include "common.cuh"

namespace quant {

enum Kind { Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, Q4_K, Q5_K, Q6_K };

// Null where a kind has no such plane.
struct Planes {
    const uint8_t *low, *high, *scales, *supers;
};

// Bytes of a group in the planes of low and further bits.
template <Kind K> constexpr int kLowBytes = K == Q8_0 ? 32 : 16;
template <Kind K> constexpr bool kFifths = K == Q5_0 || K == Q5_1 || K == Q5_K;
template <Kind K> constexpr int kHighBytes = kFifths<K> ? 4 : K == Q6_K ? 8 : 0;
// Whether a group's halves have scales of their own.
template <Kind K> constexpr bool kHalves = K == Q6_K;
// Whether 8 groups have their scales and minima in one head of 16 bytes.
template <Kind K> constexpr bool kHeads = K == Q4_K || K == Q5_K;
// Whether a group has a scale and a minimum of its own, 2 bytes each.
template <Kind K> constexpr bool kPairs = K == Q4_1 || K == Q5_1;
template <Kind K> constexpr bool kMinimum = kHeads<K> || kPairs<K>;
// Bytes of a group in the plane of scales.
template <Kind K> constexpr int kScaleBytes = kPairs<K> ? 4 : 2;

constexpr int kMagic = 0x4b400000;
__device__ inline float sum_to_float(int sum) { return __int_as_float(sum) - 12582912.0f; }

__device__ inline float half_bits(uint32_t bits) {
    f16 value;
    uint16_t low = uint16_t(bits);
    memcpy(&value, &low, 2);
    return to_float(value);
}

// What the scales of a group are made of, as loaded: nothing is worked out before it is needed, so that loads can
// be far ahead. Unused words cost nothing.
struct RawScale {
    uint32_t super, a, b, c;
};

// `index`: row * groups + group; groups per row are whole heads of 8 where a kind has heads.
template <Kind K> __device__ inline RawScale load_scale(const Planes &planes, size_t index) {
    if constexpr (kHeads<K>) {
        uint4 head = __ldg(reinterpret_cast<const uint4 *>(planes.scales) + index / 8);
        return {head.x, head.y, head.z, head.w};
    } else if constexpr (kPairs<K>) {
        return {__ldg(reinterpret_cast<const unsigned *>(planes.scales) + index), 0, 0, 0};
    } else {
        uint32_t scale = __ldg(reinterpret_cast<const unsigned short *>(planes.scales) + index);
        if constexpr (K != Q6_K) return {scale, 0, 0, 0};
        return {__ldg(reinterpret_cast<const unsigned short *>(planes.supers) + index / 8), scale, 0, 0};
    }
}

// The scale of a group's numbers as `words` gives them, and what is subtracted from each; of halves, both scales.
// Scales times `by` and what is subtracted times `less_by`, powers of two.
template <Kind K>
__device__ inline float2 scale_of(const RawScale &raw, int group, float by = 1.0f, float less_by = 1.0f) {
    float d = half_bits(raw.super) * by;
    if constexpr (kPairs<K>) {
        return make_float2(d, -less_by * half_bits(raw.super >> 16));
    } else if constexpr (kHeads<K>) {
        int at = group % 8 * 4;
        uint32_t high = raw.c >> at;
        uint32_t scale = (raw.a >> at & 15) | (high & 3) << 4, minimum = (raw.b >> at & 15) | (high & 12) << 2;
        return make_float2(d * float(scale), half_bits(raw.super >> 16) * less_by * float(minimum));
    } else if constexpr (K == Q6_K) {
        d *= 0.25f;
        return make_float2(d * float(int8_t(raw.a)), d * float(int8_t(raw.a >> 8)));
    } else {
        return make_float2(K == Q4_0 ? d * 0.0625f : K == Q5_0 ? d * 0.125f : d, 0.0f);
    }
}

// IQ4_NL's numbers for the lower four of eight indices of 3 bits, with the fourth bits in `upper`: 0x3210, and 4 more
// where one is set. A byte permutation looks eight numbers up, so each half of the table is asked for all four.
__device__ inline uint32_t four_of_table(uint32_t indices, uint32_t upper) {
    uint32_t below = __byte_perm(0xbfad9881u, 0xf6eaddcfu, indices);
    return __byte_perm(below, __byte_perm(0x26190d01u, 0x71594535u, indices), upper);
}

// Four bytes each of the numbers 4 w .. 4 w + 3 and 16 + 4 w .. 16 + 4 w + 3 of a group, from word `w` of its low
// bits and all its further bits. Q4_0's come times 16, Q5_0's times 8 and Q6_K's times 4: so their sign bits stand
// where a byte's do.
template <Kind K> __device__ inline uint2 pair(uint32_t low, uint2 high, int w) {
    if constexpr (K == Q4_0) {
        return make_uint2(low << 4 & 0xf0f0f0f0u, low & 0xf0f0f0f0u);
    } else if constexpr (K == IQ4_NL) {
        uint32_t indices = low & 0x77777777u, upper = (low >> 1 & 0x44444444u) | 0x32103210u;
        return make_uint2(four_of_table(indices, upper), four_of_table(indices >> 16, upper >> 16));
    } else if constexpr (K == Q5_0) {
        return make_uint2((low << 3 & 0x78787878u) | (high.x << (7 - w) & 0x80808080u),
                          (low >> 1 & 0x78787878u) | (high.x << (3 - w) & 0x80808080u));
    } else if constexpr (K == Q4_1 || K == Q4_K) {
        return make_uint2(low & 0x0f0f0f0fu, low >> 4 & 0x0f0f0f0fu);
    } else if constexpr (K == Q5_1 || K == Q5_K) {
        return make_uint2((low & 0x0f0f0f0fu) | (high.x << (4 - w) & 0x10101010u),
                          (low >> 4 & 0x0f0f0f0fu) | (high.x >> w & 0x10101010u));
    } else {
        static_assert(K == Q6_K, "numbers of 4 to 6 bits");
        int by = 6 - 2 * w;
        return make_uint2((low << 2 & 0x3c3c3c3cu) | (high.x << by & 0xc0c0c0c0u),
                          (low >> 2 & 0x3c3c3c3cu) | (high.y << by & 0xc0c0c0c0u));
    }
}

// A group's part of a product: `sums` from kMagic on, of all 32 numbers or of either half; `x`: the input's scale,
// and scale * sum of its whole numbers.
template <Kind K> __device__ inline float add(float so_far, float2 scale, float2 x, int sum, int second) {
    float value = sum_to_float(sum);
    if constexpr (kHalves<K>) {
        value = scale.x * value + scale.y * sum_to_float(second);
        return so_far + x.x * value;
    } else if constexpr (kMinimum<K>) {
        return so_far + (scale.x * x.x) * value - scale.y * x.y;
    } else {
        return so_far + (scale.x * x.x) * value;
    }
}

// A group's bits as loaded.
template <Kind K> struct RawBits {
    uint4 low, second;
    uint2 high;
};

template <Kind K> __device__ inline RawBits<K> load_bits(const Planes &planes, size_t index) {
    RawBits<K> raw = {};
    const uint4 *low = reinterpret_cast<const uint4 *>(planes.low) + index * (kLowBytes<K> / 16);
    raw.low = __ldcs(low);
    if constexpr (K == Q8_0) raw.second = __ldcs(low + 1);
    if constexpr (kFifths<K>) raw.high.x = __ldcs(reinterpret_cast<const unsigned *>(planes.high) + index);
    if constexpr (K == Q6_K) raw.high = __ldcs(reinterpret_cast<const uint2 *>(planes.high) + index);
    return raw;
}

// A group's 32 numbers, four in a word.
template <Kind K> __device__ inline void words(const RawBits<K> &raw, int out[8]) {
    const uint32_t low[4] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w};
    const uint32_t second[4] = {raw.second.x, raw.second.y, raw.second.z, raw.second.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
        uint2 both = make_uint2(low[w], second[w]);
        if constexpr (K != Q8_0) both = pair<K>(low[w], raw.high, w);
        out[w] = int(both.x);
        out[4 + w] = int(both.y);
    }
}

} // namespace quant

// `one(name, kind)` for every kind: how kernels are made of a template.
#define EACH_KIND_BUT_Q6_K(one)                                                                                      \
    one(q8_0, Q8_0) one(q4_0, Q4_0) one(q4_1, Q4_1) one(q5_0, Q5_0) one(q5_1, Q5_1) one(iq4_nl, IQ4_NL)              \
    one(q4_k, Q4_K) one(q5_k, Q5_K)
#define EACH_KIND(one) EACH_KIND_BUT_Q6_K(one) one(q6_k, Q6_K)
