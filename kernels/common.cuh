// What all kernels share: number types, reductions, tensor-core products, asynchronous copies.
//
// The only file that knows whether it is compiled for a card (nvcc) or for the host (host/emulator.h); kernels
// below it are one text for both. Fragment layouts are those of the PTX ISA, "Matrix multiply-accumulate
// operation using mma instruction"; the host twins are written from the same tables, so that a kernel which puts
// a value into the wrong lane fails on the host.
#pragma once

#ifdef __CUDA_ARCH__
constexpr int kArchitecture = __CUDA_ARCH__;
#else
constexpr int kArchitecture = 0;
#endif

#ifdef __CUDACC__
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define EXPORT(name)
#define RESTRICT __restrict__
#else
#include "host/emulator.h"
#define DYNAMIC_SHARED(name) unsigned char *name = emu::shared_memory()
#define EXPORT(name) static emu::Registrar register_##name(#name, [](void **args) { emu::invoke(&name, args); });
#define RESTRICT
#endif

typedef __half f16;
typedef __nv_bfloat16 bf16;

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(f16 v) { return __half2float(v); }
__device__ inline float to_float(bf16 v) { return __bfloat162float(v); }

template <class T> __device__ inline T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline f16 from_float<f16>(float v) { return __float2half_rn(v); }
template <> __device__ inline bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }

// Bits of two half-precision numbers in one register, the first in the low half.
template <class T> __device__ inline uint32_t pack2(T low, T high) {
    static_assert(sizeof(T) == 2, "half precision");
    uint16_t l, h;
    memcpy(&l, &low, 2);
    memcpy(&h, &high, 2);
    return uint32_t(l) | uint32_t(h) << 16;
}

constexpr unsigned kAll = 0xffffffffu;

// By the low five bits of `by`, as the instruction takes them.
__device__ inline uint32_t shifted_right(uint32_t bits, unsigned by) {
#ifdef __CUDACC__
    return __funnelshift_r(bits, 0, by);
#else
    return bits >> by % 32;
#endif
}

// FP8 as the OCP 8-bit floating point specification has it (E4M3): a sign, four bits of exponent (bias 7), three of
// mantissa. No infinities; 0x7f and 0xff are NaN, and the largest number is 448.
struct e4m3 {
    uint8_t bits;
};

// Written out: for the host, and for cards before capability 8.9, which have no instruction for it.
__device__ inline float float_of_e4m3(e4m3 v) {
    uint32_t sign = uint32_t(v.bits & 0x80) << 24, rest = v.bits & 0x7f;
    if (rest == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
    // Below 2^-6 in steps of 2^-9.
    if (rest < 8) return __uint_as_float(__float_as_uint(float(rest) / 512.0f) | sign);
    return __uint_as_float(sign | ((rest << 20) + (120u << 23)));
}

// To the nearest, of two the even one. What is beyond the largest number becomes that, infinities included.
__device__ inline e4m3 e4m3_of_float(float v) {
    uint32_t sign = __float_as_uint(v) >> 24 & 0x80, rest = __float_as_uint(v) & 0x7fffffffu;
    if (rest > 0x7f800000u) return {0x7f};
    if (rest >= __float_as_uint(448.0f)) return {uint8_t(sign | 0x7e)};
    if (rest < __float_as_uint(0.015625f)) return {uint8_t(sign | __float2int_rn(__uint_as_float(rest) * 512.0f))};
    uint32_t odd = rest >> 20 & 1;
    return {uint8_t(sign | (rest - (120u << 23) + 0x7ffff + odd) >> 20)};
}

// 1 / v of a normal number whose inverse is one too: what the division gives, without its path for others. Of infinity and
// of none it may be none.
__device__ inline float inverse(float v) {
#ifdef __CUDACC__
    float near;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(v));
    return __fmaf_rn(near, __fmaf_rn(-v, near, 1.0f), near);
#else
    return 1.0f / v;
#endif
}

// A value that is not kept from where it was asked for before.
__device__ inline int asked(int value) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(value));
#endif
    return value;
}

// The larger magnitude of two numbers; none if one is none, where fmaxf would drop it.
__device__ inline float larger(float a, float b) {
#ifdef __CUDACC__
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(fabsf(a)), "f"(fabsf(b)));
    return most;
#else
    return __uint_as_float(std::max(__float_as_uint(fabsf(a)), __float_as_uint(fabsf(b))));
#endif
}

__device__ inline float warp_sum(float v) {
    for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(kAll, v, by);
    return v;
}

__device__ inline float warp_max(float v) {
    for (int by = 16; by > 0; by >>= 1) v = fmaxf(v, __shfl_xor_sync(kAll, v, by));
    return v;
}

// Sum over a block whose size is a multiple of 32, the same for all threads. `scratch`: 32 floats of shared
// memory, free again when this returns.
__device__ inline float block_sum(float v, float *scratch) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_sum(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return v;
}

__device__ inline float block_max(float v, float *scratch) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    v = warp_max(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = warp_max(lane < warps ? scratch[lane] : -INFINITY);
    __syncthreads();
    return v;
}

// From capability 9.0 on a launch may begin while the one before it still runs (programmatic dependent launch, CUDA
// Programming Guide). Each kernel therefore waits, before it touches anything but weights, until all that the launch
// before has written is there. That one has waited for its own predecessor, and so on, so that the order of launches
// holds. A kernel that leaves most of the card idle lets the next one in at once: its blocks are set up meanwhile, and
// its weights are on their way (`prefetch`, or copies to shared memory). One that fills the card does so when its main
// work is done: all of its own blocks have places then. Blocks let in early take whatever comes free first, many on a few
// multiprocessors, so that what follows should have few blocks on each (decision 046).
#ifdef __CUDACC__
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Brings the line of 128 bytes around an address to the second-level cache.
__device__ inline void fetch_line(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }
// The same while a kernel waits for the previous one.
__device__ inline void prefetch(const void *at) {
#if __CUDA_ARCH__ >= 900
    fetch_line(at);
#endif
}
#else
inline void wait_for_previous() { emu::wait_for_previous(); }
inline void let_next_begin() {}
inline void fetch_line(const void *) {}
inline void prefetch(const void *) {}
#endif

// Whether a block is the last of `blocks` that come here with this count; the same for all of its threads. They may then
// read what the others wrote before, past the first-level cache (`__ldcg`). The count is zero before the first block and
// after the last one, so that a launch can be repeated. `word`: of shared memory, which may be in use until here.
__device__ inline bool is_last(unsigned *count, unsigned blocks, unsigned *word) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        *word = atomicInc(count, blocks - 1);
        __threadfence();
    }
    __syncthreads();
    return *word == blocks - 1;
}

// c += a * b of tensor cores, or of whole numbers d = a * b + c with the same c for all; all lanes of a warp together.
// With g = lane / 4, t = lane % 4:
//   c: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1) of [16][8]
//   half precision, k = 16: a: pairs of k at (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8) of [16][16];
//                           b: pairs of k at (2t, g), (2t+8, g) of [16][8]
//   tf32, k = 8: a: (g, t), (g+8, t), (g, t+4), (g+8, t+4); b: (t, g), (t+4, g)
//   int8, k = 32: a: four of k at (g, 4t), (g+8, 4t), (g, 4t+16), (g+8, 4t+16); b: at (4t, g), (4t+16, g)
//   int8, k = 16: a: (g, 4t), (g+8, 4t); b: (4t, g)
// ldmatrix, x4: each group of eight lanes gives the addresses of the eight rows (16 bytes each) of one 8x8
// matrix of half-precision values; register i of a lane is matrix i at (g, 2t), (g, 2t+1), or with `_trans` at
// (2t, g), (2t+1, g).
#ifdef __CUDACC__

__device__ inline void mma(float c[4], const uint32_t a[4], const uint32_t b[2], f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma(float c[4], const uint32_t a[4], const uint32_t b[2], bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_tf32(float c[4], const float a[4], const float b[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                   "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

__device__ inline void mma_s8_k32(int d[4], const uint32_t a[4], const uint32_t b[2], int c) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%10,%10,%10};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c));
}

__device__ inline void mma_s8_k16(int d[4], const uint32_t a[2], const uint32_t b[1], int c) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c));
}

__device__ inline void ldmatrix_x4(uint32_t r[4], const void *row) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ inline void ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

// Four whole numbers of 8 bits, the first in the lowest byte, as half-precision values: the first two in `low`.
// 0x64xx is 1024 + xx, so that a byte with its sign turned stands for itself plus 1152.
__device__ inline void halves_of_s8(uint32_t bytes, uint32_t &low, uint32_t &high) {
    uint32_t turned = bytes ^ 0x80808080u;
    low = __byte_perm(turned, 0x64646464u, 0x4140);
    high = __byte_perm(turned, 0x64646464u, 0x4342);
    asm("sub.f16x2 %0, %0, %1;" : "+r"(low) : "r"(0x64806480u));
    asm("sub.f16x2 %0, %0, %1;" : "+r"(high) : "r"(0x64806480u));
}

// Four numbers in E4M3, the first in the lowest byte, as half-precision values: the first two in `low`. And back:
// numbers beyond 448 become that.
#if __CUDA_ARCH__ >= 890
__device__ inline void halves_of_e4m3(uint32_t bytes, uint32_t &low, uint32_t &high) {
    asm("{ .reg .b16 x, y; mov.b32 {x, y}, %2; cvt.rn.f16x2.e4m3x2 %0, x; cvt.rn.f16x2.e4m3x2 %1, y; }"
        : "=r"(low), "=r"(high)
        : "r"(bytes));
}
__device__ inline uint32_t e4m3_of4(float4 v) {
    uint32_t bytes;
    asm("{ .reg .b16 x, y; cvt.rn.satfinite.e4m3x2.f32 x, %2, %1; cvt.rn.satfinite.e4m3x2.f32 y, %4, %3; "
        "mov.b32 %0, {x, y}; }"
        : "=r"(bytes)
        : "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w));
    return bytes;
}
__device__ inline float to_float(e4m3 v) {
    uint32_t low, high;
    halves_of_e4m3(v.bits, low, high);
    return __half2float(__ushort_as_half(uint16_t(low)));
}
#define E4M3_INSTRUCTIONS
#endif

// a * b + c of two pairs, each rounded once.
__device__ inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

// The pair of bf16 that has the same number twice.
__device__ inline uint32_t twice_bf16(float v) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %1;" : "=r"(out) : "f"(v));
    return out;
}

// Copies 16 bytes to shared memory, of which those from `valid` on become 0; both addresses on 16 bytes. It has
// arrived, for this thread, once its group has been waited for; for others, after a barrier on top.
__device__ inline void copy_async16(void *shared, const void *global, int valid = 16) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(valid) : "memory");
}
// As copy_async16, of 4, 8 or 16 bytes on as many.
template <int kBytes> __device__ inline void copy_async(void *shared, const void *global, int valid) {
    if constexpr (kBytes == 16) return copy_async16(shared, global, valid);
    uint32_t at = uint32_t(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(global), "n"(kBytes), "r"(valid)
                 : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft> __device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

#else

namespace emu {

template <class T> EMU_UNSEEN inline float half_at(uint32_t pair, int which) {
    T v;
    uint16_t bits = uint16_t(pair >> (16 * which));
    std::memcpy(&v, &bits, 2);
    return to_float(v);
}

struct Fragments {
    uint32_t a[4], b[2];
};

// A lane's numbers, register by register.
struct Floats {
    float a[8], b[4];
};

template <class T> EMU_UNSEEN void mma_half(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    Floats mine;
    for (int i = 0; i < 8; i++) mine.a[i] = half_at<T>(a[i / 2], i % 2);
    for (int i = 0; i < 4; i++) mine.b[i] = half_at<T>(b[i / 2], i % 2);
    Gathered<Floats> all(kAll, mine);
    unsigned g = lane() / 4, t = lane() % 4;
    float x[2][16], y[2][16];
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < 16; k++) {
            x[i][k] = all[g * 4 + k % 8 / 2].a[(i + k / 8 * 2) * 2 + k % 2];
            y[i][k] = all[(2 * t + i) * 4 + k % 8 / 2].b[k / 8 * 2 + k % 2];
        }
    }
    for (int i = 0; i < 4; i++) c[i] = tensor_sum(c[i], x[i / 2], y[i % 2]);
}

// The last 13 bits play no part.
EMU_UNSEEN inline void mma_tf32(float c[4], const float a[4], const float b[2]) {
    Floats mine = {};
    auto tf32 = [](float v) { return __uint_as_float(__float_as_uint(v) & 0xffffe000u); };
    for (int i = 0; i < 4; i++) mine.a[i] = tf32(a[i]);
    for (int i = 0; i < 2; i++) mine.b[i] = tf32(b[i]);
    Gathered<Floats> all(kAll, mine);
    unsigned g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        unsigned row = g + i / 2 * 8, col = 2 * t + i % 2;
        float x[16] = {}, y[16] = {};
        for (unsigned k = 0; k < 8; k++) {
            x[k] = all[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2];
            y[k] = all[col * 4 + k % 4].b[k / 4];
        }
        c[i] = tensor_sum(c[i], x, y);
    }
}

EMU_UNSEEN inline void mma_int(int c[4], const Fragments &mine, unsigned depth) {
    Gathered<Fragments> all(kAll, mine);
    unsigned g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        unsigned row = g + i / 2 * 8, col = 2 * t + i % 2;
        for (unsigned word = 0; word < depth / 4; word++) {
            uint32_t x = all[row % 8 * 4 + word % 4].a[row / 8 + word / 4 * 2];
            uint32_t y = all[col * 4 + word % 4].b[word / 4];
            for (int k = 0; k < 4; k++) c[i] += int(int8_t(x >> 8 * k)) * int(int8_t(y >> 8 * k));
        }
    }
}

EMU_UNSEEN inline void ldmatrix(uint32_t r[4], const void *row, bool trans) {
    races::read(row, 16, EMU_SITE);
    Gathered<const void *> rows(kAll, row);
    unsigned g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned from = trans ? 2 * t + j : g, at = trans ? g : 2 * t + j;
            std::memcpy(&pair[j], static_cast<const uint16_t *>(rows[i * 8 + from]) + at, 2);
        }
        r[i] = uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
    }
}

} // namespace emu

inline void mma(float c[4], const uint32_t a[4], const uint32_t b[2], f16) { emu::mma_half<f16>(c, a, b); }
inline void mma(float c[4], const uint32_t a[4], const uint32_t b[2], bf16) { emu::mma_half<bf16>(c, a, b); }
inline void mma_tf32(float c[4], const float a[4], const float b[2]) { emu::mma_tf32(c, a, b); }
inline void mma_s8_k32(int d[4], const uint32_t a[4], const uint32_t b[2], int c) {
    for (int i = 0; i < 4; i++) d[i] = c;
    emu::mma_int(d, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, 32);
}
inline void mma_s8_k16(int d[4], const uint32_t a[2], const uint32_t b[1], int c) {
    for (int i = 0; i < 4; i++) d[i] = c;
    emu::mma_int(d, {{a[0], a[1], 0, 0}, {b[0], 0}}, 16);
}
inline void ldmatrix_x4(uint32_t r[4], const void *row) { emu::ldmatrix(r, row, false); }
inline void ldmatrix_x4_trans(uint32_t r[4], const void *row) { emu::ldmatrix(r, row, true); }
inline void halves_of_s8(uint32_t bytes, uint32_t &low, uint32_t &high) {
    f16 four[4];
    for (int i = 0; i < 4; i++) four[i] = from_float<f16>(float(int8_t(bytes >> 8 * i)));
    low = pack2(four[0], four[1]);
    high = pack2(four[2], four[3]);
}
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    bf16 out[2];
    for (int i = 0; i < 2; i++)
        out[i] = from_float<bf16>(float(double(emu::half_at<bf16>(a, i)) * emu::half_at<bf16>(b, i) +
                                        emu::half_at<bf16>(c, i)));
    return pack2(out[0], out[1]);
}
inline uint32_t twice_bf16(float v) { return pack2(from_float<bf16>(v), from_float<bf16>(v)); }
template <int kBytes> inline void copy_async(void *shared, const void *global, int valid) {
    if ((uintptr_t(shared) | uintptr_t(global)) % kBytes) emu::fail("cp.async on an address that is not aligned");
    emu::copy_later(shared, global, kBytes, size_t(valid));
}
inline void copy_async16(void *shared, const void *global, int valid = 16) { copy_async<16>(shared, global, valid); }
inline void copy_async_commit() { emu::commit_copies(); }
template <int kLeft> inline void copy_async_wait() { emu::wait_copies(kLeft); }

#endif

#ifndef E4M3_INSTRUCTIONS
__device__ inline void halves_of_e4m3(uint32_t bytes, uint32_t &low, uint32_t &high) {
    f16 four[4];
    for (int i = 0; i < 4; i++) four[i] = from_float<f16>(float_of_e4m3({uint8_t(bytes >> 8 * i)}));
    low = pack2(four[0], four[1]);
    high = pack2(four[2], four[3]);
}
__device__ inline uint32_t e4m3_of4(float4 v) {
    return uint32_t(e4m3_of_float(v.x).bits) | uint32_t(e4m3_of_float(v.y).bits) << 8 |
           uint32_t(e4m3_of_float(v.z).bits) << 16 | uint32_t(e4m3_of_float(v.w).bits) << 24;
}
__device__ inline float to_float(e4m3 v) { return float_of_e4m3(v); }
#endif
#undef E4M3_INSTRUCTIONS

// Four cached numbers of a byte each as half-precision values.
__device__ inline void halves_of(uint32_t bytes, uint32_t &low, uint32_t &high, int8_t) {
    halves_of_s8(bytes, low, high);
}
__device__ inline void halves_of(uint32_t bytes, uint32_t &low, uint32_t &high, e4m3) {
    halves_of_e4m3(bytes, low, high);
}
