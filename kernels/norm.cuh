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

    // Where a piece of a row begins that this lane has four numbers of.
    __device__ float4 *at(int row, int piece) const {
        return reinterpret_cast<float4 *>(stream + size_t(row) * width + piece * kPiece) + threadIdx.x % 32;
    }

    // Writes a piece for the product; `v`: four of its numbers. All lanes of a warp together.
    __device__ void put(int row, int piece, float4 v) const {
        int at = piece * kPiece + threadIdx.x % 32 * 4;
        float4 w = __ldg(reinterpret_cast<const float4 *>(weight + at));
        float sum = warp_sum(rows::squares4(v));
        if (threadIdx.x % 32 == 0) squares[size_t(row) * (width / kPiece) + piece] = sum;
        rows::store4<T>(values + size_t(row) * width, scales + size_t(row) * (width / 32), at, width, true,
                        rows::times4(v, w));
    }
};

// What a product's sums are still to be multiplied with.
struct Scale {
    // Null: with nothing.
    const float *squares;
    float eps;

    // 1 / rms of one of up to 8 inputs, for each lane that of input lane / 4; all lanes of a warp together. Four lanes add
    // up an input's squares, four at a time if a row's lie on 16 bytes: in the same order however many inputs there are.
    __device__ float each(int n, int width) const {
        if (!squares) return 1.0f;
        unsigned mine = threadIdx.x % 32 / 4, pieces = unsigned(width) / kPiece, end = mine < unsigned(n) ? pieces : 0;
        const float *from = squares + mine * pieces;
        float sum = 0.0f;
        if (pieces % 4 == 0) {
#pragma unroll 1
            for (unsigned at = threadIdx.x % 4 * 4; at < end; at += 16) {
                float4 four = __ldg(reinterpret_cast<const float4 *>(from + at));
                sum += four.x + four.y + (four.z + four.w);
            }
        } else {
#pragma unroll 1
            for (unsigned at = threadIdx.x % 4; at < end; at += 4) sum += __ldg(from + at);
        }
        sum += __shfl_xor_sync(kAll, sum, 2);
        sum += __shfl_xor_sync(kAll, sum, 1);
        return rsqrtf(__fdividef(sum, float(width)) + eps);
    }

    // That of input `input`, of what all lanes have from `each`.
    static __device__ float of(int input, float each) { return __shfl_sync(kAll, each, input * 4); }
};

} // namespace norms
