// CUDA's kernel language on the host: enough of it to run the very sources in kernels/ as ordinary code.
//
// A block's threads are fibers on one operating-system thread. They run until they meet a barrier or a warp
// collective, and go on when all who must meet there have come. A warp runs as far as barriers let it before the
// next has its turn, and the order of warps and lanes can be turned round or shuffled: a kernel that forgets a
// barrier then gives other numbers. Shared memory is poisoned before each block, copies made by cp.async arrive no
// earlier than they are waited for, and whatever a real card would hang or fault on where it can be seen (a
// barrier that some threads never reach, a shuffle with a lane that has left) ends the launch with an error.
//
// Knows no kernel. Not here: textures, cooperative groups, clusters, asynchronous bulk copies.
#pragma once

#include "races.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __constant__

namespace emu {

struct Dim {
    unsigned x, y, z;
};

// The running fiber's place, set before it goes on.
struct Place {
    Dim thread, block, block_size, grid;
};
extern __thread Place place;
// Whether tensor cores truncate in this launch, as real ones do, instead of rounding.
extern __thread bool truncating;
// c plus the products of 16 pairs, as a tensor core adds them up.
float tensor_sum(float c, const float x[16], const float y[16]);

void block_barrier();
// Every lane named by `mask` brings `bytes` (at most 64) and sees what each brought, kSlot bytes apart, until its next
// collective. What is there of other lanes means nothing. Only a barrier orders what lanes do to memory.
constexpr size_t kSlot = 64;
const unsigned char *warp_gather(unsigned mask, const void *mine, size_t bytes, bool barrier = false);
unsigned lane();
unsigned char *shared_memory();
// A copy that may not be relied on before its group has been waited for.
void copy_later(void *to, const void *from, size_t bytes, size_t valid);
void commit_copies();
void wait_copies(int groups_left);
[[noreturn]] void fail(const char *what);

using Entry = void (*)(void **);
struct Registrar {
    Registrar(const char *name, Entry entry);
};

template <class... A> struct Invoke {
    template <size_t... I> struct Places {};
    template <size_t N, size_t... I> struct Make : Make<N - 1, N - 1, I...> {};
    template <size_t... I> struct Make<0, I...> {
        EMU_UNSEEN static void call(void (*f)(A...), void **args) { f(*static_cast<A *>(args[I])...); }
    };
};
template <class... A> void invoke(void (*f)(A...), void **args) {
    Invoke<A...>::template Make<sizeof...(A)>::call(f, args);
}

// What the lanes named by a mask have brought.
template <class T> class Gathered {
  public:
    EMU_UNSEEN Gathered(unsigned mask, const T &mine) : slots(warp_gather(mask, &mine, sizeof mine)) {
        static_assert(sizeof mine <= kSlot, "it fits a slot");
    }
    EMU_UNSEEN const T &operator[](unsigned lane) const { return *reinterpret_cast<const T *>(slots + lane * kSlot); }

  private:
    const unsigned char *slots;
};

template <class T> EMU_UNSEEN T shuffle(unsigned mask, T value, unsigned from) {
    Gathered<T> all(mask, value);
    if (!(mask >> (from & 31) & 1)) fail("a shuffle reads from a lane that its mask does not name");
    return all[from & 31];
}

// Each thread of each kernel has to call it once.
void wait_for_previous();

} // namespace emu

#define threadIdx (emu::place.thread)
#define blockIdx (emu::place.block)
#define blockDim (emu::place.block_size)
#define gridDim (emu::place.grid)
static constexpr int warpSize = 32;

inline void __syncthreads() { emu::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    unsigned char nothing = 0;
    emu::warp_gather(mask, &nothing, 1, true);
}
inline void __threadfence() { emu::races::fence(); }
inline void __threadfence_block() { emu::races::fence(); }

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    unsigned lane = emu::lane();
    return emu::shuffle(mask, v, (lane & ~unsigned(width - 1)) | (unsigned(from) & unsigned(width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32) {
    unsigned lane = emu::lane(), other = lane ^ unsigned(by);
    if ((other & ~unsigned(width - 1)) != (lane & ~unsigned(width - 1))) other = lane;
    return emu::shuffle(mask, v, other);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    unsigned lane = emu::lane(), at = lane & unsigned(width - 1);
    return emu::shuffle(mask, v, at + by < unsigned(width) ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    unsigned lane = emu::lane(), at = lane & unsigned(width - 1);
    return emu::shuffle(mask, v, at >= by ? lane - by : lane);
}
EMU_UNSEEN inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emu::Gathered<bool> all(mask, predicate != 0);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1) bits |= unsigned(all[i]) << i;
    return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline int __float_as_int(float f) { int u; std::memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline float __int_as_float(int u) { float f; std::memcpy(&f, &u, 4); return f; }
inline int __float2int_rn(float f) { return int(std::nearbyint(f)); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a) * b >> 64); }
inline void __sincosf_exact(float x, float *s, float *c) { *s = std::sin(x); *c = std::cos(x); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int(int8_t(a >> (8 * i))) * int(int8_t(b >> (8 * i)));
    return c;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    uint64_t both = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = s >> (4 * i) & 0xf, byte = unsigned(both >> (8 * (pick & 7))) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << (8 * i);
    }
    return out;
}
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
// Blocks and fibers run one at a time: a plain read-modify-write is atomic.
#define EMU_ATOMIC emu::races::atomic(at, sizeof(T), EMU_SITE)
template <class T> EMU_UNSEEN T atomicAdd(T *at, T v) { EMU_ATOMIC; T old = *at; *at = old + v; return old; }
template <class T> EMU_UNSEEN T atomicMax(T *at, T v) { EMU_ATOMIC; T old = *at; if (v > old) *at = v; return old; }
template <class T> EMU_UNSEEN T atomicMin(T *at, T v) { EMU_ATOMIC; T old = *at; if (v < old) *at = v; return old; }
template <class T> EMU_UNSEEN T atomicOr(T *at, T v) { EMU_ATOMIC; T old = *at; *at = old | v; return old; }
template <class T> EMU_UNSEEN T atomicExch(T *at, T v) { EMU_ATOMIC; T old = *at; *at = v; return old; }
// One more, or 0 after `last`.
template <class T> EMU_UNSEEN T atomicInc(T *at, T last) {
    EMU_ATOMIC;
    T old = *at;
    *at = old >= last ? 0 : old + 1;
    return old;
}
template <class T> EMU_UNSEEN T atomicCAS(T *at, T expect, T v) {
    EMU_ATOMIC;
    T old = *at;
    if (old == expect) *at = v;
    return old;
}
#undef EMU_ATOMIC

template <class T> const T &min(const T &a, const T &b) { return b < a ? b : a; }
template <class T> const T &max(const T &a, const T &b) { return a < b ? b : a; }

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Half precision by hand: the compiler's own type does not exist everywhere.
struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __half2float(__half h) {
    uint32_t sign = uint32_t(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, rest = h.bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | rest << 13);
    if (exponent == 0) {
        float value = std::ldexp(float(rest), -24);
        return sign ? -value : value;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | rest << 13);
}
inline __half __float2half_rn(float f) {
    uint32_t u = __float_as_uint(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return {uint16_t(sign | 0x7e00)};
    if (a >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};
    if (a < 0x38800000u) {
        float scaled = std::nearbyint(std::ldexp(__uint_as_float(a), 24));
        return {uint16_t(sign | uint32_t(scaled))};
    }
    uint32_t odd = a >> 13 & 1;
    return {uint16_t(sign | ((a - 0x38000000u + 0xfff + odd) >> 13))};
}
inline __half __float2half(float f) { return __float2half_rn(f); }
inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float(uint32_t(b.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t(u >> 16 | 0x40)};
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
