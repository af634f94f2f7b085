// What the attention kernels share: the paged cache as a kernel finds it, and the walk of a team of threads over
// a run of cached tokens with an online softmax (FlashAttention, arXiv:2205.14135 and arXiv:2307.08691).
//
// A walk keeps 16 rows of queries per warp as tensor-core operands and goes through keys and values tile by
// tile. There is one shared buffer for a tile of keys and one for its values: while one is being multiplied, the
// other is on its way (cp.async), and each is filled again as soon as all have read it. That costs half the
// shared memory of whole double buffers, so that more blocks are at work per multiprocessor, and nearly always
// has half a tile of every team in flight. An 8-bit cache arrives as bytes and is widened once per team into a
// tile of halves. Scales, which a cache of whole numbers has, go to the scores and to the probabilities.
//
// Scores are in powers of two: log2(e) is folded into the queries. Probabilities are kept times 2^8, which
// cancels when they are divided by their sum, and keeps small ones with small scales of values away from the
// bottom of half precision (scales of values up to 255 stay below its top). A token past the end of a run is read
// as the run's last one and gets no weight, so that nothing is read that no query of the team may see.
//
// Knows no grid: who walks over what, the kernels say.
#pragma once
#include "acts.cuh"

namespace attention {

constexpr float kLift = 8.0f;

// A sequence's part in the step.
struct Row {
    int start, len, context;
    const uint32_t *table;
};

__device__ inline Row row_at(const uint32_t *rows, const uint32_t *tables, int index) {
    const uint32_t *row = rows + size_t(index) * 4;
    return {int(row[0]), int(row[1]), int(row[2]), tables + row[3]};
}

// Whether a cache of such numbers has a scale for each head of a token.
template <class Number> constexpr bool kHasScales = false;
template <> constexpr bool kHasScales<int8_t> = true;

struct Cache {
    const unsigned char *keys, *values;
    const float *key_scales, *value_scales;
    int kv_heads, block_size;
};

// Where a head of a token is: `slot` rows of head_dim numbers from the start.
__device__ inline uint32_t slot_in(const Cache &cache, uint32_t block, int head, int offset) {
    return (block * uint32_t(cache.kv_heads) + uint32_t(head)) * uint32_t(cache.block_size) + uint32_t(offset);
}

__device__ inline int first_seen(int position, int window) { return max(0, position + 1 - window); }

// 32 numbers of a row by a warp, in the form that `kind` names: crate::acts::ActKind in its order.
__device__ inline void store_as(int kind, void *values, float2 *scales, size_t row, int column, int width,
                                float v) {
    if (kind == 0) store_acts(static_cast<float *>(values), scales, row, column, width, v);
    else if (kind == 1) store_acts(static_cast<f16 *>(values), scales, row, column, width, v);
    else if (kind == 2) store_acts(static_cast<bf16 *>(values), scales, row, column, width, v);
    else store_acts(static_cast<int8_t *>(values), scales, row, column, width, v);
}

// Threads that share tiles.
struct WarpTeam {
    static constexpr int kSize = 32;
    __device__ static int rank() { return threadIdx.x % 32; }
    __device__ static void sync() { __syncwarp(); }
};
struct BlockTeam {
    static constexpr int kSize = 128;
    __device__ static int rank() { return threadIdx.x; }
    __device__ static void sync() { __syncthreads(); }
};

// A tile of keys or values in shared memory, and what a team needs of it in all. `Number_`: f16, int8_t or e4m3.
template <int kDim_, int kKeys_, class Number_> struct Tile {
    using Number = Number_;
    static constexpr int kDim = kDim_, kKeys = kKeys_;
    static constexpr bool kBytes = sizeof(Number) == 1, kScales = kHasScales<Number>;
    // Bytes of a head in the cache, and from one row of halves to the next: 16 more than they fill, an odd
    // number of 16s, so that the eight rows that ldmatrix reads at a time lie in different banks.
    static constexpr int kHead = kDim * (kBytes ? 1 : 2), kStep = kDim * 2 + 16;
    static constexpr int kHalves = kKeys * kStep, kRaw = kBytes ? kKeys * kDim : 0;
    static constexpr int kData = kBytes ? kHalves + 2 * kRaw : 2 * kHalves;
    // Slots of two tiles, scales of keys and of values.
    static constexpr int kShared = kData + 4 * 4 * kKeys;
    static_assert(kDim % 32 == 0 && kKeys % 16 == 0, "whole products");
};

// 16 rows of queries of a warp: in registers where they fit, else read from shared memory for every tile.
template <int kDim> struct Queries {
    static constexpr bool kHeld = kDim <= 192;
    uint32_t held[kHeld ? kDim / 16 : 1][4];
    const unsigned char *at;

    // `rows`: 16 rows of halves, `step` bytes apart. If they are held they may be overwritten once all lanes
    // have returned.
    __device__ Queries(const unsigned char *rows, int step) {
        int lane = threadIdx.x % 32;
        at = rows + lane % 16 * step + lane / 16 * 16;
        if constexpr (kHeld) {
#pragma unroll
            for (int k = 0; k < kDim / 16; k++) ldmatrix_x4(held[k], at + k * 32);
        }
    }

    __device__ void take(int k, uint32_t a[4]) const {
        if constexpr (kHeld) {
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = held[k][i];
        } else {
            ldmatrix_x4(a, at + k * 32);
        }
    }
};

// Which tokens a lane's two rows see (rows lane / 4 and lane / 4 + 8), first to last, and for the whole warp what
// every row sees and what any row sees.
struct Sight {
    int first[2], last[2];
    int all_first, all_last, any_first, any_last;
};

// Running softmax of a lane's rows. With `kPaired` rows 8 to 15 hold what rows 0 to 7 lost by rounding, and the
// two are one row.
template <int kDim, bool kPaired> struct Sums {
    static constexpr int kRows = kPaired ? 1 : 2;
    float out[kDim / 8][4];
    float most[2], sum[2];

    __device__ Sums() {
#pragma unroll
        for (int j = 0; j < kDim / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[j][i] = 0.0f;
        most[0] = most[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
    }

    // To be called by all lanes once the walk is over.
    __device__ void finish() {
#pragma unroll
        for (int r = 0; r < kRows; r++) {
            sum[r] += __shfl_xor_sync(kAll, sum[r], 1);
            sum[r] += __shfl_xor_sync(kAll, sum[r], 2);
        }
        if constexpr (kPaired) {
#pragma unroll
            for (int j = 0; j < kDim / 8; j++) {
                out[j][0] += out[j][2];
                out[j][1] += out[j][3];
            }
        }
    }
};

// scores = queries * keys^T for the 16 rows of a warp; fragments as mma leaves them, 8 keys each.
template <class T> __device__ inline void multiply_keys(const Queries<T::kDim> &queries,
                                                        const unsigned char *keys, float s[T::kKeys / 8][4]) {
    int lane = threadIdx.x % 32;
    const unsigned char *at = keys + (lane % 8 + lane / 16 * 8) * T::kStep + lane / 8 % 2 * 16;
#pragma unroll
    for (int j = 0; j < T::kKeys / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[j][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < T::kDim / 16; k++) {
        uint32_t a[4];
        queries.take(k, a);
#pragma unroll
        for (int j = 0; j < T::kKeys / 16; j++) {
            uint32_t b[4];
            ldmatrix_x4(b, at + j * 16 * T::kStep + k * 32);
            mma(s[2 * j], a, b, f16());
            mma(s[2 * j + 1], a, b + 2, f16());
        }
    }
}

// out += probabilities * values.
template <class T, bool kPaired>
__device__ inline void multiply_values(const float p[T::kKeys / 8][4], const unsigned char *values,
                                       float out[T::kDim / 8][4]) {
    int lane = threadIdx.x % 32;
    const unsigned char *at = values + lane % 16 * T::kStep + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < T::kKeys / 16; k++) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *own = p[2 * k + i];
            f16 x = from_float<f16>(own[0]), y = from_float<f16>(own[1]);
            a[2 * i] = pack2(x, y);
            a[2 * i + 1] = kPaired ? pack2(from_float<f16>(own[0] - to_float(x)), from_float<f16>(own[1] - to_float(y)))
                                   : pack2(from_float<f16>(own[2]), from_float<f16>(own[3]));
        }
#pragma unroll
        for (int j = 0; j < T::kDim / 16; j++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, at + k * 16 * T::kStep + j * 32);
            mma(out[2 * j], a, b, f16());
            mma(out[2 * j + 1], a, b + 2, f16());
        }
    }
}

// Calls `f(j, i, key)` for all keys of a tile that this lane has: fragment j, its i-th number of a row.
template <class T, class F> __device__ inline void each(F f) {
#pragma unroll
    for (int j = 0; j < T::kKeys / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) f(j, i, j * 8 + int(threadIdx.x) % 4 * 2 + i);
}

// Turns a tile's scores into probabilities and brings the sums so far to the new maximum. `at`: its first token.
// `bend`: the soft cap in powers of two, 0 for none; the queries were multiplied by 2 log2(e) / cap then.
template <class T, bool kPaired>
__device__ inline void soften(float s[T::kKeys / 8][4], Sums<T::kDim, kPaired> &sums, const Sight &sight, int at,
                              float bend, const float *key_scales, const float *value_scales) {
    constexpr int kRows = Sums<T::kDim, kPaired>::kRows;
    each<T>([&](int j, int i, int key) {
        if constexpr (kPaired) s[j][i] += s[j][2 + i];
        for (int r = 0; T::kScales && r < kRows; r++) s[j][2 * r + i] *= key_scales[key];
    });
    if (bend != 0.0f) {
        each<T>([&](int j, int i, int) {
            for (int r = 0; r < kRows; r++)
                s[j][2 * r + i] = bend - __fdividef(2.0f * bend, 1.0f + exp2f(s[j][2 * r + i]));
        });
    }
    if (at < sight.all_first || at + T::kKeys - 1 > sight.all_last) {
        each<T>([&](int j, int i, int key) {
            for (int r = 0; r < kRows; r++)
                if (at + key < sight.first[r] || at + key > sight.last[r]) s[j][2 * r + i] = -INFINITY;
        });
    }
    float most[2] = {-INFINITY, -INFINITY};
    each<T>([&](int j, int i, int) {
        for (int r = 0; r < kRows; r++) most[r] = fmaxf(most[r], s[j][2 * r + i]);
    });
    float base[2], fade[2];
#pragma unroll
    for (int r = 0; r < kRows; r++) {
        most[r] = fmaxf(most[r], __shfl_xor_sync(kAll, most[r], 1));
        most[r] = fmaxf(most[r], __shfl_xor_sync(kAll, most[r], 2));
        most[r] = fmaxf(most[r], sums.most[r]);
        float use = most[r] == -INFINITY ? 0.0f : most[r];
        fade[r] = exp2f(sums.most[r] - use);
        base[r] = use - kLift;
        sums.most[r] = most[r];
        sums.sum[r] *= fade[r];
    }
    each<T>([&](int j, int i, int key) {
        for (int r = 0; r < kRows; r++) {
            float p = exp2f(s[j][2 * r + i] - base[r]);
            sums.sum[r] += p;
            s[j][2 * r + i] = T::kScales ? p * value_scales[key] : p;
        }
    });
#pragma unroll
    for (int j = 0; j < T::kDim / 8; j++) {
        sums.out[j][0] *= fade[0];
        sums.out[j][1] *= fade[0];
        sums.out[j][2] *= fade[kRows - 1];
        sums.out[j][3] *= fade[kRows - 1];
    }
}

// Fetches a team's tiles. Thread i of the team finds the i-th token of a tile; its block was looked up one tile
// earlier, so that no copy waits for the table.
template <class T, class Team> struct Fetcher {
    const Cache &cache;
    const uint32_t *table;
    int head, end;
    uint32_t *slots;
    float *scales;
    uint32_t block = 0;
    int offset = 0;
    float key_scale = 0.0f, value_scale = 0.0f;

    __device__ Fetcher(const Cache &cache, const uint32_t *table, int head, int end, unsigned char *shared)
        : cache(cache), table(table), head(head), end(end), slots(reinterpret_cast<uint32_t *>(shared + T::kData)),
          scales(reinterpret_cast<float *>(slots + 2 * T::kKeys)) {}

    __device__ void look_up(int first) {
        if (Team::rank() >= T::kKeys) return;
        int token = min(first + Team::rank(), end - 1);
        block = table[token / cache.block_size];
        offset = token % cache.block_size;
    }

    // What was looked up becomes tile `turn`; its scales set out for registers.
    __device__ void enter(int turn) {
        if (Team::rank() >= T::kKeys) return;
        uint32_t slot = slot_in(cache, block, head, offset);
        slots[turn * T::kKeys + Team::rank()] = slot;
        if constexpr (T::kScales) {
            key_scale = cache.key_scales[slot];
            value_scale = cache.value_scales[slot];
        }
    }

    __device__ void enter_scales() {
        if (!T::kScales || Team::rank() >= T::kKeys) return;
        scales[Team::rank()] = key_scale;
        scales[T::kKeys + Team::rank()] = value_scale;
    }

    __device__ void copy(const unsigned char *from, unsigned char *to, int turn, bool wanted) {
        constexpr int kChunks = T::kHead / 16, kEach = T::kKeys * kChunks / Team::kSize;
        constexpr int kStep = T::kBytes ? T::kHead : T::kStep;
        static_assert(kEach * Team::kSize == T::kKeys * kChunks, "threads share evenly");
        if (wanted) {
#pragma unroll
            for (int i = 0; i < kEach; i++) {
                int piece = i * Team::kSize + Team::rank(), key = piece / kChunks, chunk = piece % kChunks;
                const unsigned char *row = from + size_t(slots[turn * T::kKeys + key]) * T::kHead;
                copy_async16(to + key * kStep + chunk * 16, row + chunk * 16);
            }
        }
        copy_async_commit();
    }

    // Bytes to halves; a thread takes the pieces that it copied itself.
    __device__ static void widen(const unsigned char *raw, unsigned char *halves) {
        constexpr int kChunks = T::kHead / 16, kEach = T::kKeys * kChunks / Team::kSize;
#pragma unroll
        for (int i = 0; i < kEach; i++) {
            int piece = i * Team::kSize + Team::rank(), key = piece / kChunks, chunk = piece % kChunks;
            uint4 in = *reinterpret_cast<const uint4 *>(raw + piece * 16), x, y;
            halves_of(in.x, x.x, x.y, typename T::Number());
            halves_of(in.y, x.z, x.w, typename T::Number());
            halves_of(in.z, y.x, y.y, typename T::Number());
            halves_of(in.w, y.z, y.w, typename T::Number());
            uint4 *out = reinterpret_cast<uint4 *>(halves + key * T::kStep + chunk * 32);
            out[0] = x;
            out[1] = y;
        }
    }
};

// A run of tokens: tiles that begin at `from`, `from + stride`, ..., tokens before `to`. Not empty.
struct Span {
    int from, to, stride;
};

// Waits for the oldest copies and leaves them as halves at the place returned, for all of the team to read. What
// is copied next goes where they came from; with halves in place that is up to `refill`.
template <class T, class Team>
__device__ inline const unsigned char *receive(Fetcher<T, Team> &fetch, const unsigned char *from,
                                               unsigned char *halves, unsigned char *raw, int turn, bool more) {
    copy_async_wait<1>();
    Team::sync();
    if constexpr (T::kBytes) {
        fetch.widen(raw, halves);
        fetch.copy(from, raw, turn, more);
        Team::sync();
    }
    return halves;
}
template <class T, class Team>
__device__ inline void refill(Fetcher<T, Team> &fetch, const unsigned char *from, unsigned char *halves, int turn,
                              bool more) {
    if constexpr (!T::kBytes) {
        Team::sync();
        fetch.copy(from, halves, turn, more);
    }
}

// The 16 rows of each warp of the team look at a run of tokens of one head. `shared`: T::kShared bytes of the
// team's own, free again for a thread of the team once all have passed another barrier.
template <class T, class Team, bool kPaired>
__device__ inline void walk(Sums<T::kDim, kPaired> &sums, const Queries<T::kDim> &queries, const Cache &cache,
                            const uint32_t *table, int head, Span span, const Sight &sight, float bend,
                            unsigned char *shared) {
    // Halves of keys, halves of values; or halves of both in turn, bytes of keys, bytes of values.
    unsigned char *key_halves = shared, *value_halves = T::kBytes ? shared : shared + T::kHalves;
    unsigned char *key_raw = shared + T::kHalves, *value_raw = key_raw + T::kRaw;
    Fetcher<T, Team> fetch(cache, table, head, span.to, shared);
    fetch.look_up(span.from);
    fetch.enter(0);
    fetch.enter_scales();
    fetch.look_up(span.from + span.stride);
    Team::sync();
    fetch.copy(cache.keys, T::kBytes ? key_raw : key_halves, 0, true);
    fetch.copy(cache.values, T::kBytes ? value_raw : value_halves, 0, true);
    for (int at = span.from, turn = 1; at < span.to; at += span.stride, turn ^= 1) {
        bool more = at + span.stride < span.to;
        bool seen = at <= sight.any_last && at + T::kKeys - 1 >= sight.any_first;
        float s[T::kKeys / 8][4];
        fetch.enter(turn);
        fetch.look_up(at + 2 * span.stride);
        const unsigned char *keys = receive(fetch, cache.keys, key_halves, key_raw, turn, more);
        if (seen) multiply_keys<T>(queries, keys, s);
        refill(fetch, cache.keys, key_halves, turn, more);
        if (seen) soften<T>(s, sums, sight, at, bend, fetch.scales, fetch.scales + T::kKeys);
        const unsigned char *values = receive(fetch, cache.values, value_halves, value_raw, turn, more);
        if (seen) multiply_values<T, kPaired>(s, values, sums.out);
        refill(fetch, cache.values, value_halves, turn, more);
        fetch.enter_scales();
    }
}

} // namespace attention
