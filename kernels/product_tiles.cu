// Products of quantised weights with many inputs: tiles through shared memory, whole-number tensor cores.
//
// A block computes M rows times N inputs, in steps of G groups (of 32 columns). Each step's weights, inputs and the
// scales of both are copied to shared memory as they are, asynchronously, S - 1 steps ahead: nothing that comes from
// memory is waited for within a step. Weights stay packed until a warp has them in a fragment: `quant::pair` turns one
// word into the two registers that the product of 32 columns wants of it, so shared memory carries 4.5 bits a number.
// Scales become floats once for each warp, a row a lane, in a small table of its own. Each group's whole-number sum is
// scaled and added in f32 (llama.cpp's MMQ does so too: groups have scales of their own on both sides).
//
// Shapes: few inputs (up to 32) get small tiles whose warps split the columns of a step among them (WK) and meet at
// the end: time is reading the weights, and many blocks read at once. Many inputs get 128 x 128: arithmetic limits
// them, 12 to 16 floating-point instructions for the 4 results of each tensor-core instruction, so that peak is
// about the card's f32 rate / 4 for each group of 32, i.e. 8 times its f32 multiply rate; sums become floats
// without conversion (quant.cuh). Strides in shared memory are odd multiples of 16 bytes: eight rows' 16-byte
// pieces then lie in different banks (ldmatrix), as do single words of eight rows. Inputs' scales are swizzled
// instead, which takes no room: two blocks of 32 inputs fit a multiprocessor with 100 KB.
#include "quant.cuh"

namespace product_tiles {

using quant::Kind;
using quant::Planes;

template <int kM, int kN, int kWarpsM, int kWarpsN, int kWarpsK, int kGroups, int kStages> struct Shape {
    static constexpr int M = kM, N = kN, WM = kWarpsM, WN = kWarpsN, WK = kWarpsK, G = kGroups, S = kStages;
    static constexpr int kThreads = 32 * WM * WN * WK;
    // 16 x 8 fragments of a warp.
    static constexpr int MF = M / WM / 16, NF = N / WN / 8;
    static_assert(M % (16 * WM) == 0 && N % (8 * WN) == 0 && G % (2 * WK) == 0 && 8 % G == 0, "whole fragments");
    static_assert(MF * 16 == 32, "a lane has the scales of one row");
};

using Shape16 = Shape<32, 16, 1, 1, 4, 8, 3>;
using Shape32 = Shape<32, 32, 1, 1, 4, 8, 3>;
using Shape64 = Shape<64, 64, 2, 2, 1, 4, 3>;
using Shape128 = Shape<128, 128, 4, 2, 1, 4, 2>;

// Arguments of a launch.
struct Product {
    Planes planes;
    const int8_t *x;
    const float2 *x_scales;
    // An even number of groups: the scales of two are the least that can be copied.
    int rows, groups, n;
    float *out;
    size_t stride;
    const float *bias;
};

// One step's part of shared memory, in bytes.
template <Kind K, class T> struct Stage {
    static constexpr int kLow = T::G * quant::kLowBytes<K> + 16;
    static constexpr int kHigh = quant::kHighBytes<K> ? T::G * quant::kHighBytes<K> + 16 : 0;
    static constexpr int kX = T::G * 32 + 16;
    // A row's scales as they lie in memory: a head, or 2 bytes a group, and 4 bytes of which 2 are the super scale.
    static constexpr int kScales = quant::kMinimum<K> ? 16 : T::G * 2, kSupers = quant::kHalves<K> ? 4 : 0;
    static constexpr int kXScales = T::G * 8;
    static constexpr int kHighAt = T::M * kLow, kXAt = kHighAt + T::M * kHigh, kXScalesAt = kXAt + T::N * kX;
    static constexpr int kScalesAt = kXScalesAt + T::N * kXScales, kSupersAt = kScalesAt + T::M * kScales;
    static constexpr int kBytes = kSupersAt + T::M * kSupers;
    static_assert(kBytes % 16 == 0, "the next stage starts on 16 bytes");

    unsigned char *at;

    __device__ unsigned char *low(int row) const { return at + row * kLow; }
    __device__ unsigned char *high(int row) const { return at + kHighAt + row * kHigh; }
    __device__ unsigned char *x(int input) const { return at + kXAt + input * kX; }
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

// What one thread brings of rows of 16-byte pieces, `kBytes` a group: the same piece of every `kEvery`th row.
template <int kBytes, int kRows, class T> struct Pieces {
    static constexpr int kPerRow = T::G * kBytes / 16, kEvery = T::kThreads / kPerRow;
    static constexpr int kMine = (kRows + kEvery - 1) / kEvery;
    static_assert(T::kThreads % kPerRow == 0, "a thread has the same piece of all its rows");
    // Its piece of its first row in the first step, and the plane's beginning, which is read where nothing is.
    const uint8_t *from, *plane;
    // Bytes of a row, and rows from its first one on that there are.
    int row_bytes, left;

    __device__ Pieces(const void *start, size_t first, size_t count, int groups)
        : plane(static_cast<const uint8_t *>(start)), row_bytes(groups * kBytes) {
        size_t row = first + threadIdx.x / kPerRow;
        left = row < count ? int(min(count - row, size_t(kRows))) : 0;
        from = left > 0 ? plane + row * row_bytes + threadIdx.x % kPerRow * 16 : plane;
    }

    // Starts the copies of the groups from `group` on to `place(row, piece)`. What is not there becomes zero.
    template <class F> __device__ void start(int group, int groups, F place) const {
        int row = threadIdx.x / kPerRow, piece = threadIdx.x % kPerRow;
        bool inside = group + piece * 16 / kBytes < groups;
        const uint8_t *step = from + group * kBytes;
#pragma unroll
        for (int i = 0; i < kMine; i++) {
            if (kRows % kEvery != 0 && row + i * kEvery >= kRows) continue;
            bool there = inside && i * kEvery < left;
            copy_async16(place(row + i * kEvery, piece), there ? step + size_t(i * kEvery) * row_bytes : plane,
                         there ? 16 : 0);
        }
    }
};

// Brings steps to shared memory. What is beyond the matrix or the inputs becomes zero.
template <Kind K, class T> struct Loader {
    using Place = Stage<K, T>;
    static constexpr int kHigh = quant::kHighBytes<K> ? quant::kHighBytes<K> : 16;
    const Product &p;
    size_t row0;
    int input0;

    __device__ Loader(const Product &product, size_t row, int input) : p(product), row0(row), input0(input) {}

    // Starts the copies of a step's weights. Not waited for.
    __device__ void weights(const Place &to, int step) const {
        int group = step * T::G;
        const Pieces<quant::kLowBytes<K>, T::M, T> low(p.planes.low, row0, p.rows, p.groups);
        const Pieces<kHigh, T::M, T> high(p.planes.high, row0, p.rows, p.groups);
        low.start(group, p.groups, [&](int row, int piece) { return to.low(row) + piece * 16; });
        if constexpr (Place::kHigh != 0)
            high.start(group, p.groups, [&](int row, int piece) { return to.high(row) + piece * 16; });
        scales(to, group);
    }

    // Starts the copies of a step's inputs.
    __device__ void inputs(const Place &to, int step) const {
        int group = step * T::G;
        const Pieces<32, T::N, T> x(p.x, input0, p.n, p.groups);
        const Pieces<8, T::N, T> x_scales(p.x_scales, input0, p.n, p.groups);
        x.start(group, p.groups, [&](int input, int piece) { return to.x(input) + piece * 16; });
        x_scales.start(group, p.groups, [&](int input, int piece) { return to.x_scales(input, piece); });
    }

    __device__ void scales(const Place &to, int group) const {
        if constexpr (quant::kMinimum<K>) {
            scale_pieces<16>(to, group, 8);
        } else if constexpr (quant::kHalves<K>) {
            scale_pieces<Place::kScales>(to, group, T::G);
            supers(to, group);
        } else {
            scale_pieces<4>(to, group, 2);
        }
    }

    // Scales of `each` groups are a piece of `kBytes`.
    template <int kBytes> __device__ void scale_pieces(const Place &to, int group, int each) const {
        constexpr int kPerRow = Place::kScales / kBytes;
        for (int i = threadIdx.x; i < T::M * kPerRow; i += T::kThreads) {
            size_t row = row0 + i / kPerRow;
            int first = group + i % kPerRow * each;
            bool there = row < size_t(p.rows) && first < p.groups;
            const uint8_t *from = there ? p.planes.scales + (row * p.groups + first) / each * kBytes : p.planes.scales;
            copy_async<kBytes>(to.scales(i / kPerRow) + i % kPerRow * kBytes, from, there ? kBytes : 0);
        }
    }

    // Super scales of 2 bytes come with a neighbour, since no copy is shorter than 4.
    __device__ void supers(const Place &to, int group) const {
        size_t heads = size_t(p.groups) / 8, all = heads * p.rows;
        for (int i = threadIdx.x; i < T::M; i += T::kThreads) {
            size_t row = row0 + i, index = row * heads + group / 8, even = index & ~size_t(1);
            bool there = row < size_t(p.rows) && group < p.groups;
            copy_async<4>(to.supers(i), p.planes.supers + (there ? even * 2 : 0),
                          there ? (even + 1 < all ? 4 : 2) : 0);
        }
    }
};

// A warp's share of a tile.
template <Kind K, class T> struct Warp {
    using Place = Stage<K, T>;
    // Groups of a step.
    static constexpr int kGroups = T::G / T::WK;
    // Scales of its rows as floats, [kGroups][32].
    static constexpr int kTable = kGroups * 32 * 8;
    // First row and input in the tile, and the part of a step's groups.
    int row, input, part, lane;
    float2 *table;
    float sums[T::MF][T::NF][4] = {};

    __device__ Warp(unsigned char *tables) {
        int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        row = warp % T::WM * (T::MF * 16);
        input = warp / T::WM % T::WN * (T::NF * 8);
        part = warp / (T::WM * T::WN);
        table = reinterpret_cast<float2 *>(tables + warp * kTable);
    }

    // Turns the step's scales into floats, a row a lane. `first_row` and `first_group` of the tile and the step.
    __device__ void scales(const Place &from, size_t first_row, int first_group, int groups) const {
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
            table[j * 32 + lane] = quant::scale_of<K>(raw, first_group + at);
        }
        __syncwarp();
    }

    // The weights of 16 rows and the groups `group`, `group + 1`, in the order of mma_s8_k32's registers.
    __device__ void weights(uint32_t a[2][4], const Place &from, int at_row, int group) const {
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
    __device__ void two_groups(const Place &from, int at) {
        int group = part * kGroups + at;
        uint32_t a[T::MF][2][4];
        float2 w[T::MF][2][2];
#pragma unroll
        for (int m = 0; m < T::MF; m++) {
            weights(a[m], from, row + m * 16, group);
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[m][i / 2][i % 2] = table[(at + i / 2) * 32 + m * 16 + i % 2 * 8 + lane / 4];
        }
#pragma unroll
        for (int f = 0; f < T::NF; f++) {
            uint32_t b[4];
            int first = input + f * 8;
            ldmatrix_x4(b, from.x(first + lane % 8) + group * 32 + lane / 8 * 16);
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

    __device__ void step(const Place &from) {
#pragma unroll 1 // Two at once do not fit into 255 registers beside 64 sums.
        for (int j = 0; j < kGroups; j += 2) two_groups(from, j);
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

template <class T> __device__ void write(const Product &p, size_t row, int input, float sum) {
    if (row < size_t(p.rows) && input < p.n) p.out[size_t(input) * p.stride + row] = sum + (p.bias ? p.bias[row] : 0.0f);
}

// Blocks: x inputs, y rows, in tiles. Shared memory: S stages, which have room for WK * M * N floats too, and the
// warps' tables.
template <Kind K, class T> __device__ void run(const Product &p) {
    DYNAMIC_SHARED(memory);
    using Place = Stage<K, T>;
    static_assert(T::WK == 1 || T::WK * T::M * T::N * 4 <= T::S * Place::kBytes, "sums fit where stages were");
    size_t row0 = size_t(blockIdx.y) * T::M;
    int input0 = blockIdx.x * T::N, steps = (p.groups + T::G - 1) / T::G;
    auto stage = [&](int step) { return Place{memory + step % T::S * Place::kBytes}; };
    const Loader<K, T> loader(p, row0, input0);
    Warp<K, T> warp(memory + T::S * Place::kBytes);
    for (int step = 0; step < T::S - 1 && step < steps; step++) loader.weights(stage(step), step);
    wait_for_previous();
    for (int step = 0; step < T::S - 1; step++) {
        if (step < steps) loader.inputs(stage(step), step);
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_async_wait<T::S - 2>();
        // All have this step's numbers now, and have done with the stage that the next copies go to.
        __syncthreads();
        int ahead = step + T::S - 1;
        if (ahead < steps) {
            loader.weights(stage(ahead), ahead);
            loader.inputs(stage(ahead), ahead);
        }
        copy_async_commit();
        warp.scales(stage(step), row0, step * T::G, p.groups);
        warp.step(stage(step));
    }
    if constexpr (T::WK == 1) {
        warp.each([&](int row, int input, float sum) { write<T>(p, row0 + row, input0 + input, sum); });
    } else {
        float *all = reinterpret_cast<float *>(memory);
        __syncthreads();
        warp.each([&](int row, int input, float sum) { all[(warp.part * T::N + input) * T::M + row] = sum; });
        __syncthreads();
        for (int i = threadIdx.x; i < T::M * T::N; i += T::kThreads) {
            float sum = 0.0f;
            for (int part = 0; part < T::WK; part++) sum += all[part * T::M * T::N + i];
            write<T>(p, row0 + i % T::M, input0 + i / T::M, sum);
        }
    }
}

} // namespace product_tiles

// Behind the shape: the second of __launch_bounds__, blocks that fit a multiprocessor's registers.
#define PRODUCT(name, kind, inputs, ...)                                                                             \
    extern "C" __global__ void __launch_bounds__(product_tiles::Shape##inputs::kThreads __VA_ARGS__)                 \
        product_tiles_##name##_##inputs(const uint8_t *low, const uint8_t *high, const uint8_t *scales,              \
                                        const uint8_t *supers, const int8_t *x, const float2 *x_scales, int rows,    \
                                        int groups, int n, float *out, uint64_t stride, const float *bias) {         \
        product_tiles::Product product = {{low, high, scales, supers}, x, x_scales, rows, groups, n, out, stride,    \
                                          bias};                                                                     \
        product_tiles::run<quant::kind, product_tiles::Shape##inputs>(product);                                      \
    }                                                                                                                \
    EXPORT(product_tiles_##name##_##inputs)
#define PRODUCTS(name, kind, most)                                                                                   \
    PRODUCT(name, kind, 16, , most)                                                                                    \
    PRODUCT(name, kind, 32)                                                                                          \
    PRODUCT(name, kind, 64)                                                                                          \
    PRODUCT(name, kind, 128)

PRODUCTS(q8_0, Q8_0, 4)
PRODUCTS(q4_0, Q4_0, 4)
PRODUCTS(q4_k, Q4_K, 4)
PRODUCTS(q5_k, Q5_K, 4)
PRODUCTS(q6_k, Q6_K, 3)

#undef PRODUCTS
#undef PRODUCT
