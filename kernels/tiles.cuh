// What products of quantised weights with many inputs have in common: tiles, and how they come to shared memory.
//
// A block computes M rows times N inputs, in steps of G groups (of 32 columns). Each step's weights, inputs and the
// scales of both are copied to shared memory as they are, asynchronously, stages - 1 steps ahead: nothing that comes
// from memory is waited for within a step. Weights stay packed until a warp has them in a fragment, so shared memory
// carries 4.5 bits a number. What a warp does with a step is the kernels' own (product_tiles.cu, product_halves.cu).
// The launch says how many stages there are: as many as leave room for a second block on the multiprocessor.
//
// A matrix with few rows has few tiles. Their columns are then shared by several blocks (the grid's z, known as
// split-K): each writes its sums to scratch memory, and the last to come adds all of them, in the order of their
// columns, so that the same inputs always give the same bits.
//
// In shared memory a row's pieces of 16 bytes are swizzled (`swizzled`): the same piece of eight rows lies in different
// banks, as do single words of eight rows.
#pragma once
#include "norm.cuh"
#include "quant.cuh"

namespace tiles {

using quant::Kind;
using quant::Planes;

// `kEightBits`: inputs are 8-bit numbers with scales, else bf16.
template <bool kEightBits, int kM, int kN, int kWarpsM, int kWarpsN, int kWarpsK, int kGroups> struct Shape {
    static constexpr bool kEight = kEightBits;
    static constexpr int M = kM, N = kN, WM = kWarpsM, WN = kWarpsN, WK = kWarpsK, G = kGroups;
    static constexpr int kThreads = 32 * WM * WN * WK;
    // Most steps in shared memory at once.
    static constexpr int kMostStages = kEight ? 2 : 4;
    // Whether registers are short: see Pieces.
    static constexpr bool kShort = false;
    // Whether inputs may be rows that a norm has left without their scale.
    static constexpr bool kScaled = kEight;
    // 16 x 8 fragments of a warp.
    static constexpr int MF = M / WM / 16, NF = N / WN / 8;
    static_assert(M % (16 * WM) == 0 && N % (8 * WN) == 0 && G % WK == 0 && 8 % G == 0, "whole fragments");
    static_assert(MF * 16 == 32, "a lane has the scales of one row");
    static_assert(WK <= 2, "one part is added to the other");
};

// Where a piece of 16 bytes of a row begins, counted from the first row: those of the same number of eight rows that
// follow each other are in different banks. `kRow`: bytes of a row, a power of two; a row of less has one piece.
// `kTurns`: places repeat after so many times 128 bytes.
template <int kRow, int kTurns = kRow / 16> __device__ inline int swizzled(int row, int piece) {
    if constexpr (kTurns <= 1) return row * kRow;
    else return (row * kRow + piece * 16) ^ (row * kRow / 128 % kTurns * 16);
}

// A value that the compiler takes as it is, and does not work out anew in every pass of a loop.
__device__ inline int kept(int value) {
#ifdef __CUDACC__
    asm("" : "+r"(value));
#endif
    return value;
}

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
    // Steps in shared memory at once, 2 to the shape's kMostStages.
    int stages;
    // Of the inputs, if the shape is kScaled.
    norms::Scale scale;
};

// What a block does of a product: its tile, and which of the `shares` blocks that share the tile's columns it is.
struct Part {
    int across, down, share, shares;
};

struct Work {
    Product product;
    Part part;
};

// Rows of memory that follow each other, at most kMost: the rows of a matrix or the inputs that a tile has. Those
// beyond the last are the last again: their sums are not written.
template <int kMost> struct Rows {
    unsigned first;
    int last;

    __device__ Rows(int begin, int count) : first(begin), last(min(count - begin, kMost) - 1) {}
    // Counted from the first.
    __device__ int at(int row) const { return min(row, last); }
};

// One step's part of shared memory, in bytes.
template <Kind K, class T> struct Stage {
    static constexpr int kLow = T::G * quant::kLowBytes<K>, kHigh = T::G * quant::kHighBytes<K>;
    static constexpr int kX = T::G * (T::kEight ? 32 : 64);
    // A row's scales as they lie in memory: a head, or 2 or 4 bytes a group, and 4 bytes of which 2 are the super scale.
    static constexpr int kScales = quant::kHeads<K> ? 16 : T::G * quant::kScaleBytes<K>, kSupers = quant::kHalves<K> ? 4 : 0;
    static constexpr int kXScales = T::kEight ? T::G * 8 : 0;
    static constexpr int kHighAt = T::M * kLow, kXAt = kHighAt + T::M * kHigh, kXScalesAt = kXAt + T::N * kX;
    static constexpr int kScalesAt = kXScalesAt + T::N * kXScales, kSupersAt = kScalesAt + T::M * kScales;
    static constexpr int kBytes = kSupersAt + T::M * kSupers;
    static_assert(kBytes % 128 == 0, "swizzled rows start on 128 bytes");

    // Offsets of a row's pieces.
    // Low bits of 64 bytes a row lie as inputs of 128 do, so that a thread brings both to the same place.
    __device__ static int low_at(int row, int piece) { return swizzled<kLow, kLow == 64 ? 8 : kLow / 16>(row, piece); }
    __device__ static int high_at(int row, int piece) { return kHighAt + swizzled<kHigh>(row, piece); }
    // Halves are read 8 bytes at a time, by four lanes side by side of four inputs: those lie in different banks.
    __device__ static int x_at(int input, int piece) {
        if constexpr (T::kEight) return kXAt + swizzled<kX>(input, piece);
        else return kXAt + input * kX + (piece ^ (input % 4 * 2)) * 16;
    }
    __device__ static int scales_at(int row) { return kScalesAt + row * kScales; }
    __device__ static int supers_at(int row) { return kSupersAt + row * kSupers; }
    // The scales of one input and two groups: such that the inputs 0, 2, 4 and 6 lie in different banks, and so do 1,
    // 3, 5 and 7.
    __device__ static int x_scales_at(int input, int pair) { return kXScalesAt + swizzled<kXScales>(input, pair); }
};

// What one thread brings of rows of pieces, step by step: the same piece of every `kEvery`th row. A row has `kPieces`
// pieces of `kBytes` in a step. Where they come from and go to is worked out once.
// `kMoves`: a pointer moves on with the steps, else it is worked out in each. That takes two registers less, and on sm_120
// fewer instructions; on others it takes more.
template <int kBytes, int kPieces, int kRows, class T, bool kMoves> struct Pieces {
    static constexpr int kEvery = T::kThreads / kPieces, kMine = (kRows + kEvery - 1) / kEvery;
    static_assert(T::kThreads % kPieces == 0, "a thread has the same piece of all its rows");
    // The block's first row, or where the next step's part of it begins; the same for all threads. And the thread's pieces
    // behind that.
    const unsigned char *from;
    unsigned at[kMine];
    // Where they go to in a stage.
    int to;

    __device__ static int row() { return threadIdx.x / kPieces; }
    __device__ static int piece() { return threadIdx.x % kPieces; }

    // `row_bytes`: of a whole row in memory, of which the first step begins `begin` bytes in. `place`: in a stage.
    template <class R> __device__ Pieces(const void *start, int row_bytes, const R &rows, int begin, int place) {
        from = static_cast<const unsigned char *>(start);
        from += uint64_t(rows.first) * unsigned(row_bytes);
        if constexpr (kMoves) from += begin;
        to = kept(place);
        for (int i = 0; i < kMine; i++) {
            int own = rows.at(row() + i * kEvery) * row_bytes + piece() * kBytes;
            at[i] = kMoves && T::N >= 64 ? own : kept(own);
        }
    }

    // Starts the copies of a step that lies `begin` bytes in, and the next one `further` bytes behind it; those of a thread
    // are `stride` bytes apart in shared memory. What is not there becomes zero.
    __device__ void start(unsigned char *stage, unsigned begin, int further, int stride, bool there) {
#pragma unroll
        for (int i = 0; i < kMine; i++) {
            if (kRows % kEvery != 0 && row() + i * kEvery >= kRows) continue;
            copy_async<kBytes>(stage + to + i * stride, from + (at[i] + (kMoves ? 0 : begin)), there ? kBytes : 0);
        }
        if constexpr (kMoves) from += further;
    }
};

// Brings steps to shared memory, one after the other. What is beyond the columns becomes zero.
template <Kind K, class T> struct Loader {
    using Place = Stage<K, T>;
    static constexpr int kLow = quant::kLowBytes<K>, kHigh = quant::kHighBytes<K>, kInput = T::kEight ? 32 : 64;
    // The further bits of a row in a step may be less than a piece, and rows of Q5_0 and Q5_1 are no more than whole
    // pairs of groups. Scales come as half a head, Q6_K's as one piece, else two groups' at once.
    static constexpr int kHighPiece = K == quant::Q5_0 || K == quant::Q5_1 ? 8
                                      : kHigh && T::G * kHigh < 16        ? T::G * kHigh
                                                                          : 16;
    static constexpr int kOfGroup = quant::kScaleBytes<K>;
    static constexpr int kScale = quant::kHeads<K> ? 8 : quant::kHalves<K> ? T::G * 2 : 2 * kOfGroup;
    // Rows are heads of 8 groups, so whole steps.
    static constexpr bool kWhole = quant::kHeads<K> || quant::kHalves<K>;
    // With 64 inputs of 8 bits no registers are left for that.
    static constexpr bool kMoves = kArchitecture < 1200 && !T::kShort && !(T::kEight && T::N >= 64);
    using Low = Pieces<16, T::G * kLow / 16, T::M, T, kMoves>;
    using High = Pieces<kHighPiece, kHigh ? T::G * kHigh / kHighPiece : 1, T::M, T, kMoves>;
    using Scales = Pieces<kScale, Place::kScales / kScale, T::M, T, kMoves>;
    using Input = Pieces<16, T::G * kInput / 16, T::N, T, kMoves>;
    // Nor, with scales of halves, for this one.
    using XScales = Pieces<16, T::G / 2, T::N, T, kMoves && !quant::kHalves<K>>;
    Low low;
    High high;
    Scales scales;
    Input x;
    XScales x_scales;
    // Super scales: the thread's row's first one, and how many there are.
    const uint8_t *supers;
    unsigned super, all_supers;
    int groups;

    // `first`: the first group.
    template <class R>
    __device__ Loader(const Product &p, const R &rows, const Rows<T::N> &inputs, int first)
        : low(p.planes.low, p.groups * kLow, rows, first * kLow, Place::low_at(Low::row(), Low::piece())),
          high(p.planes.high, p.groups * kHigh, rows, first * kHigh,
               Place::high_at(High::row(), High::piece() * kHighPiece / 16) + High::piece() * kHighPiece % 16),
          scales(p.planes.scales, p.groups * kOfGroup, rows, scales_of(first),
                 Place::scales_at(Scales::row()) + Scales::piece() * kScale),
          x(p.x, p.groups * kInput, inputs, first * kInput, Place::x_at(Input::row(), Input::piece())),
          x_scales(p.x_scales, p.groups * 8, inputs, first * 8,
                   Place::x_scales_at(XScales::row(), XScales::piece())),
          supers(p.planes.supers), super((rows.first + rows.at(threadIdx.x)) * (p.groups / 8)),
          all_supers(unsigned(p.groups / 8) * p.rows), groups(p.groups) {}

    // Where a row's scales of a step begin. A head has those of 8 groups.
    __device__ static unsigned scales_of(unsigned group) {
        return quant::kHeads<K> ? group / 8 * 16 : group * kOfGroup;
    }

    __device__ bool there(int group) const { return kWhole || group < groups; }

    // Starts the copies of the next step's weights, which begins with `group`. Not waited for.
    __device__ void weights(unsigned char *stage, int group) {
        constexpr int kGroups = T::G;
        static_assert(Low::kEvery % 8 == 0 && High::kEvery % 8 == 0, "all of a thread's pieces are swizzled alike");
        low.start(stage, group * kLow, kGroups * kLow, Low::kEvery * Place::kLow,
                  there(group + Low::piece() * 16 / kLow));
        if constexpr (kHigh != 0)
            high.start(stage, group * kHigh, kGroups * kHigh, High::kEvery * Place::kHigh,
                       there(group + High::piece() * kHighPiece / kHigh));
        int further = !quant::kHeads<K> ? kGroups * kOfGroup : (group + kGroups) % 8 == 0 ? 16 : 0;
        scales.start(stage, scales_of(group), further, Scales::kEvery * Place::kScales,
                     there(group + Scales::piece() * kScale / kOfGroup));
        if constexpr (quant::kHalves<K>) bring_super(stage, group);
    }

    // Starts the copies of the next step's inputs.
    __device__ void inputs(unsigned char *stage, int group) {
        static_assert(Input::kEvery % 8 == 0, "all of a thread's pieces are swizzled alike");
        x.start(stage, group * kInput, T::G * kInput, Input::kEvery * Place::kX,
                there(group + Input::piece() * 16 / kInput));
        if constexpr (T::kEight) {
            static_assert(XScales::kEvery % 8 == 0, "all of a thread's pieces are swizzled alike");
            x_scales.start(stage, group * 8, T::G * 8, XScales::kEvery * Place::kXScales,
                           there(group + XScales::piece() * 2));
        }
    }

    // Super scales of 2 bytes come with a neighbour, since no copy is shorter than 4.
    __device__ void bring_super(unsigned char *stage, int group) const {
        int row = threadIdx.x;
        if (row >= T::M) return;
        unsigned even = (super + unsigned(group) / 8) & ~1u;
        copy_async<4>(stage + Place::supers_at(row), supers + size_t(even) * 2, all_supers - even > 1 ? 4 : 2);
    }
};

// A warp's place in a tile, and its sums.
template <Kind K, class T> struct Place {
    using In = Stage<K, T>;
    // Groups of a step.
    static constexpr int kGroups = T::G / T::WK;
    // Scales of its rows, [kGroups][32].
    static constexpr int kTable = kGroups * 32 * 8;
    // First row and input in the tile, and the part of a step's groups.
    int row, input, part, lane;
    unsigned char *table;
    // Offsets in a stage: of the lane's row's scales; of what it gives to ldmatrix of its part's first group; and,
    // behind kHighAt, of that group's further bits of row `lane / 4`.
    int at_scales, at_low, at_high;
    // Of its row's first super scale, an index that is even where the scale's is.
    unsigned super;
    float sums[T::MF][T::NF][4] = {};

    template <class R> __device__ Place(unsigned char *tables, const R &rows, int groups) {
        int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        row = row_of(warp);
        input = input_of(warp);
        part = warp / (T::WM * T::WN);
        table = tables + warp * kTable;
        at_scales = kept(In::scales_at(row + lane));
        // A group of 16 bytes: 32 rows at once. One of 32: 16 rows and both its pieces.
        constexpr bool kWide = quant::kLowBytes<K> == 32;
        int group = part * kGroups;
        at_low = kept(kWide ? In::low_at(row + lane % 16, group * 2 + lane / 16) : In::low_at(row + lane, group));
        constexpr int kHigh = quant::kHighBytes<K>;
        at_high = kept((In::high_at(row + lane / 4, 0) - In::kHighAt) ^ (group * kHigh));
        super = (rows.first + row + lane) * (groups / 8);
    }

    __device__ static int row_of(int warp) { return warp % T::WM * (T::MF * 16); }
    __device__ static int input_of(int warp) { return warp / T::WM % T::WN * (T::NF * 8); }

    // The packed words of a group of the part, of rows g and g + 8 of each 16: the low bits, and Q8_0's second half.
    __device__ void words(uint32_t packed[T::MF][2], uint32_t second[T::MF][2], const unsigned char *stage,
                          int group) const {
        uint32_t r[4];
        if constexpr (quant::kLowBytes<K> == 32) {
#pragma unroll
            for (int m = 0; m < T::MF; m++) {
                ldmatrix_x4(r, stage + (at_low ^ (group * 32)) + m * 16 * In::kLow);
                packed[m][0] = r[0], packed[m][1] = r[1], second[m][0] = r[2], second[m][1] = r[3];
            }
        } else {
            ldmatrix_x4(r, stage + (at_low ^ (group * 16)));
#pragma unroll
            for (int i = 0; i < 4; i++) packed[i / 2][i % 2] = r[i], second[i / 2][i % 2] = 0;
        }
    }

    // The further bits of a group of the part and row `at + lane / 4` of the warp's; `at` is a multiple of 8.
    __device__ uint2 further(const unsigned char *stage, int at, int group) const {
        constexpr int kHigh = quant::kHighBytes<K>;
        const unsigned char *from = stage + In::kHighAt + (at_high ^ (group * kHigh)) + at * In::kHigh;
        if constexpr (kHigh == 4) return make_uint2(*reinterpret_cast<const unsigned *>(from), 0);
        if constexpr (kHigh == 8) return *reinterpret_cast<const uint2 *>(from);
        return make_uint2(0, 0);
    }

    // Hands the scale and the minimum (quant::scale_of, with `by` and `less_by`) of each of its rows, a row a lane, and
    // of each of its groups to `keep(group, scale)`. `first_group` of the step.
    template <class F>
    __device__ void scales(const unsigned char *stage, int first_group, float by, float less_by, F keep) const {
        quant::RawScale raw = {0, 0, 0, 0};
        const unsigned char *mine = stage + at_scales;
        unsigned from = unsigned(first_group) + part * kGroups;
        if constexpr (quant::kHeads<K>) {
            uint4 head = *reinterpret_cast<const uint4 *>(mine);
            auto from_first = [&](uint32_t bits) { return shifted_right(bits, from * 4); };
            raw = {head.x, from_first(head.y), from_first(head.z), from_first(head.w)};
        } else if constexpr (quant::kHalves<K>) {
            unsigned index = super + from / 8;
            unsigned two = *reinterpret_cast<const unsigned *>(stage + In::supers_at(row + lane));
            raw.super = two >> (index % 2 * 16) & 0xffff;
        }
#pragma unroll
        for (int j = 0; j < kGroups; j++) {
            if constexpr (quant::kPairs<K>) {
                raw.super = reinterpret_cast<const unsigned *>(mine)[part * kGroups + j];
            } else if constexpr (!quant::kHeads<K>) {
                uint32_t scale = reinterpret_cast<const unsigned short *>(mine)[part * kGroups + j];
                (quant::kHalves<K> ? raw.a : raw.super) = scale;
            }
            keep(j, quant::scale_of<K>(raw, j, by, less_by));
        }
    }

    // Hands each sum of the fragments kFrom to kTo - 1 of a row of them to `to(row, input, sum)`, places in the tile. With
    // 64 inputs of 8 bits these are worked out anew: on GPUs before sm_120 the loop has no registers for them.
    template <int kFrom = 0, int kTo = T::NF, class F> __device__ void each(F to) const {
        int lane = this->lane, row = this->row, input = this->input;
        if constexpr (T::kEight && T::N >= 64 && kArchitecture < 1200) {
            int thread = asked(threadIdx.x);
            lane = thread % 32, row = row_of(thread / 32), input = input_of(thread / 32);
        }
#pragma unroll
        for (int m = 0; m < T::MF; m++)
#pragma unroll
            for (int f = kFrom; f < kTo; f++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    to(row + m * 16 + i / 2 * 8 + lane / 4, input + f * 8 + lane % 4 * 2 + i % 2, sums[m][f][i]);
    }
};

// A tile whose sums are there.
template <class T> struct Tile {
    static constexpr int kSums = T::M * T::N;
    const Product &p;
    Part part;
    // Its first row of the matrix, and its first input.
    size_t row0 = size_t(part.down) * T::M;
    int input0 = part.across * T::N;

    __device__ void write(int row, int input, float sum) const {
        size_t to = row0 + row;
        if (to < size_t(p.rows) && input0 + input < p.n)
            p.out[size_t(input0 + input) * p.stride + to] = sum + (p.bias ? p.bias[to] : 0.0f);
    }

    // A sum's place in shared memory; four rows lie side by side. Four inputs of a fragment lie in different banks.
    __device__ static float &place(int row, int input) {
        DYNAMIC_SHARED(memory);
        return reinterpret_cast<float *>(memory)[input * T::M + (row ^ (input / 2 % 4 * 8))];
    }

    // Adds what the warps have that share the tile's columns; hands each sum, before `W::value`, to
    // `to(row, input, sum)`. Of two warps each leaves half its sums to the other.
    template <class W, class F> __device__ void join(const W &warp, F to) const {
        if constexpr (T::WK == 1) {
            warp.each(to);
        } else {
            constexpr int kHalf = T::NF / 2;
            auto leave = [&](int row, int input, float sum) { place(row, input) = sum; };
            auto add = [&](int row, int input, float sum) { to(row, input, sum + place(row, input)); };
            __syncthreads();
            if (warp.part == 0) warp.template each<kHalf>(leave);
            else warp.template each<0, kHalf>(leave);
            __syncthreads();
            if (warp.part == 0) warp.template each<0, kHalf>(add);
            else warp.template each<kHalf>(add);
        }
    }

    // Whether this block has the tile's sums, its own or those that all of its blocks have left. If so, what is to be
    // multiplied with them is there too.
    template <class W> __device__ bool is_whole(const W &warp) const {
        if (part.shares > 1 && !leave(warp)) return false;
        if constexpr (T::kScaled) W::keep_scales(p, part);
        return true;
    }

    template <class W> __device__ void finish(const W &warp) const {
        if (!is_whole(warp)) return;
        if (part.shares == 1)
            return join(warp, [&](int row, int input, float sum) { write(row, input, W::value(sum, input)); });
        for (int i = threadIdx.x * 4; i < kSums; i += T::kThreads * 4) {
            int row = i % T::M, input = i / T::M;
            float4 sum = gather<W>(row, input);
            write(row, input, sum.x), write(row + 1, input, sum.y);
            write(row + 2, input, sum.z), write(row + 3, input, sum.w);
        }
    }

    __device__ size_t tile() const { return size_t(part.down) * gridDim.x + part.across; }

    // Where the first of the blocks that share the tile leaves its sums.
    __device__ float *left() const { return p.partials + tile() * part.shares * kSums; }

    // Leaves its sums. Whether it is the last of the blocks that share the tile, which may `gather` then.
    template <class W> __device__ bool leave(const W &warp) const {
        DYNAMIC_SHARED(memory);
        float *own = left() + size_t(part.share) * kSums;
        join(warp, [&](int row, int input, float sum) { own[input * T::M + row] = sum; });
        return is_last(p.counts + tile(), part.shares, reinterpret_cast<unsigned *>(memory));
    }

    // The values of all blocks' sums, of four rows from `row` on: several loads are under way at once, and added in the
    // blocks' order.
    template <class W> __device__ float4 gather(int row, int input) const {
        constexpr int kAhead = 8;
        const float *from = left() + input * T::M + row;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int first = 0; first < part.shares; first += kAhead) {
            float4 found[kAhead];
#pragma unroll
            for (int i = 0; i < kAhead; i++)
                found[i] = first + i < part.shares
                               ? __ldcg(reinterpret_cast<const float4 *>(from + size_t(first + i) * kSums))
                               : make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < kAhead; i++)
                sum.x += found[i].x, sum.y += found[i].y, sum.z += found[i].z, sum.w += found[i].w;
        }
        return make_float4(W::value(sum.x, input), W::value(sum.y, input), W::value(sum.z, input),
                           W::value(sum.w, input));
    }
};

// Ends a step's copies. Empty groups behind them make the number of groups a wait may leave the same, kMost - 2, for
// every number of stages.
template <int kMost> __device__ inline void end_copies(int stages) {
    copy_async_commit();
#pragma unroll
    for (int i = 2; i < kMost; i++)
        if (stages <= i) copy_async_commit();
}

// Shared memory: the stages, which have room for (WK - 1) * M * N floats too, the warps' tables, and a float for each
// input if the shape is kScaled. `W`: a Place that takes a step's scales and adds its products. `rows`: those of the tile.
// `finish(warp)`: what becomes of the sums.
template <Kind K, class T, class W, class R, class F>
__device__ void run(const Product &p, const Part &part, const R &rows, F finish) {
    DYNAMIC_SHARED(memory);
    constexpr int kStage = Stage<K, T>::kBytes;
    int all = (p.groups + T::G - 1) / T::G, each = (all + part.shares - 1) / part.shares;
    int first = part.share * each, steps = max(0, min(each, all - first));
    int stages = T::kMostStages == 2 ? 2 : p.stages, ahead = stages - 1;
    Loader<K, T> loader(p, rows, Rows<T::N>(part.across * T::N, p.n), first * T::G);
    W warp(memory + stages * kStage, rows, p.groups);
    for (int step = 0; step < ahead && step < steps; step++)
        loader.weights(memory + step * kStage, (first + step) * T::G);
    wait_for_previous();
    for (int step = 0; step < ahead; step++) {
        if (step < steps) loader.inputs(memory + step * kStage, (first + step) * T::G);
        end_copies<T::kMostStages>(stages);
    }
    unsigned char *stage = memory, *free = memory + ahead * kStage, *end = memory + stages * kStage;
    for (int step = 0, group = first * T::G; step < steps; step++, group += T::G) {
        copy_async_wait<T::kMostStages - 2>();
        // All have this step's numbers now, and have done with the stage that the next copies go to.
        __syncthreads();
        if (step + ahead < steps) {
            loader.weights(free, group + ahead * T::G);
            loader.inputs(free, group + ahead * T::G);
        }
        end_copies<T::kMostStages>(stages);
        warp.take_scales(stage, group);
        warp.add_step(stage);
        free = stage;
        if constexpr (T::kMostStages == 2) stage = memory + (kStage - (stage - memory));
        else stage = stage + kStage == end ? memory : stage + kStage;
    }
    let_next_begin();
    finish(warp);
}

// Of rows that follow each other. `again()`: the product and the block's part of it, which are asked for once more in the
// end: meanwhile they take no registers. `finish(tile, warp)`: what becomes of the sums.
template <Kind K, class T, class W, class F, class E> __device__ void run(F again, E finish) {
    Work work = again();
    Rows<T::M> rows(work.part.down * T::M, work.product.rows);
    run<K, T, W>(work.product, work.part, rows, [&](const W &warp) {
        Work work = again();
        finish(Tile<T>{work.product, work.part}, warp);
    });
}

// Whose results are written as they are.
template <Kind K, class T, class W, class F> __device__ void run(F again) {
    run<K, T, W>(again, [](const Tile<T> &tile, const W &warp) { tile.finish(warp); });
}

} // namespace tiles

// Blocks: x inputs, y rows, in tiles, z those that share a tile's columns.
// `launch_bounds`: the threads of a block, and where the compiler's own choice spills, blocks of a multiprocessor.
#define TILED(name, kind, shape, warp, launch_bounds)                                                                \
    extern "C" __global__ void launch_bounds                                                                         \
        name(const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const void *x,   \
             const float2 *x_scales, int rows, int groups, int n, float *out, uint64_t stride, const float *bias,    \
             float *partials, unsigned *counts, int stages) {                                                        \
        tiles::run<quant::kind, shape, warp<quant::kind, shape>>([&] {                                               \
            return tiles::Work{{{low, high, scales, supers}, x, x_scales, rows, groups, n, out, stride, bias,        \
                                partials, counts, stages},                                                           \
                               {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), int(gridDim.z)}};                 \
        });                                                                                                          \
    }                                                                                                                \
    EXPORT(name)
