// What products of quantised weights with many inputs have in common: tiles, and how they come to shared memory.
//
// A block computes M rows times N inputs, in steps of G groups (of 32 columns). Each step's weights, inputs and the
// scales of both are copied to shared memory as they are, asynchronously, S - 1 steps ahead: nothing that comes from
// memory is waited for within a step. Weights stay packed until a warp has them in a fragment, so shared memory
// carries 4.5 bits a number. What a warp does with a step is the kernels' own (product_tiles.cu, product_halves.cu).
//
// A matrix with few rows has few tiles. Their columns are then shared by several blocks (the grid's z, known as
// split-K): each writes its sums to scratch memory, and the last to come adds all of them, in the order of their
// columns, so that the same inputs always give the same bits.
//
// Strides in shared memory are odd multiples of 16 bytes: eight rows' pieces then lie in different banks, as do single
// words of eight rows. Inputs in bf16, and scales of those in 8 bits, are swizzled instead, which takes no room.
#pragma once
#include "quant.cuh"

namespace tiles {

using quant::Kind;
using quant::Planes;

// `kEightBits`: inputs are 8-bit numbers with scales, else bf16.
template <bool kEightBits, int kM, int kN, int kWarpsM, int kWarpsN, int kWarpsK, int kGroups, int kStages>
struct Shape {
    static constexpr bool kEight = kEightBits;
    static constexpr int M = kM, N = kN, WM = kWarpsM, WN = kWarpsN, WK = kWarpsK, G = kGroups, S = kStages;
    static constexpr int kThreads = 32 * WM * WN * WK;
    // 16 x 8 fragments of a warp.
    static constexpr int MF = M / WM / 16, NF = N / WN / 8;
    static_assert(M % (16 * WM) == 0 && N % (8 * WN) == 0 && G % (2 * WK) == 0 && 8 % G == 0, "whole fragments");
    static_assert(MF * 16 == 32, "a lane has the scales of one row");
};

// Arguments of a launch.
struct Product {
    Planes planes;
    const void *x;
    const float2 *x_scales;
    // An even number of groups: the scales of two are the least that can be copied.
    int rows, groups, n;
    float *out;
    size_t stride;
    const float *bias;
    // Where blocks that share a tile leave their sums, [tiles][blocks][N][M], and how many have, [tiles]: zeros, which
    // it is again in the end.
    float *partials;
    unsigned *counts;
};

// One step's part of shared memory, in bytes.
template <Kind K, class T> struct Stage {
    static constexpr int kLow = T::G * quant::kLowBytes<K> + 16;
    static constexpr int kHigh = quant::kHighBytes<K> ? T::G * quant::kHighBytes<K> + 16 : 0;
    static constexpr int kX = T::kEight ? T::G * 32 + 16 : T::G * 64;
    // A row's scales as they lie in memory: a head, or 2 bytes a group, and 4 bytes of which 2 are the super scale.
    static constexpr int kScales = quant::kMinimum<K> ? 16 : T::G * 2, kSupers = quant::kHalves<K> ? 4 : 0;
    static constexpr int kXScales = T::kEight ? T::G * 8 : 0;
    static constexpr int kHighAt = T::M * kLow, kXAt = kHighAt + T::M * kHigh, kXScalesAt = kXAt + T::N * kX;
    static constexpr int kScalesAt = kXScalesAt + T::N * kXScales, kSupersAt = kScalesAt + T::M * kScales;
    static constexpr int kBytes = kSupersAt + T::M * kSupers;
    static_assert(kBytes % 16 == 0, "the next stage starts on 16 bytes");

    unsigned char *at;

    __device__ unsigned char *low(int row) const { return at + row * kLow; }
    __device__ unsigned char *high(int row) const { return at + kHighAt + row * kHigh; }
    // A piece of 16 bytes of an input. Those of halves are swizzled such that 8 bytes side by side of four lanes and
    // four inputs lie in different banks.
    __device__ static int x_at(int input, int piece) {
        int place = T::kEight ? piece : piece ^ input % 4 * 2;
        return kXAt + input * kX + place * 16;
    }
    __device__ unsigned char *x(int input, int piece) const { return at + x_at(input, piece); }
    __device__ unsigned char *scales(int row) const { return at + kScalesAt + row * kScales; }
    __device__ unsigned char *supers(int row) const { return at + kSupersAt + row * kSupers; }
    // The scales of one input and the groups 2 `pair` and 2 `pair` + 1: 16 bytes, such that the inputs 0, 2, 4 and
    // 6 lie in different banks, and so do 1, 3, 5 and 7.
    __device__ unsigned char *x_scales(int input, int pair) const {
        constexpr int kPairs = T::G / 2;
        int swizzle = input / (8 / kPairs) % kPairs;
        return at + kXScalesAt + input * kXScales + (pair ^ swizzle) * 16;
    }
};

// What one thread brings of rows of pieces, step by step: the same piece of every `kEvery`th row. A row has `kPieces`
// pieces of `kBytes` in a step, each for `kPer` groups. Where they come from is worked out once.
template <int kBytes, int kPieces, int kPer, int kRows, class T> struct Pieces {
    static constexpr int kEvery = T::kThreads / kPieces, kMine = (kRows + kEvery - 1) / kEvery;
    static_assert(T::kThreads % kPieces == 0, "a thread has the same piece of all its rows");
    // Its piece of its first row in the first step, and bytes from there to its next row.
    const unsigned char *from;
    int next;
    // Rows from its first one on that there are, and the first group of a step with which its piece is beyond the end.
    int left, end;

    __device__ static int row() { return threadIdx.x / kPieces; }
    __device__ static int piece() { return threadIdx.x % kPieces; }

    // `row_bytes`: of a whole row in memory.
    __device__ Pieces(const void *start, int row_bytes, size_t first, size_t count, int groups) {
        size_t own = first + row();
        from = static_cast<const unsigned char *>(start) + own * row_bytes + piece() * kBytes;
        next = kEvery * row_bytes;
        left = own < count ? int(min(count - own, size_t(kRows - row()))) : 0;
        end = groups - piece() * kPer;
    }

    // Starts the copies of the step that begins with `group`, `at` bytes into a row, to `to` and every `stride` bytes
    // behind it. What is not there becomes zero.
    __device__ void start(unsigned char *to, int stride, int group, int at) const {
#pragma unroll
        for (int i = 0; i < kMine; i++) {
            if (kRows % kEvery != 0 && row() + i * kEvery >= kRows) continue;
            bool there = group < end && i * kEvery < left;
            copy_async<kBytes>(to + i * stride, from + at + size_t(i) * next, there ? kBytes : 0);
        }
    }
};

// Brings steps to shared memory. What is beyond the matrix or the inputs becomes zero.
template <Kind K, class T> struct Loader {
    using Place = Stage<K, T>;
    static constexpr int kLow = quant::kLowBytes<K>, kHigh = quant::kHighBytes<K> ? quant::kHighBytes<K> : 16;
    static constexpr int kInput = T::kEight ? 32 : 64;
    // A row's scales in a step: a head of 8 groups, Q6_K's as one piece, else two groups a piece.
    static constexpr int kScale = quant::kMinimum<K> ? 16 : quant::kHalves<K> ? T::G * 2 : 4;
    using Scales = Pieces<kScale, Place::kScales / kScale, kScale / 2, T::M, T>;
    const Product &p;
    Pieces<16, T::G * kLow / 16, 16 / kLow, T::M, T> low;
    Pieces<16, T::G * kHigh / 16, 16 / kHigh, T::M, T> high;
    Pieces<16, T::G * kInput / 16, 0, T::N, T> x;
    Pieces<16, T::G / 2, 2, T::N, T> x_scales;
    Scales scales;
    // Of the thread's row: its first super scale's index.
    unsigned super;

    __device__ Loader(const Product &product, size_t row0, int input0)
        : p(product), low(p.planes.low, p.groups * kLow, row0, p.rows, p.groups),
          high(p.planes.high, p.groups * kHigh, row0, p.rows, p.groups),
          x(p.x, p.groups * kInput, input0, p.n, p.groups),
          x_scales(p.x_scales, p.groups * 8, input0, p.n, p.groups),
          scales(p.planes.scales, p.groups * 2, row0, p.rows, p.groups),
          super((unsigned(row0) + threadIdx.x) * (p.groups / 8)) {
        // Pieces that are part of a group, or part of a head, are there if the group is.
        low.end = p.groups - low.piece() * 16 / kLow;
        x.end = p.groups - x.piece() * 16 / kInput;
        if (quant::kMinimum<K>) scales.end = p.groups;
    }

    // Starts the copies of a step's weights. Not waited for.
    __device__ void weights(const Place &to, int step) const {
        int group = step * T::G;
        low.start(to.low(low.row()) + low.piece() * 16, low.kEvery * Place::kLow, group, group * kLow);
        if constexpr (Place::kHigh != 0)
            high.start(to.high(high.row()) + high.piece() * 16, high.kEvery * Place::kHigh, group, group * kHigh);
        int at = quant::kMinimum<K> ? group / 8 * 16 : group * 2;
        scales.start(to.scales(scales.row()) + scales.piece() * kScale, Scales::kEvery * Place::kScales, group, at);
        if constexpr (quant::kHalves<K>) supers(to, group);
    }

    // Starts the copies of a step's inputs.
    __device__ void inputs(const Place &to, int step) const {
        int group = step * T::G;
        static_assert(T::kEight || x.kEvery % 4 == 0, "all of a thread's pieces are swizzled alike");
        x.start(to.x(x.row(), x.piece()), x.kEvery * Place::kX, group, group * kInput);
        if constexpr (T::kEight) {
            constexpr int kEvery = decltype(x_scales)::kEvery;
            static_assert(kEvery % 8 == 0, "all of a thread's pieces are swizzled alike");
            x_scales.start(to.x_scales(x_scales.row(), x_scales.piece()), kEvery * Place::kXScales, group, group * 8);
        }
    }

    // Super scales of 2 bytes come with a neighbour, since no copy is shorter than 4.
    __device__ void supers(const Place &to, int group) const {
        int row = threadIdx.x;
        if (row >= T::M) return;
        unsigned even = (super + group / 8) & ~1u, all = unsigned(p.groups / 8) * p.rows;
        bool there = scales.left > 0 && group < p.groups;
        copy_async<4>(to.supers(row), p.planes.supers + size_t(even) * 2, there ? (even + 1 < all ? 4 : 2) : 0);
    }
};

// A warp's place in a tile, and its sums.
template <Kind K, class T> struct Place {
    // Groups of a step.
    static constexpr int kGroups = T::G / T::WK;
    // Scales of its rows, [kGroups][32].
    static constexpr int kTable = kGroups * 32 * 8;
    // First row and input in the tile, and the part of a step's groups.
    int row, input, part, lane;
    unsigned char *table;
    float sums[T::MF][T::NF][4] = {};

    __device__ Place(unsigned char *tables) {
        int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        row = warp % T::WM * (T::MF * 16);
        input = warp / T::WM % T::WN * (T::NF * 8);
        part = warp / (T::WM * T::WN);
        table = tables + warp * kTable;
    }

    // Hands the scale and the minimum (quant::scale_of) of each of its rows, a row a lane, and of each of its groups
    // to `keep(group, scale)`. `first_row` and `first_group` of the tile and the step.
    template <class F>
    __device__ void scales(const Stage<K, T> &from, size_t first_row, int first_group, int groups, F keep) const {
        quant::RawScale raw = {0, 0, 0, 0};
        const unsigned char *mine = from.scales(row + lane);
        if constexpr (quant::kMinimum<K>) {
            uint4 head = *reinterpret_cast<const uint4 *>(mine);
            raw = {head.x, head.y, head.z, head.w};
        } else if constexpr (quant::kHalves<K>) {
            size_t index = (first_row + row + lane) * (groups / 8) + first_group / 8;
            raw.super = *reinterpret_cast<const unsigned *>(from.supers(row + lane)) >> (index % 2 * 16) & 0xffff;
        }
#pragma unroll
        for (int j = 0; j < kGroups; j++) {
            int at = part * kGroups + j;
            if constexpr (!quant::kMinimum<K>) {
                uint32_t scale = reinterpret_cast<const unsigned short *>(mine)[at];
                (quant::kHalves<K> ? raw.a : raw.super) = scale;
            }
            keep(j, quant::scale_of<K>(raw, first_group + at));
        }
        __syncwarp();
    }

    // Hands each sum to `to(row, input, sum)`, places in the tile.
    template <class F> __device__ void each(F to) const {
#pragma unroll
        for (int m = 0; m < T::MF; m++)
#pragma unroll
            for (int f = 0; f < T::NF; f++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    to(row + m * 16 + i / 2 * 8 + lane / 4, input + f * 8 + lane % 4 * 2 + i % 2, sums[m][f][i]);
    }
};

// A tile whose sums are there.
template <class T> struct Tile {
    static constexpr int kSums = T::M * T::N;
    const Product &p;
    size_t row0;
    int input0;
    unsigned char *memory;

    __device__ void write(int row, int input, float sum) const {
        size_t to = row0 + row;
        if (to < size_t(p.rows) && input0 + input < p.n)
            p.out[size_t(input0 + input) * p.stride + to] = sum + (p.bias ? p.bias[to] : 0.0f);
    }

    // Adds what the warps have that share the tile's columns; hands each sum to `to(index in [N][M], sum)`.
    template <class W, class F> __device__ void join(const W &warp, F to) const {
        float *all = reinterpret_cast<float *>(memory);
        __syncthreads();
        warp.each([&](int row, int input, float sum) { all[(warp.part * T::N + input) * T::M + row] = sum; });
        __syncthreads();
        for (int i = threadIdx.x; i < kSums; i += T::kThreads) {
            float sum = 0.0f;
            for (int part = 0; part < T::WK; part++) sum += all[part * kSums + i];
            to(i, sum);
        }
    }

    template <class W> __device__ void finish(const W &warp) const {
        if (gridDim.z > 1) return share(warp);
        if constexpr (T::WK == 1)
            warp.each([&](int row, int input, float sum) { write(row, input, sum); });
        else
            join(warp, [&](int i, float sum) { write(i % T::M, i / T::M, sum); });
    }

    // Leaves its sums for the last block of those that share the tile, or is that one.
    template <class W> __device__ void share(const W &warp) const {
        size_t tile = size_t(blockIdx.y) * gridDim.x + blockIdx.x;
        float *all = p.partials + tile * gridDim.z * kSums, *own = all + size_t(blockIdx.z) * kSums;
        join(warp, [&](int i, float sum) { own[i] = sum; });
        __threadfence();
        unsigned *before = reinterpret_cast<unsigned *>(memory);
        __syncthreads();
        if (threadIdx.x == 0) *before = atomicAdd(p.counts + tile, 1u);
        __syncthreads();
        if (*before != gridDim.z - 1) return;
        __threadfence();
        for (int i = threadIdx.x * 4; i < kSums; i += T::kThreads * 4) {
            float4 sum = gather(all + i);
            int row = i % T::M, input = i / T::M;
            write(row, input, sum.x), write(row + 1, input, sum.y);
            write(row + 2, input, sum.z), write(row + 3, input, sum.w);
        }
        if (threadIdx.x == 0) p.counts[tile] = 0;
    }

    // Four sums of all blocks, from where the first has left them: several loads are under way at once, and added in
    // the blocks' order.
    __device__ float4 gather(const float *from) const {
        constexpr unsigned kAhead = 8;
        float4 sum = make_float4(0, 0, 0, 0);
        for (unsigned first = 0; first < gridDim.z; first += kAhead) {
            float4 found[kAhead];
#pragma unroll
            for (unsigned i = 0; i < kAhead; i++)
                found[i] = first + i < gridDim.z
                               ? __ldcg(reinterpret_cast<const float4 *>(from + size_t(first + i) * kSums))
                               : make_float4(0, 0, 0, 0);
#pragma unroll
            for (unsigned i = 0; i < kAhead; i++)
                sum.x += found[i].x, sum.y += found[i].y, sum.z += found[i].z, sum.w += found[i].w;
        }
        return sum;
    }
};

// Blocks: x inputs, y rows, in tiles, z those that share a tile's columns. Shared memory: S stages, which have room
// for WK * M * N floats too, and the warps' tables. `W`: a Place that takes a step's scales and adds its products.
template <Kind K, class T, class W> __device__ void run(const Product &p) {
    DYNAMIC_SHARED(memory);
    using Part = Stage<K, T>;
    static_assert(T::WK * T::M * T::N * 4 <= T::S * Part::kBytes, "sums fit where stages were");
    size_t row0 = size_t(blockIdx.y) * T::M;
    int input0 = blockIdx.x * T::N, all = (p.groups + T::G - 1) / T::G, each = (all + gridDim.z - 1) / gridDim.z;
    int first = blockIdx.z * each, steps = max(0, min(each, all - first));
    auto stage = [&](int slot) { return Part{memory + slot * Part::kBytes}; };
    const Loader<K, T> loader(p, row0, input0);
    W warp(memory + T::S * Part::kBytes);
    for (int step = 0; step < T::S - 1 && step < steps; step++) loader.weights(stage(step), first + step);
    wait_for_previous();
    for (int step = 0; step < T::S - 1; step++) {
        if (step < steps) loader.inputs(stage(step), first + step);
        copy_async_commit();
    }
    for (int step = 0, slot = 0; step < steps; step++) {
        copy_async_wait<T::S - 2>();
        // All have this step's numbers now, and have done with the stage that the next copies go to.
        __syncthreads();
        int ahead = step + T::S - 1, free = slot == 0 ? T::S - 1 : slot - 1;
        if (ahead < steps) {
            loader.weights(stage(free), first + ahead);
            loader.inputs(stage(free), first + ahead);
        }
        copy_async_commit();
        warp.take_scales(stage(slot), row0, (first + step) * T::G, p.groups);
#pragma unroll 1 // Two at once do not fit into 255 registers beside 64 sums.
        for (int j = 0; j < W::kGroups; j += 2) warp.two_groups(stage(slot), j);
        slot = slot + 1 == T::S ? 0 : slot + 1;
    }
    copy_async_wait<0>();
    Tile<T>{p, row0, input0, memory}.finish(warp);
}

} // namespace tiles

// `launch_bounds`: the threads of a block, and where the compiler's own choice spills, blocks of a multiprocessor.
#define TILED(name, kind, shape, warp, launch_bounds)                                                                \
    extern "C" __global__ void launch_bounds                                                                         \
        name(const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const void *x,   \
             const float2 *x_scales, int rows, int groups, int n, float *out, uint64_t stride, const float *bias,    \
             float *partials, unsigned *counts) {                                                                    \
        tiles::Product product = {{low, high, scales, supers}, x, x_scales, rows, groups, n, out, stride, bias,      \
                                  partials, counts};                                                                 \
        tiles::run<quant::kind, shape, warp<quant::kind, shape>>(product);                                           \
    }                                                                                                                \
    EXPORT(name)
