// Tiles of 8-bit inputs: what a warp does with a step. Whole-number tensor cores. For cards whose tensor cores multiply
// halves at a quarter of the rate: GeForce. The kernels are in product_tiles.cu, product_pair.cu,
// product_tiles_gated.cu and product_tiles_normed.cu.
//
// `quant::pair` turns one packed word into the two registers that the product of 32 columns wants of it. Scales become
// floats once for each warp, a row a lane, in a small table of its own. Each group's whole-number sum is scaled and
// added in f32 (llama.cpp's MMQ does so too: groups have scales of their own on both sides). That is what limits it: two
// multiply-adds for each result and group (`scaled`). Minima would be a third. They are a product of their own instead,
// on tensor cores in tf32 (`take_minima`).
#pragma once
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

// Of halves with scales of their own: sums start at kBelow, so that none is negative, and are read as subnormal floats,
// which are (kBelow + sum) * 2^-149 and cost a multiply-add no more than others. kBelow is so small that it can be taken
// away from both halves at once, behind one rounding: three multiply-adds for a result and group instead of four. That
// rounding is 2^-25 of kBelow times a scale; a group's sums have 2^13 times a scale. Scales are times kHalfScale, which
// is as large as the largest scale allows, and `Warp::value` takes the rest back.
constexpr int kBelow = 1 << 18;
constexpr float kBelowFloat = 0x1p-131f, kHalfScale = 0x1p104f, kHalfValue = 0x1p45f;
static_assert(16 * 127 * 128 < kBelow, "no sum of 16 is negative");
__device__ inline float scaled(int first, int second, float2 scales) {
    float sum = __fmaf_rn(__int_as_float(first), scales.x, -kBelowFloat * (scales.x + scales.y));
    return __fmaf_rn(__int_as_float(second), scales.y, sum);
}

// `v` without what tf32 has no room for.
__device__ inline float high_part(float v) { return __uint_as_float(__float_as_uint(v) & 0xffffe000u); }

template <Kind K, class T> struct Warp : Place<K, T> {
    using Base = Place<K, T>;
    using In = Stage<K, T>;
    using Base::input, Base::kGroups, Base::lane, Base::part, Base::row, Base::sums, Base::table;

    // Offsets in a stage, of the part's first group: what the lane gives to ldmatrix of 16 inputs, and the scales of the
    // input 2t; those of 2t + 1 lie behind them. And of two groups' scaled sums, that of the group t / 2 and input g.
    int at_x, at_scales, at_sums;

    template <class R>
    __device__ Warp(unsigned char *tables, const R &rows, int groups) : Base(tables, rows, groups) {
        int group = part * kGroups;
        at_x = kept(In::x_at(input + lane / 16 * 8 + lane % 8, group * 2 + lane / 8 % 2));
        at_scales = kept(In::x_scales_at(input + lane % 4 * 2, group / 2));
        at_sums = kept(In::x_scales_at(input + lane / 4, group / 2) + lane % 4 / 2 * 8 + 4);
    }

    // The warp's table: scales by row and group, then minima. Of halves: two scales, by group and row.
    __device__ float *scales() const { return reinterpret_cast<float *>(table); }
    __device__ float *minima() const { return scales() + 32 * kGroups; }
    __device__ float2 *halves() const { return reinterpret_cast<float2 *>(table); }

    __device__ void take_scales(const unsigned char *stage, int first_group) const {
        float2 found[kGroups];
        constexpr float kBy = quant::kHalves<K> ? kHalfScale : 1.0f;
        Base::scales(stage, first_group, kBy, 1.0f, [&](int group, float2 scale) { found[group] = scale; });
#pragma unroll
        for (int j = 0; j < kGroups; j += 2) {
            if constexpr (quant::kHalves<K>) {
                halves()[j * 32 + lane] = found[j], halves()[(j + 1) * 32 + lane] = found[j + 1];
            } else {
                auto put = [&](float *to, float a, float b) {
                    *reinterpret_cast<float2 *>(to + lane * kGroups + j) = make_float2(a, b);
                };
                put(scales(), found[j].x, found[j + 1].x);
                if constexpr (quant::kMinimum<K>) put(minima(), found[j].y, found[j + 1].y);
            }
        }
        __syncwarp();
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

    // Adds the products of one group of 16 rows and 8 inputs. `w`: scales of rows g and g + 8, of halves both; `x`: of
    // the inputs 2t and 2t + 1.
    static __device__ void add(float to[4], const uint32_t a[4], const uint32_t b[2], const float2 w[2],
                               const float x[2]) {
        int first[4], second[4];
        if constexpr (quant::kHalves<K>) {
            mma_s8_k16(first, a, b, kBelow);
            mma_s8_k16(second, a + 2, b + 1, kBelow);
        } else {
            mma_s8_k32(first, a, b, quant::kMagic);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float sum;
            if constexpr (quant::kHalves<K>) sum = scaled(first[i], second[i], w[i / 2]);
            else sum = scaled(first[i], w[i / 2].x);
            to[i] = __fmaf_rn(sum, x[i % 2], to[i]);
        }
    }

    // Scales of row `at + lane / 4` of the warp's; of halves both.
    __device__ float2 scale_of(int at, int group) const {
        if constexpr (quant::kHalves<K>) return halves()[group * 32 + at + lane / 4];
        else return make_float2(scales()[(at + lane / 4) * kGroups + group], 0.0f);
    }

    // Adds the products of one group of a step.
    __device__ void add_group(const unsigned char *stage, int group) {
        uint32_t a[T::MF][4];
        float2 w[T::MF][2];
        weights(a, stage, group);
#pragma unroll
        for (int i = 0; i < 2 * T::MF; i++) w[i / 2][i % 2] = scale_of(i * 8, group);
        const unsigned char *from = stage + (at_x ^ group * 32);
        const unsigned char *of = stage + (at_scales ^ group / 2 * 16) + group % 2 * 8;
#pragma unroll
        for (int f = 0; f < T::NF; f += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, from + f * 8 * In::kX);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const unsigned char *even = of + (f + i) * 8 * In::kXScales, *odd = even + In::kXScales;
                const float x[2] = {*reinterpret_cast<const float *>(even), *reinterpret_cast<const float *>(odd)};
#pragma unroll
                for (int m = 0; m < T::MF; m++) add(sums[m][f + i], a[m], b + 2 * i, w[m], x);
            }
        }
    }

    // Takes away the minima of two groups times the sums of the inputs. Both are in two parts of tf32, and all four
    // products are added: exact but for 2^-21. A lane has the group t / 2: of the minima both parts, of the inputs the
    // high part if t is even, else the low one.
    __device__ void take_minima(const unsigned char *stage, int group) {
        float a[T::MF][4];
#pragma unroll
        for (int i = 0; i < 2 * T::MF; i++) {
            float minimum = minima()[(i * 8 + lane / 4) * kGroups + group + lane % 4 / 2];
            a[i / 2][i % 2] = high_part(minimum);
            a[i / 2][2 + i % 2] = minimum - high_part(minimum);
        }
        const unsigned char *from = stage + (at_sums ^ group / 2 * 16);
#pragma unroll
        for (int f = 0; f < T::NF; f++) {
            float x = *reinterpret_cast<const float *>(from + f * 8 * In::kXScales), high = high_part(x);
            // Negative.
            x = lane % 2 ? high - x : -high;
            const float b[2] = {x, x};
#pragma unroll
            for (int m = 0; m < T::MF; m++) mma_tf32(sums[m][f], a[m], b);
        }
    }

    // Two groups at a time, or one, so that two blocks' registers suffice.
    __device__ void add_step(const unsigned char *stage) {
        constexpr int kAtOnce = quant::kHalves<K> || (K == quant::Q8_0 && T::kShort) ? 1 : 2;
#pragma unroll 1
        for (int first = 0; first < kGroups; first += kAtOnce) {
            if constexpr (quant::kMinimum<K>) take_minima(stage, first);
#pragma unroll
            for (int j = 0; j < kAtOnce; j++) add_group(stage, first + j);
        }
    }

    // What is still to be multiplied with the inputs' sums, behind the warps' tables.
    static __device__ float *input_scales() {
        DYNAMIC_SHARED(memory);
        return reinterpret_cast<float *>(memory + T::kMostStages * In::kBytes + T::kThreads / 32 * Base::kTable);
    }

    // Works them out, of eight inputs a warp. All threads together.
    static __device__ void keep_scales(const Product &p, const Part &part) {
        int own = threadIdx.x / 32 * 8, input = part.across * T::N + own, columns = p.groups * 32;
        norms::Scale scale = p.scale;
        if (scale.squares) scale.squares += size_t(input) * (columns / norms::kPiece);
        float each = own < T::N && input < p.n ? scale.each(p.n - input, columns) : 0.0f;
        if (own < T::N && threadIdx.x % 4 == 0) input_scales()[own + threadIdx.x % 32 / 4] = each;
        __syncthreads();
    }

    // The value of a sum of an input.
    static __device__ float value(float sum, int input) {
        if constexpr (quant::kHalves<K>) sum *= kHalfValue;
        if constexpr (T::kScaled) sum *= input_scales()[input];
        return sum;
    }
};

// A tile whose values go on together, by inputs and in fours of rows.
template <class T> struct Whole {
    // Inputs whose values are in shared memory at once.
    static constexpr int kAtOnce = T::N < 32 ? T::N : 32;
    static_assert(T::WK == 1 || T::N == kAtOnce, "sums of two parts are added where they lie");
    Tile<T> tile;

    // Calls `put(first, values)` for every kAtOnce inputs from `first` on, all threads together. `values(row, input)`: of
    // four rows. Where several blocks share the columns of the tile, only in the last one.
    template <class W, class F> __device__ void finish(const W &warp, F put) const {
        if (!tile.is_whole(warp)) return;
        if (tile.part.shares == 1) return finish_own(warp, put);
#pragma unroll 1
        for (int first = 0; first < T::N; first += kAtOnce)
            put(first, [&](int row, int input) { return tile.template gather<W>(row, input); });
    }

    template <class W, class F> __device__ void finish_own(const W &warp, F put) const {
#pragma unroll
        for (int first = 0; first < T::N; first += kAtOnce) {
            // All have done with what lies there.
            __syncthreads();
            tile.join(warp, [&](int row, int input, float sum) {
                if (input / kAtOnce * kAtOnce == first) tile.place(row, input % kAtOnce) = W::value(sum, input);
            });
            __syncthreads();
            put(first, [&](int row, int input) {
                return *reinterpret_cast<const float4 *>(&tile.place(row, input % kAtOnce));
            });
        }
    }
};

} // namespace product_tiles

// Of a kind, PRODUCT for each number of inputs that there are tiles for.
#define EACH_SIZE(name, kind)                                                                                        \
    PRODUCT(name, kind, 16)                                                                                          \
    PRODUCT(name, kind, 32)                                                                                          \
    PRODUCT(name, kind, 64)
