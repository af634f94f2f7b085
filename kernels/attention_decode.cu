// Attention of single query tokens over a paged cache: decoding.
//
// A block takes one sequence, one key head and one share of its tokens (split-KV, known as Flash-Decoding), for
// all query heads of the group at once, so that keys and values are read from memory once. Its four warps go
// through tiles of the share in turn, each on its own, and put their sums together at the end. The number of
// shares is fixed by the launch, and each is an equal part of what is visible now: a captured launch stays good
// while contexts grow. Blocks beyond the last token have nothing to do. With one share the block writes the output
// itself; else each leaves partial sums, and whichever block is the last of its row and head puts them together, in
// the order of the shares. Once all blocks have come to that, most of the card is idle, and the next launch may begin.
//
// Queries, keys and values may come as they were projected. A block then prepares its own queries (rope.cuh), and the
// one with the row's last share also the new token's key and value, which it writes to the cache and finds there like
// any other token's. No other block reads that cell: a token past the end of a share is read as the share's last one
// (attention.cuh), and only the last share ends with the new token. It is one block's as long as a key head's group is.
// That block's warps see the cell behind a barrier. This holds for copies past the first-level cache too: stores go
// through that cache to the second level in the order of their issue, and copies are issued after the barrier.
//
// What limits it is memory: 2 * head_dim numbers per token and key head, read once. Products go to tensor cores
// even for a group of one: on ordinary cores the scores of a group of 8 take more shuffles than a card has
// bandwidth for, and with tensor cores all that lies far below it (about 250 instructions of a warp per 8 KiB).
// A product has 16 rows and a group seldom more than 8 heads, so rows 8 to 15 carry what rows 0 to 7 lost when
// they were rounded to half precision, queries and probabilities alike: as exact as f32, for nothing. Groups
// of more than 8 take several blocks, which read the same keys at about the same time (through the L2 cache).
// Expected: 80 to 90 % of a card's bandwidth once a share has a few hundred tokens.
#include "attention.cuh"
#include "rope.cuh"

namespace attention_decode {

using namespace attention;

constexpr int kWarps = 4, kHeads = 8;
// Shares are whole tiles of so many tokens.
constexpr int kUnit = 16;
// Most shares of a row.
constexpr int kMostSplits = 128;

template <int kDim, class Number> struct Plan {
    using T = Tile<kDim, kDim <= 64 ? 32 : 16, Number>;
    static constexpr int kSum = kDim + 8;
    static constexpr int kQueries = 16 * T::kStep;
    // Queries; the warps' tiles, then their sums; largest score and sum of each warp and head.
    static constexpr int kShared = kQueries + kWarps * T::kShared + 2 * 4 * kWarps * kHeads;
    static_assert(4 * kHeads * kSum <= T::kShared, "a warp's sums fit where its tiles were");
    static_assert(4 * (kHeads + 3) * kDim <= kWarps * T::kShared, "heads fit where tiles will be");
    // Before the largest scores, of which the first place then is a word for `is_last`.
    static_assert(4 * kHeads * (kMostSplits + 1 + kDim) <= kQueries + kWarps * T::kShared, "a merge fits there");
};

// What the warps have found, side by side.
struct Found {
    const float *sums, *most, *sum;
    int step, warp_step;
};

template <int kDim>
__device__ void leave(const Sums<kDim, true> &mine, float *sums, int step, float *most, float *sum) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
        float2 pair = make_float2(mine.out[j][0], mine.out[j][1]);
        *reinterpret_cast<float2 *>(sums + g * step + j * 8 + 2 * t) = pair;
    }
    if (t == 0) {
        most[warp * kHeads + g] = mine.most[0];
        sum[warp * kHeads + g] = mine.sum[0];
    }
}

// One head's largest score of all warps, the sum, and one of its outputs, neither divided yet.
struct Joined {
    float most, sum, out;
};

__device__ inline Joined join(const Found &found, int head, int d) {
    Joined all = {-INFINITY, 0.0f, 0.0f};
    for (int w = 0; w < kWarps; w++) all.most = fmaxf(all.most, found.most[w * kHeads + head]);
    for (int w = 0; w < kWarps; w++) {
        float sum = found.sum[w * kHeads + head];
        if (!(sum > 0.0f)) continue;
        float weight = exp2f(found.most[w * kHeads + head] - all.most);
        all.sum += weight * sum;
        all.out += weight * found.sums[w * found.warp_step + head * found.step + d];
    }
    return all;
}

struct Out {
    void *values;
    float2 *scales;
    int kind;
};

// What shares have found, `[rows][heads][splits]` each: `dim` undivided outputs, and behind those of all shares the
// largest scores and sums. `counts`: one for each row and group of heads.
struct Partials {
    float *outs;
    float2 *found;
    unsigned *counts;

    __device__ Partials(float *at, int heads, int dim, unsigned *counts)
        : outs(at), found(reinterpret_cast<float2 *>(at + size_t(gridDim.z) * heads * gridDim.x * dim)),
          counts(counts) {}
};

// Where a block works: a row and its output's token, `count` query heads from `first_head` on, of `heads`.
struct Part {
    int row, token, first_head, count, heads;

    // Of a head's first share in `Partials`.
    __device__ size_t share(int head) const { return (size_t(row) * heads + first_head + head) * gridDim.x; }
};

// Where the key and the value of a row's new token go.
template <class Number> struct Cell {
    Number *key, *value;
    float *key_scale, *value_scale;
};

// What is cached, to be written.
template <class Number> struct Written {
    Number *keys, *values;
    float *key_scales, *value_scales;

    __device__ Cell<Number> at(uint32_t slot, int dim) const {
        size_t first = size_t(slot) * dim;
        return {keys + first, values + first, key_scales + slot, value_scales + slot};
    }
};

// A block's heads in f32, in shared memory: its queries, and with `own` the new token's key and value; then the cosines
// and sines of that token. A warp works on every kWarps-th head.
template <int kDim> struct Heads {
    float *at;
    // The token's projections, and where among them this block's are.
    const float *projections;
    int queries, first_query, key, value;
    bool own;

    __device__ int count() const { return own ? queries + 2 : queries; }
    __device__ float *head(int i) const { return at + i * kDim; }
    __device__ float *angles() const { return at + (kHeads + 2) * kDim; }
    __device__ bool is_query(int i) const { return i < queries; }
    __device__ bool is_key(int i) const { return i == queries; }
    __device__ int place(int i) const { return is_query(i) ? first_query + i : is_key(i) ? key : value; }

    // Calls `f(i)` for this warp's heads.
    template <class F> __device__ void each(F f) const {
#pragma unroll 1
        for (int i = threadIdx.x / 32; i < count(); i += kWarps) f(i);
    }

    // Begins to copy all of them, and the angles, so that memory is waited for only once.
    __device__ void fetch(const rope::Rules &rules, int token) const {
        each([&](int i) {
            const float *from = projections + place(i) * kDim;
#pragma unroll
            for (int d = threadIdx.x % 32 * 4; d < kDim; d += 128) copy_async16(head(i) + d, from + d);
        });
        static_assert(kDim / 2 <= kWarps * 32, "a thread for each angle");
        int i = threadIdx.x, angle = token * rules.half + i;
        if (i < rules.half) {
            copy_async<4>(angles() + i, rules.cos + angle, 4);
            copy_async<4>(angles() + rules.half + i, rules.sin + angle, 4);
        }
        copy_async_commit();
    }
};

// A query's row: times `scale`, rounded; and what was lost, 8 rows below. By one warp.
template <int kDim> __device__ void stage_query(const float *query, float scale, unsigned char *row, int step) {
#pragma unroll
    for (int d = threadIdx.x % 32 * 2; d < kDim; d += 64) {
        float2 v = *reinterpret_cast<const float2 *>(query + d);
        v.x *= scale, v.y *= scale;
        f16 x = from_float<f16>(v.x), y = from_float<f16>(v.y);
        uint32_t *near = reinterpret_cast<uint32_t *>(row) + d / 2;
        *near = pack2(x, y);
        near[2 * step] = pack2(from_float<f16>(v.x - to_float(x)), from_float<f16>(v.y - to_float(y)));
    }
}

// Zeros for the queries that a block does not have: from the one at `first` on.
template <int kDim> __device__ void clear_queries(int first, unsigned char *rows, int step) {
    constexpr int kPieces = kDim / 8;
#pragma unroll 1
    for (int i = first * kPieces + threadIdx.x; i < kHeads * kPieces; i += kWarps * 32) {
        uint4 *row = reinterpret_cast<uint4 *>(rows + i / kPieces * step) + i % kPieces;
        row[0] = row[step / 2] = make_uint4(0, 0, 0, 0);
    }
}

// Prepares the block's queries, to `rows`, and the new token's key and value, if they are its own, to the cell that
// `find` gives. The block has to meet before either is read, or the memory of `heads` used otherwise.
template <int kDim, class Number, class F>
__device__ void prepare(const Heads<kDim> &heads, const rope::Rules &rules, int token, float scale, F find,
                        unsigned char *rows, int step) {
    heads.fetch(rules, token);
    clear_queries<kDim>(heads.queries, rows, step);
    Cell<Number> cell = {};
    if (heads.own) cell = find();
    copy_async_wait<0>();
    __syncthreads();
    const float *cos = heads.angles(), *sin = cos + rules.half;
    heads.each([&](int i) {
        float *head = heads.head(i);
        rope::prepare_head(rules, head, head, heads.place(i), token, cos, sin, kDim, true);
        if (heads.is_query(i)) return stage_query<kDim>(head, scale, rows + i * step, step);
        bool key = heads.is_key(i);
        rope::keep<Number>(key ? cell.key : cell.value, key ? cell.key_scale : cell.value_scale, head, kDim, true);
    });
}

// Writes the outputs that `value(head, d)` gives, head by head in pieces of 32.
template <int kDim, class F> __device__ void write(const Part &part, const Out &out, F value) {
    constexpr int kPieces = kDim / 32;
    int lane = threadIdx.x % 32;
    for (int piece = threadIdx.x / 32; piece < part.count * kPieces; piece += kWarps) {
        int head = piece / kPieces, d = piece % kPieces * 32;
        int column = (part.first_head + head) * kDim + d;
        store_as(out.kind, out.values, out.scales, part.token, column, part.heads * kDim, value(head, d + lane));
    }
}

template <int kDim> __device__ void leave_share(const Found &found, const Part &part, const Partials &partials) {
    for (int i = threadIdx.x; i < part.count * kDim; i += kWarps * 32) {
        int head = i / kDim, d = i % kDim;
        Joined all = join(found, head, d);
        size_t at = part.share(head) + blockIdx.x;
        if (d == 0) partials.found[at] = make_float2(all.most, all.sum);
        partials.outs[at * kDim + d] = all.out;
    }
}

// What each of a head's shares counts for, into `weights`; returns the sum of all shares. By one warp.
__device__ inline float weigh(const float2 *found, int splits, float *weights) {
    int lane = threadIdx.x % 32;
    float most = -INFINITY, sum = 0.0f;
    for (int split = lane; split < splits; split += 32) most = fmaxf(most, __ldcg(found + split).x);
    most = warp_max(most);
    for (int split = lane; split < splits; split += 32) {
        float2 own = __ldcg(found + split);
        weights[split] = own.y > 0.0f ? exp2f(own.x - most) : 0.0f;
        sum += weights[split] * own.y;
    }
    return warp_sum(sum);
}

// Loads that a thread of a merge has under way at once: time is the waiting.
constexpr int kAhead = 8;

// Four outputs of a head, its shares added in their order, not divided yet. `outs`: those of the first share.
template <int kDim> __device__ float4 add_shares(const float *outs, int splits, const float *weights) {
    float4 total = make_float4(0, 0, 0, 0);
    for (int first = 0; first < splits; first += kAhead) {
        float4 found[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++)
            if (first + i < splits) found[i] = __ldcg(reinterpret_cast<const float4 *>(outs + (first + i) * kDim));
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            if (first + i >= splits) break;
            float weight = weights[first + i];
            total.x += weight * found[i].x, total.y += weight * found[i].y;
            total.z += weight * found[i].z, total.w += weight * found[i].w;
        }
    }
    return total;
}

// Puts `splits` shares together. `shared`: see Plan.
template <int kDim>
__device__ void merge(const Partials &partials, int splits, const Part &part, const Out &out, float *shared) {
    float *weights = shared, *sums = weights + kHeads * kMostSplits, *outs = sums + kHeads;
    for (int head = threadIdx.x / 32; head < part.count; head += kWarps) {
        float sum = weigh(partials.found + part.share(head), splits, weights + head * kMostSplits);
        if (threadIdx.x % 32 == 0) sums[head] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x * 4; i < part.count * kDim; i += kWarps * 32 * 4) {
        int head = i / kDim;
        const float *from = partials.outs + part.share(head) * kDim + i % kDim;
        float4 total = add_shares<kDim>(from, splits, weights + head * kMostSplits);
        *reinterpret_cast<float4 *>(outs + i) = total;
    }
    __syncthreads();
    write<kDim>(part, out, [&](int head, int d) {
        return sums[head] > 0.0f ? outs[head * kDim + d] / sums[head] : 0.0f;
    });
}

// Grid: splits, key heads times groups of 8 query heads, rows. `fresh`: whether a row's last token is not in the cache
// yet; groups have at most 8 heads then.
template <int kDim, class Number>
__device__ void run(const float *qkv, const rope::Rules &rules, bool fresh, const Cache &cache,
                    const Written<Number> &written, const uint32_t *rows, const uint32_t *tables, float scale,
                    float bend, int window, const Partials &partials, const Out &out) {
    using P = Plan<kDim, Number>;
    using T = typename P::T;
    DYNAMIC_SHARED(shared);
    // Rows that fill the card by themselves are followed by tiles, whose weights are on their way meanwhile.
    if (gridDim.x == 1) let_next_begin();
    unsigned char *tile = shared + P::kQueries + threadIdx.x / 32 * T::kShared;
    float *most = reinterpret_cast<float *>(shared + P::kQueries + kWarps * T::kShared), *sum = most + kWarps * kHeads;
    // Of numbers without a sign, which divide in half the instructions.
    unsigned group = unsigned(rules.heads) / unsigned(rules.kv_heads), parts = (group + kHeads - 1) / kHeads;
    int head = blockIdx.y / parts, first = blockIdx.y % parts * kHeads;
    Row row = row_at(rows, tables, blockIdx.z);
    Part part = {int(blockIdx.z), row.start, head * int(group) + first, min(kHeads, int(group) - first), rules.heads};

    int low = first_seen(row.context - 1, window), visible = row.context - low;
    unsigned share = ((visible + gridDim.x - 1) / gridDim.x + kUnit - 1) / kUnit * kUnit;
    int splits = visible > 0 ? (visible + share - 1) / share : 1;
    int split = blockIdx.x, from = low + split * int(share), to = min(row.context, from + int(share));
    if (split >= splits) return;
    Sums<kDim, true> sums;
    if (from < to) {
        int key = rules.heads + head, all = rules.heads + 2 * rules.kv_heads;
        unsigned last = row.context - 1;
        Heads<kDim> heads = {reinterpret_cast<float *>(shared + P::kQueries),
                             qkv + size_t(row.start) * all * kDim,
                             part.count,
                             part.first_head,
                             key,
                             key + rules.kv_heads,
                             fresh && to > int(last)};
        auto find = [&] {
            uint32_t block = row.table[last / cache.block_size];
            return written.at(slot_in(cache, block, head, last % cache.block_size), kDim);
        };
        prepare<kDim, Number>(heads, rules, row.start, scale, find, shared, T::kStep);
        __syncthreads();
        Queries<kDim> queries(shared, T::kStep);
        Sight sight = {{from, from}, {to - 1, to - 1}, from, to - 1, from, to - 1};
        Span span = {from + int(threadIdx.x) / 32 * T::kKeys, to, kWarps * T::kKeys};
        if (span.from < to)
            walk<T, WarpTeam, true>(sums, queries, cache, row.table, head, span, sight, bend, tile);
        __syncwarp();
    }
    let_next_begin();
    sums.finish();
    leave<kDim>(sums, reinterpret_cast<float *>(tile), P::kSum, most, sum);
    __syncthreads();
    Found found = {reinterpret_cast<float *>(shared + P::kQueries), most, sum, P::kSum, T::kShared / 4};
    if (splits == 1) {
        write<kDim>(part, out, [&](int head, int d) {
            Joined all = join(found, head, d);
            return all.sum > 0.0f ? all.out / all.sum : 0.0f;
        });
        return;
    }
    leave_share<kDim>(found, part, partials);
    unsigned *count = partials.counts + blockIdx.z * gridDim.y + blockIdx.y;
    if (!is_last(count, splits, reinterpret_cast<unsigned *>(most))) return;
    merge<kDim>(partials, splits, part, out, reinterpret_cast<float *>(shared));
}

} // namespace attention_decode

#define DECODE(name, dim, number)                                                                                   \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
        name(const float *qkv, int heads, const float *bias, const float *q_norm, const float *k_norm, float eps,   \
             const float *cos, const float *sin, int half, const uint32_t *positions, float beta, unsigned period,  \
             int fresh, number *keys, number *values, float *key_scales, float *value_scales, int kv_heads,         \
             int block_size, const uint32_t *rows, const uint32_t *tables, float scale, float bend, int window,     \
             float *partials, unsigned *counts, void *out, float2 *out_scales, int out_kind) {                      \
        wait_for_previous();                                                                                        \
        rope::Rules rules = {bias, q_norm, k_norm, eps, cos, sin, half, positions, beta, period, heads, kv_heads};  \
        attention::Cache cache = {reinterpret_cast<const unsigned char *>(keys),                                    \
                                  reinterpret_cast<const unsigned char *>(values), key_scales, value_scales,        \
                                  kv_heads, block_size};                                                            \
        attention_decode::run<dim, number>(qkv, rules, fresh != 0, cache, {keys, values, key_scales, value_scales}, \
                                           rows, tables, scale, bend, window, {partials, heads, dim, counts},       \
                                           {out, out_scales, out_kind});                                            \
    }                                                                                                               \
    EXPORT(name)

DECODE(attention_decode_f16_64, 64, f16)
DECODE(attention_decode_f16_96, 96, f16)
DECODE(attention_decode_f16_128, 128, f16)
DECODE(attention_decode_f16_192, 192, f16)
DECODE(attention_decode_f16_256, 256, f16)
DECODE(attention_decode_i8_64, 64, int8_t)
DECODE(attention_decode_i8_96, 96, int8_t)
DECODE(attention_decode_i8_128, 128, int8_t)
DECODE(attention_decode_i8_192, 192, int8_t)
DECODE(attention_decode_i8_256, 256, int8_t)
DECODE(attention_decode_e4m3_64, 64, e4m3)
DECODE(attention_decode_e4m3_96, 96, e4m3)
DECODE(attention_decode_e4m3_128, 128, e4m3)
DECODE(attention_decode_e4m3_192, 192, e4m3)
DECODE(attention_decode_e4m3_256, 256, e4m3)
