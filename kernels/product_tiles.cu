// Products of quantised weights with many inputs: tiles through shared memory, whole-number tensor cores.
//
// A block computes M rows times N inputs, in steps of G groups (of 32 columns). Each step's weights and inputs are
// copied to shared memory as they are, asynchronously, S - 1 steps ahead; only scales pass through registers, where
// they become floats. Weights stay packed until a warp has them in a fragment: `quant::pair` turns one word into
// the two registers that the product of 32 columns wants of it, so shared memory carries 4.5 bits a number. Each
// group's whole-number sum is scaled and added in f32 (llama.cpp's MMQ does so too: groups have scales of their
// own on both sides).
//
// Shapes: few inputs (up to 32) get small tiles whose warps split the columns of a step among them (WK) and meet at
// the end: time is reading the weights, and many blocks read at once. Many inputs get 128 x 128: arithmetic limits
// them, 12 to 16 floating-point instructions for the 4 results of each tensor-core instruction, so that peak is
// about the card's f32 rate / 4 for each group of 32, i.e. 8 times its f32 multiply rate; sums become floats
// without conversion (quant.cuh). All strides in shared memory are odd multiples of 16 bytes: eight rows' 16-byte
// pieces then lie in different banks (ldmatrix), as do single words of eight rows.
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
    static_assert(M * G % kThreads == 0 && N * G % kThreads == 0, "as many scales for every thread");
};

using Shape16 = Shape<32, 16, 1, 1, 4, 8, 3>;
using Shape32 = Shape<32, 32, 1, 1, 4, 8, 3>;
using Shape64 = Shape<64, 64, 2, 2, 1, 4, 2>;
using Shape128 = Shape<128, 128, 4, 2, 1, 4, 2>;

// Arguments of a launch.
struct Product {
    Planes planes;
    const int8_t *x;
    const float2 *x_scales;
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
    static constexpr int kHighAt = T::M * kLow, kXAt = kHighAt + T::M * kHigh, kScalesAt = kXAt + T::N * kX;
    static constexpr int kXScalesAt = kScalesAt + T::G * T::M * 8, kBytes = kXScalesAt + T::G * T::N * 8;
    // Scales that a thread carries.
    static constexpr int kMine = T::M * T::G / T::kThreads, kMineX = T::N * T::G / T::kThreads;

    unsigned char *at;

    __device__ unsigned char *low(int row) const { return at + row * kLow; }
    __device__ unsigned char *high(int row) const { return at + kHighAt + row * kHigh; }
    __device__ unsigned char *x(int input) const { return at + kXAt + input * kX; }
    // [G][M] and [G][N].
    __device__ float2 *scales(int group) const {
        return reinterpret_cast<float2 *>(at + kScalesAt) + group * T::M;
    }
    __device__ float2 *x_scales(int group) const {
        return reinterpret_cast<float2 *>(at + kXScalesAt) + group * T::N;
    }
};

// Brings steps to shared memory. What is beyond the matrix or the inputs becomes zero.
template <Kind K, class T> struct Loader {
    using Place = Stage<K, T>;
    const Product &p;
    size_t row0;
    int input0;
    quant::RawScale raw[Place::kMine];
    float2 raw_x[Place::kMineX];

    __device__ Loader(const Product &product, size_t row, int input) : p(product), row0(row), input0(input) {}

    // `bytes` per group and row of one plane, G groups from `group` on.
    template <int kBytes> __device__ void rows(const uint8_t *plane, unsigned char *to, int stride, int group) {
        constexpr int kPieces = T::G * kBytes / 16;
        for (int i = threadIdx.x; i < T::M * kPieces; i += T::kThreads) {
            int row = i / kPieces, at = i % kPieces * 16;
            bool there = row0 + row < size_t(p.rows) && group + at / kBytes < p.groups;
            const uint8_t *from = there ? plane + ((row0 + row) * p.groups + group) * kBytes + at : plane;
            copy_async16(to + row * stride + at, from, there ? 16 : 0);
        }
    }

    // Starts the copies of a step. Not waited for; one group of copies.
    __device__ void start(const Place &to, int step) {
        int group = step * T::G;
        rows<quant::kLowBytes<K>>(p.planes.low, to.low(0), Place::kLow, group);
        if constexpr (Place::kHigh != 0) rows<quant::kHighBytes<K>>(p.planes.high, to.high(0), Place::kHigh, group);
        for (int i = threadIdx.x; i < T::N * T::G * 2; i += T::kThreads) {
            int input = i / (T::G * 2), at = i % (T::G * 2) * 16;
            bool there = input0 + input < p.n && group + at / 32 < p.groups;
            const int8_t *from = there ? p.x + (size_t(input0 + input) * p.groups + group) * 32 + at : p.x;
            copy_async16(to.x(input) + at, from, there ? 16 : 0);
        }
    }

    // Loads a step's scales into registers.
    __device__ void load_scales(int step) {
#pragma unroll
        for (int i = 0; i < Place::kMine; i++) {
            int index = threadIdx.x + i * T::kThreads, group = step * T::G + index % T::G;
            size_t row = row0 + index / T::G;
            raw[i] = {0, 0, 0, 0};
            if (row < size_t(p.rows) && group < p.groups)
                raw[i] = quant::load_scale<K>(p.planes, row * p.groups + group);
        }
#pragma unroll
        for (int i = 0; i < Place::kMineX; i++) {
            int index = threadIdx.x + i * T::kThreads, group = step * T::G + index % T::G;
            int input = input0 + index / T::G;
            raw_x[i] = make_float2(0.0f, 0.0f);
            if (input < p.n && group < p.groups) raw_x[i] = __ldg(p.x_scales + size_t(input) * p.groups + group);
        }
    }

    // Puts the scales in registers, those of `step`, into shared memory.
    __device__ void store_scales(const Place &to, int step) {
#pragma unroll
        for (int i = 0; i < Place::kMine; i++) {
            int index = threadIdx.x + i * T::kThreads, group = index % T::G;
            to.scales(group)[index / T::G] = quant::scale_of<K>(raw[i], step * T::G + group);
        }
#pragma unroll
        for (int i = 0; i < Place::kMineX; i++) {
            int index = threadIdx.x + i * T::kThreads;
            to.x_scales(index % T::G)[index / T::G] = raw_x[i];
        }
    }
};

// A warp's share of a tile.
template <Kind K, class T> struct Warp {
    using Place = Stage<K, T>;
    // First row and input in the tile, and the part of a step's groups.
    int row, input, part, lane;
    float sums[T::MF][T::NF][4] = {};

    __device__ Warp() {
        int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        row = warp % T::WM * (T::MF * 16);
        input = warp / T::WM % T::WN * (T::NF * 8);
        part = warp / (T::WM * T::WN);
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

    // Adds the products of two groups of a step.
    __device__ void two_groups(const Place &from, int group) {
        uint32_t a[T::MF][2][4];
        float2 w[T::MF][2][2];
#pragma unroll
        for (int m = 0; m < T::MF; m++) {
            weights(a[m], from, row + m * 16, group);
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[m][i / 2][i % 2] = from.scales(group + i / 2)[row + m * 16 + i % 2 * 8 + lane / 4];
        }
#pragma unroll
        for (int f = 0; f < T::NF; f++) {
            uint32_t b[4];
            int first = input + f * 8;
            ldmatrix_x4(b, from.x(first + lane % 8) + group * 32 + lane / 8 * 16);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float4 both = *reinterpret_cast<const float4 *>(from.x_scales(group + j) + first + lane % 4 * 2);
                const float2 x[2] = {make_float2(both.x, both.y), make_float2(both.z, both.w)};
#pragma unroll
                for (int m = 0; m < T::MF; m++) add(sums[m][f], a[m][j], b + 2 * j, w[m][j], x);
            }
        }
    }

    __device__ void step(const Place &from) {
        constexpr int kGroups = T::G / T::WK;
#pragma unroll 1 // Two at once do not fit into 255 registers beside 64 sums.
        for (int j = 0; j < kGroups; j += 2) two_groups(from, part * kGroups + j);
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

// Blocks: x inputs, y rows, in tiles. Shared memory: S stages; enough for WK * M * N floats too.
template <Kind K, class T> __device__ void run(const Product &p) {
    DYNAMIC_SHARED(memory);
    using Place = Stage<K, T>;
    static_assert(T::WK == 1 || T::WK * T::M * T::N * 4 <= T::S * Place::kBytes, "sums fit where stages were");
    size_t row0 = size_t(blockIdx.y) * T::M;
    int input0 = blockIdx.x * T::N, steps = (p.groups + T::G - 1) / T::G;
    auto stage = [&](int step) { return Place{memory + step % T::S * Place::kBytes}; };
    Loader<K, T> loader(p, row0, input0);
    Warp<K, T> warp;
    for (int step = 0; step < T::S - 1; step++) {
        if (step < steps) {
            loader.start(stage(step), step);
            loader.load_scales(step);
            loader.store_scales(stage(step), step);
        }
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_async_wait<T::S - 2>();
        // All have this step's numbers now, and have done with the stage that the next copies go to.
        __syncthreads();
        int ahead = step + T::S - 1;
        if (ahead < steps) {
            loader.start(stage(ahead), ahead);
            loader.load_scales(ahead);
        }
        copy_async_commit();
        warp.step(stage(step));
        if (ahead < steps) loader.store_scales(stage(ahead), ahead);
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

// Behind the shape: the second of __launch_bounds__, where the compiler's own choice spills a register.
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
#define PRODUCTS(name, kind)                                                                                         \
    PRODUCT(name, kind, 16, , 2)                                                                                     \
    PRODUCT(name, kind, 32)                                                                                          \
    PRODUCT(name, kind, 64)                                                                                          \
    PRODUCT(name, kind, 128)

PRODUCTS(q8_0, Q8_0)
PRODUCTS(q4_0, Q4_0)
PRODUCTS(q4_k, Q4_K)
PRODUCTS(q5_k, Q5_K)
PRODUCTS(q6_k, Q6_K)

#undef PRODUCTS
#undef PRODUCT
