// RMS norm of rows whose scale is left to the next product: what up to 64 rows go through on their way to it.
//
// A norm multiplies a row with a weight, number by number, and with 1 / rms, which is one number for all of the row. A
// product is linear, so that it may multiply its sums with 1 / rms instead of its inputs. Then no number of a row waits
// for all the others: a warp takes a piece of 128 numbers, writes them times the weight in the form that the product
// reads, and what their squares add up to. The product adds up the pieces' squares (`Scale`) while its own sums come
// together. Rounding is to a number of bits relative to the block's or the number's own size, so that it loses no more
// than it does with the scale; only halves with 5 bits of exponent have no room for rows without it.
//
// The numbers are the same whoever has the piece, and however many rows there are. Knows no product.
#pragma once
#include "rows.cuh"

namespace norms {

// Numbers of a piece: norm.rs has the same.
constexpr int kPiece = 128;

// Rows of `width` numbers, whole pieces: the residual stream, and what the next product reads. `values` is null if no
// product follows.
template <class T> struct Unscaled {
    int width;
    float *stream;
    const float *weight;
    T *values;
    float2 *scales;
    // What a piece's squares add up to, `[n][width / kPiece]`.
    float *squares;

    // The first of this lane's four numbers of a piece of a row, counted from the first row.
    __device__ unsigned index(unsigned row, int piece) const {
        return row * unsigned(width) + unsigned(piece * kPiece) + threadIdx.x % 32 * 4;
    }

    __device__ float4 *at(unsigned row, int piece) const {
        return reinterpret_cast<float4 *>(stream + index(row, piece));
    }

    // Writes a piece for the product; `v`: four of its numbers. All lanes of a warp together.
    __device__ void put(unsigned row, int piece, float4 v) const {
        unsigned to = index(row, piece);
        float4 w = __ldg(reinterpret_cast<const float4 *>(weight + index(0, piece)));
        float sum = warp_sum(rows::squares4(v));
        if (threadIdx.x % 32 == 0) squares[to / kPiece] = sum;
        write(values, to, rows::times4(v, w));
    }

    __device__ void write(int8_t *values, unsigned to, float4 v) const {
        rows::Rounded rounded = rows::round32(v);
        *reinterpret_cast<uint32_t *>(values + to) = rounded.bytes;
        if (threadIdx.x % 8 == 0) scales[to / 32] = rounded.scale;
    }

    __device__ void write(bf16 *values, unsigned to, float4 v) const {
        rows::store4<bf16>(values + to, nullptr, 0, 4, true, v);
    }
};

// What a product's sums are still to be multiplied with.
struct Scale {
    // Null: with nothing.
    const float *squares;
    float eps;

    // 1 / rms of one of `n` inputs, up to 8, for each lane that of input lane / 4 or of the last one; all lanes of a warp
    // together. Four lanes add up an input's squares, four at a time if a row's lie on 16 bytes: in the same order however
    // many inputs there are.
    __device__ float each(int n, int width) const {
        if (!squares) return 1.0f;
        unsigned pieces = unsigned(width) / kPiece, lane = threadIdx.x % 32;
        const float *from = squares + min(lane / 4, unsigned(n - 1)) * pieces;
        float sum = pieces % 4 == 0 ? fours(from, lane % 4 * 4, pieces) : singles(from, lane % 4, pieces);
        sum += __shfl_xor_sync(kAll, sum, 2);
        sum += __shfl_xor_sync(kAll, sum, 1);
        return inverse_root(sum, width);
    }

    // That of input `input` of `n`, of what all lanes have from `each`.
    static __device__ float of(int input, float each, int n) {
        return n == 1 ? each : __shfl_sync(kAll, each, input * 4);
    }

  private:
    // Two loads are on their way at once, which is all of a row of up to 4,096 numbers.
    static __device__ float fours(const float *from, unsigned at, unsigned end) {
        const float4 *four = reinterpret_cast<const float4 *>(from + at);
        float sum = 0.0f;
        if (at < end) sum = sum4(__ldg(four));
        if (at + 16 < end) sum += sum4(__ldg(four + 4));
        // All lanes take as many turns.
#pragma unroll 1
        for (unsigned turn = 32; turn < end; turn += 16)
            if (at + turn < end) sum += sum4(__ldg(four + turn / 4));
        return sum;
    }

    static __device__ float singles(const float *from, unsigned at, unsigned end) {
        float sum = 0.0f;
#pragma unroll 1
        for (; at < end; at += 4) sum += __ldg(from + at);
        return sum;
    }

    static __device__ float sum4(float4 v) { return v.x + v.y + (v.z + v.w); }

    // 1 / sqrt(sum / width + eps), of normal numbers.
    __device__ float inverse_root(float sum, int width) const {
#ifdef __CUDACC__
        float by, root;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(by) : "f"(float(width)));
        asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(__fmaf_rn(sum, by, eps)));
        return root;
#else
        return rsqrtf(sum / float(width) + eps);
#endif
    }
};

} // namespace norms
