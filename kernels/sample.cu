// From rows of logits to one token id each, so that only ids leave the card.
//
// Penalties, temperature, top-k, top-p, min-p, one draw by a number that the host brings: the rules of the host's
// sampler, with ties ranked by lower id and the draw walking what is kept by id. Knows no sequence and no seed.
//
// Nothing is sorted. A token's rank is its key, the bits of its weight exp((l - max) / t) above its id turned
// round, so all keys differ and what top-k and top-p keep is every key from some cut on. The cut is found by
// radix selection, 11 bits at a time, over counts and masses of keys (selection by histograms as in RadiK,
// arXiv:2501.14336); sorting 128k keys would move them several times over. After the first digit one bucket is a
// sixteenth of an octave and mostly a few hundred tokens, which are put on a list that all further digits are
// counted over; where it is too long (flat rows, huge k) they are counted over the row itself, by the same code.
//
// Masses are whole numbers, units of 2^-44 of the likeliest token's weight: sums are exact, so a pick depends on
// no order of threads, blocks or atomics, and sums of 2^19 tokens fit into 64 bits. What is cut off is below
// 2^-25 of the whole. Tokens of one bucket have one exponent, so that histograms add 24-bit mantissas, in two
// halves of 12 bits: 32-bit atomics are the ones shared memory does in one go.
//
// A row is cut into parts, a block each, and four launches with nothing but launches between them: peak (soft
// cap, mask, edits, finite, argmax), spread (first digit), gather (list), weigh (cut, mass of each warp's slice; the last
// block of a row draws). Rows that need no filter, or are greedy, leave early; the launches are the same whatever the rows ask
// for, so a graph may hold them. With one part a row all five are one launch. Limited by launches and latency at
// few rows (128k logits over 32 blocks: expected about 10 us in a graph) and by shared atomics of `spread` at
// many: three per token, about 50 us for a multiprocessor that has a filtered row of 128k to itself.
#include "common.cuh"

namespace sample {

constexpr unsigned kThreads = 512, kWarps = kThreads / 32;
// Tokens that a warp reads at a time.
constexpr unsigned kTile = 256, kPerLane = kTile / 32;
constexpr unsigned kMostParts = 32;
constexpr unsigned kDigit = 11, kBuckets = 1u << kDigit;
// Weights are 0..1: 30 bits.
constexpr unsigned kOne = 0x3f800000u, kIdBits = 19, kLastId = (1u << kIdBits) - 1;
constexpr unsigned kFirstShift = 30 + kIdBits - kDigit;
constexpr unsigned kListed = 2048;
constexpr uint64_t kBad = ~uint64_t(0);

// sample.rs: RowParams, TokenEdit.
struct Params {
    float temperature;
    uint32_t top_k;
    float top_p, min_p, repetition, frequency, presence;
    uint32_t first, entries, mask;
    uint64_t uniform;
};
struct Edit {
    uint32_t id, count;
    float bias;
};
constexpr uint32_t kUnseen = ~0u, kNoMask = ~0u;
constexpr float kMost = 3.40282347e38f, kBarred = -kMost;
static_assert(sizeof(Params) == 48 && sizeof(Edit) == 12, "as sample.rs has them");

struct Histogram {
    uint32_t count[kBuckets], low[kBuckets], high[kBuckets];
};

// A row's scratch memory.
struct alignas(16) Scratch {
    uint64_t peaks[kMostParts];
    uint64_t sums[kMostParts * kWarps];
    Histogram spread;
    uint64_t list[kListed];
    // Keys on the list, or more than fit; places of it that parts have taken.
    uint32_t listed, taken;
};
static_assert(sizeof(Scratch) == 5666 * 8, "as sample.rs has it");

// The bucket where a sum from the highest bucket down first reaches what was wanted.
struct Found {
    uint32_t bucket, count, above;
    uint64_t mass, mass_above, total;
};

struct Shared {
    union {
        Histogram histogram;
        uint64_t keys[kListed];
    };
    uint64_t scan[kWarps];
    Found found;
    uint64_t point;
    uint32_t piece, used, base;
};
static_assert(sizeof(Shared) <= 25 << 10, "what sample.rs asks for");

// What one block works on.
struct Job {
    float *logits;
    const Params &params;
    Scratch *scratch;
    uint32_t *id, *host_id;
    // Blocks of the row that have come to the end.
    unsigned *count;
    unsigned vocab, part, parts, len;

    __device__ bool greedy() const { return params.temperature <= 0.0f || params.top_k == 1; }
    __device__ bool by_count() const { return params.top_k > 0 && params.top_k < vocab; }
    __device__ bool by_mass() const { return params.top_p < 1.0f; }
    __device__ bool filtered() const { return by_count() || by_mass(); }
    __device__ bool first() const { return part == 0 && threadIdx.x == 0; }
    // By one thread: the row's token.
    __device__ void choose(uint32_t token) const {
        *id = token;
        *host_id = token;
    }
    // This warp's slice; slices follow each other in order of ids, part by part.
    __device__ unsigned from() const { return part * len + threadIdx.x / 32 * (len / kWarps); }
    __device__ unsigned to() const { return min(from() + len / kWarps, vocab); }
};

// What changes logits before anything is drawn: the edits and the words of masks of all rows.
struct Changes {
    const Edit *edits;
    unsigned known;
    const uint32_t *masks;
    unsigned mask_words;
    float soft_cap;
};

// Calls f(id, logit, whether there is such a token) for tiles of 256 tokens, `step` apart, with all lanes of the
// warp at once.
template <class F> __device__ inline void each(const Job &job, unsigned from, unsigned to, unsigned step, F f) {
    unsigned lane = threadIdx.x % 32;
    for (unsigned tile = from; tile < to; tile += step) {
        float v[kPerLane];
#pragma unroll
        for (unsigned j = 0; j < kPerLane; j++) {
            unsigned id = tile + j * 32 + lane;
            v[j] = id < to ? job.logits[id] : 0.0f;
        }
#pragma unroll
        for (unsigned j = 0; j < kPerLane; j++) {
            unsigned id = tile + j * 32 + lane;
            f(id, v[j], id < to);
        }
    }
}

// Larger logit, larger number; both zeroes are one.
__device__ inline uint32_t ordered(float l) {
    uint32_t bits = __float_as_uint(l == 0.0f ? 0.0f : l);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float unordered(uint32_t o) {
    return __uint_as_float(o & 0x80000000u ? o & 0x7fffffffu : ~o);
}

__device__ inline bool finite(float l) { return (__float_as_uint(l) & 0x7f800000u) != 0x7f800000u; }

__device__ inline uint64_t warp_most(uint64_t v) {
    for (int by = 16; by > 0; by >>= 1) v = max(v, __shfl_xor_sync(kAll, v, by));
    return v;
}

template <class T> __device__ inline T warp_total(T v) {
    for (int by = 16; by > 0; by >>= 1) v += __shfl_xor_sync(kAll, v, by);
    return v;
}

__device__ inline uint64_t warp_scan(uint64_t v) {
    for (unsigned by = 1; by < 32; by <<= 1) {
        uint64_t lower = __shfl_up_sync(kAll, v, by);
        if (threadIdx.x % 32 >= by) v += lower;
    }
    return v;
}

// Sum over the threads before this one, and over all. `scratch`: a place per warp, free again at the return.
__device__ inline uint64_t block_scan(uint64_t v, uint64_t *scratch, uint64_t &total) {
    unsigned warp = threadIdx.x / 32;
    uint64_t upto = warp_scan(v), before = 0;
    if (threadIdx.x % 32 == 31) scratch[warp] = upto;
    __syncthreads();
    total = 0;
#pragma unroll 4
    for (unsigned w = 0; w < kWarps; w++) {
        if (w == warp) before = total;
        total += scratch[w];
    }
    __syncthreads();
    return before + upto - v;
}

// What a token weighs, relative to the likeliest one.
struct Weights {
    float most, inverse;

    __device__ uint32_t bits(float l) const {
        // The product is rounded by itself, alike in every kernel. NaN (a temperature of almost 0) becomes 1.
        return min(__float_as_uint(expf(__fmul_rn(l - most, inverse))), kOne);
    }
    __device__ uint64_t key(float l, unsigned id) const {
        return uint64_t(bits(l)) << kIdBits | (kLastId - id);
    }
};

// A weight's mass is quantum << left, in units of 2^-44: 24 bits, or what of them is not below one unit.
__device__ inline uint32_t quantum(uint32_t bits) {
    unsigned exponent = bits >> 23, mantissa = (bits & 0x7fffffu) | 0x800000u;
    if (exponent >= 106) return mantissa;
    return 106 - exponent < 24 ? mantissa >> (106 - exponent) : 0;
}
__device__ inline unsigned left(unsigned exponent) { return exponent > 106 ? exponent - 106 : 0; }
__device__ inline uint64_t mass(uint64_t key) {
    uint32_t bits = uint32_t(key >> kIdBits);
    return uint64_t(quantum(bits)) << left(bits >> 23);
}

// Counts a key of each lane that has one. All lanes have to call. Lanes that all meet in one bucket, as in flat
// rows, send one of them: 96 atomics on one word would be done one by one.
__device__ inline void tally(Histogram &h, bool there, unsigned bucket, uint32_t q, bool masses) {
    unsigned who = __ballot_sync(kAll, there);
    if (who == 0) return;
    unsigned leader = unsigned(__ffs(int(who))) - 1, common = __shfl_sync(kAll, bucket, int(leader));
    bool same = __all_sync(kAll, !there || bucket == common);
    uint32_t count = 1, low = q & 0xfff, high = q >> 12;
    if (same && __popc(who) > 4) {
        count = uint32_t(__popc(who));
        low = warp_total(there ? low : 0u);
        high = warp_total(there ? high : 0u);
        there = threadIdx.x % 32 == leader;
    }
    if (!there) return;
    atomicAdd(&h.count[bucket], count);
    if (!masses) return;
    atomicAdd(&h.low[bucket], low);
    atomicAdd(&h.high[bucket], high);
}

__device__ inline void clear(Histogram &h) {
    uint4 *words = reinterpret_cast<uint4 *>(&h);
    for (unsigned i = threadIdx.x; i < sizeof h / 16; i += kThreads) words[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
}

__device__ inline void load_spread(const Job &job, Shared &s) {
    const uint4 *from = reinterpret_cast<const uint4 *>(&job.scratch->spread);
    uint4 *to = reinterpret_cast<uint4 *>(&s.histogram);
    for (unsigned i = threadIdx.x; i < sizeof(Histogram) / 16; i += kThreads) to[i] = from[i];
    __syncthreads();
}

// From the highest bucket down, the first with which count or mass reaches `want` (all of it, at most). Masses
// are read with the exponent given, or, if that is negative, with the one in the bucket's number (first digit).
// The histogram is free again at the return.
template <bool kByMass> __device__ inline Found find(Shared &s, uint64_t want, int exponent) {
    constexpr unsigned kMine = kBuckets / kThreads;
    static_assert(kMine == 4, "one uint4 each");
    unsigned lowest = kBuckets - kMine * (threadIdx.x + 1);
    uint4 c = *reinterpret_cast<uint4 *>(&s.histogram.count[lowest]);
    uint4 l = *reinterpret_cast<uint4 *>(&s.histogram.low[lowest]);
    uint4 h = *reinterpret_cast<uint4 *>(&s.histogram.high[lowest]);
    // kMine neighbours have one exponent.
    unsigned shift = left(exponent < 0 ? lowest >> 4 : unsigned(exponent));
    uint32_t count[kMine] = {c.w, c.z, c.y, c.x};
    uint64_t masses[kMine] = {(l.w + (uint64_t(h.w) << 12)) << shift, (l.z + (uint64_t(h.z) << 12)) << shift,
                              (l.y + (uint64_t(h.y) << 12)) << shift, (l.x + (uint64_t(h.x) << 12)) << shift};
    uint64_t own_count = 0, own_mass = 0, all, total;
#pragma unroll
    for (unsigned j = 0; j < kMine; j++) {
        own_count += count[j];
        own_mass += masses[j];
    }
    uint64_t count_above = block_scan(own_count, s.scan, all), mass_above = block_scan(own_mass, s.scan, total);
    want = min(want, kByMass ? total : all);
    uint64_t above = kByMass ? mass_above : count_above, own = kByMass ? own_mass : own_count;
    if (above < want && want <= above + own) {
        bool done = false;
#pragma unroll
        for (unsigned j = 0; j < kMine; j++) {
            if (!done && want <= (kByMass ? mass_above + masses[j] : count_above + count[j])) {
                s.found = {lowest + kMine - 1 - j, count[j], uint32_t(count_above), masses[j], mass_above, total};
                done = true;
            }
            count_above += count[j];
            mass_above += masses[j];
        }
    }
    __syncthreads();
    return s.found;
}

// Counts the next digit of all keys that begin with `prefix`, from the list or from the whole row.
__device__ inline void count_next(const Job &job, const Weights &w, Shared &s, uint64_t prefix, unsigned shift,
                                  unsigned bits) {
    auto add = [&](uint64_t key, bool there) {
        there = there && key >> (shift + bits) == prefix;
        unsigned bucket = unsigned(key >> shift) & ((1u << bits) - 1);
        tally(s.histogram, there, bucket, quantum(uint32_t(key >> kIdBits)), true);
    };
    clear(s.histogram);
    unsigned listed = job.scratch->listed;
    if (listed <= kListed) {
#pragma unroll 1
        for (unsigned base = 0; base < listed; base += kThreads) {
            unsigned i = base + threadIdx.x;
            add(i < listed ? job.scratch->list[i] : 0, i < listed);
        }
    } else {
        unsigned from = threadIdx.x / 32 * kTile;
        each(job, from, job.vocab, kWarps * kTile,
             [&](unsigned id, float l, bool there) { add(w.key(l, id), there); });
    }
    __syncthreads();
}

// What is kept: every key from `key` on, and their mass.
struct Cut {
    uint64_t key, mass;
};

// The highest keys whose count, or mass, reaches `want`, as few as do. `want` is at least 1 and at most all.
template <bool kByMass>
__device__ inline Cut select(const Job &job, const Weights &w, Shared &s, uint64_t want) {
    load_spread(job, s);
    Found found = find<kByMass>(s, want, -1);
    int exponent = int(found.bucket >> 4);
    unsigned shift = kFirstShift;
    uint64_t prefix = found.bucket, mass = 0;
    for (;;) {
        want -= kByMass ? found.mass_above : found.above;
        mass += found.mass_above;
        bool whole = kByMass ? found.count == 1 : found.count == want;
        if (whole || shift == 0) return {prefix << shift, mass + found.mass};
        unsigned bits = min(shift, kDigit);
        shift -= bits;
        count_next(job, w, s, prefix, shift, bits);
        found = find<kByMass>(s, want, exponent);
        prefix = prefix << bits | found.bucket;
    }
}

// The mass that top-p wants of `total`, in whole units: at least one, so that a token is kept.
__device__ inline uint64_t share(float top_p, uint64_t total) {
    double wanted = ceil(double(top_p) * double(total));
    return wanted < 1.0 ? 1 : wanted >= double(total) ? total : uint64_t(wanted);
}

// Whether this row is to be drawn, and its weights; not so if it is greedy or not finite.
__device__ inline bool open(const Job &job, Weights &w, uint64_t &peak) {
    unsigned lane = threadIdx.x % 32;
    peak = warp_most(lane < job.parts ? job.scratch->peaks[lane] : 0);
    w = {unordered(uint32_t(peak >> 32)), 1.0f / job.params.temperature};
    return peak != kBad && !job.greedy();
}

__device__ inline void cap(const Job &job, float soft_cap) {
    each(job, job.from(), job.to(), kTile, [&](unsigned id, float l, bool there) {
        if (there && finite(l)) job.logits[id] = soft_cap * tanhf(l / soft_cap);
    });
    __syncthreads();
}

// The logits of tokens that the row's mask lacks become kBarred. A warp reads the 8 words of a tile at once, and no
// logits of words that allow everything. What is not finite stays, to be found.
__device__ inline void bar(const Job &job, const uint32_t *masks, unsigned known) {
    unsigned first = min(job.params.mask, known), words = known - first, lane = threadIdx.x % 32;
    for (unsigned tile = job.from(); tile < job.to(); tile += kTile) {
        unsigned at = tile / 32 + lane;
        uint32_t mine = lane < kPerLane && at < words ? masks[first + at] : 0;
        bool barred[kPerLane];
        float v[kPerLane];
#pragma unroll
        for (unsigned j = 0; j < kPerLane; j++) {
            unsigned id = tile + j * 32 + lane;
            uint32_t word = __shfl_sync(kAll, mine, int(j));
            barred[j] = id < job.to() && !(word >> lane & 1);
            v[j] = barred[j] ? job.logits[id] : 0.0f;
        }
#pragma unroll
        for (unsigned j = 0; j < kPerLane; j++)
            if (barred[j] && finite(v[j])) job.logits[tile + j * 32 + lane] = kBarred;
    }
    __syncthreads();
}

// As the host does it, each step rounded by itself.
__device__ inline void edit(const Job &job, const Edit *edits, unsigned known) {
    const Params &p = job.params;
    unsigned first = min(p.first, known), entries = min(p.entries, known - first);
    unsigned from = job.part * job.len, to = min(from + job.len, job.vocab);
    for (unsigned i = threadIdx.x; i < entries; i += kThreads) {
        Edit entry = edits[first + i];
        if (entry.id < from || entry.id >= to) continue;
        float l = job.logits[entry.id];
        if (!finite(l)) continue;
        if (entry.bias == -INFINITY) {
            job.logits[entry.id] = kBarred;
            continue;
        }
        l = fmaxf(__fadd_rn(l, entry.bias), kBarred);
        bool seen = entry.count != kUnseen;
        if (seen) l = fminf(fmaxf(l > 0.0f ? l / p.repetition : l * p.repetition, kBarred), kMost);
        if (seen && entry.count > 0) l -= __fadd_rn(__fmul_rn(p.frequency, float(entry.count)), p.presence);
        job.logits[entry.id] = l;
    }
    __syncthreads();
}

__device__ inline void peak(const Job &job, Shared &s, const Changes &changes) {
    if (changes.soft_cap > 0.0f) cap(job, changes.soft_cap);
    if (job.params.mask != kNoMask) bar(job, changes.masks, changes.mask_words);
    if (job.params.entries > 0) edit(job, changes.edits, changes.known);
    uint64_t best = 0;
    each(job, job.from(), job.to(), kTile, [&](unsigned id, float l, bool there) {
        uint64_t mine = finite(l) ? uint64_t(ordered(l)) << 32 | uint32_t(~id) : kBad;
        if (there) best = max(best, mine);
    });
    best = warp_most(best);
    if (threadIdx.x % 32 == 0) s.scan[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x < 32) {
        best = warp_most(threadIdx.x < kWarps ? s.scan[threadIdx.x] : 0);
        if (threadIdx.x == 0) job.scratch->peaks[job.part] = best;
    }
    if (!job.filtered()) return;
    uint32_t *words = reinterpret_cast<uint32_t *>(&job.scratch->spread);
    unsigned at = job.part * kThreads + threadIdx.x;
    for (; at < sizeof(Histogram) / 4; at += job.parts * kThreads) words[at] = 0;
    if (job.first()) job.scratch->taken = 0;
}

__device__ inline void spread(const Job &job, Shared &s) {
    Weights w;
    uint64_t peak;
    if (!open(job, w, peak)) {
        if (job.first()) job.choose(peak == kBad ? ~0u : ~uint32_t(peak));
        return;
    }
    if (!job.filtered()) return;
    clear(s.histogram);
    bool masses = job.by_mass();
    each(job, job.from(), job.to(), kTile, [&](unsigned, float l, bool there) {
        // Tokens without mass, as all barred ones, are never drawn. If they were counted, top-k would search for its
        // cut among all of them in rows that have fewer than k others.
        uint32_t bits = w.bits(l), q = quantum(bits);
        tally(s.histogram, there && q > 0, bits >> (30 - kDigit), q, masses);
    });
    __syncthreads();
    const uint32_t *own = reinterpret_cast<const uint32_t *>(&s.histogram);
    uint32_t *all = reinterpret_cast<uint32_t *>(&job.scratch->spread);
    for (unsigned i = threadIdx.x; i < sizeof(Histogram) / 4; i += kThreads)
        if (own[i] != 0) atomicAdd(&all[i], own[i]);
}

// Puts the keys on the list that further digits have to be counted over: the highest ones down to the bucket in
// which top-k ends, since top-p ends somewhere among them, or else those of the bucket in which top-p ends.
__device__ inline void gather(const Job &job, Shared &s) {
    Weights w;
    uint64_t peak;
    if (!open(job, w, peak) || !job.filtered()) return;
    load_spread(job, s);
    unsigned lowest, highest = kBuckets - 1, among;
    if (job.by_count()) {
        Found found = find<false>(s, job.params.top_k, -1);
        lowest = found.bucket;
        among = found.above + found.count;
    } else {
        uint64_t total = find<true>(s, ~uint64_t(0), -1).total;
        Found found = find<true>(s, share(job.params.top_p, total), -1);
        lowest = highest = found.bucket;
        among = found.count;
    }
    if (job.first()) job.scratch->listed = among;
    if (threadIdx.x == 0) s.used = 0;
    __syncthreads();
    if (among > kListed) return;
    each(job, job.from(), job.to(), kTile, [&](unsigned id, float l, bool there) {
        uint64_t key = w.key(l, id);
        unsigned bucket = unsigned(key >> kFirstShift);
        if (!there || bucket < lowest || bucket > highest) return;
        unsigned at = atomicAdd(&s.used, 1u);
        if (at < kListed) s.keys[at] = key;
    });
    __syncthreads();
    unsigned used = min(s.used, kListed);
    if (threadIdx.x == 0) s.base = atomicAdd(&job.scratch->taken, used);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < used && s.base + i < kListed; i += kThreads)
        job.scratch->list[s.base + i] = s.keys[i];
}

// The key from which on tokens are kept. Every block of a row finds the same.
__device__ inline uint64_t cut_of(const Job &job, const Weights &w, Shared &s) {
    const Params &p = job.params;
    uint64_t cut = uint64_t(__float_as_uint(fminf(fmaxf(p.min_p, 0.0f), 1.0f)) & 0x7fffffffu) << kIdBits, total = 0;
    if (job.by_count()) {
        Cut kept = select<false>(job, w, s, p.top_k);
        cut = max(cut, kept.key);
        total = kept.mass;
    } else if (job.by_mass()) {
        load_spread(job, s);
        total = find<true>(s, ~uint64_t(0), -1).total;
    }
    if (job.by_mass()) cut = max(cut, select<true>(job, w, s, share(p.top_p, total)).key);
    return cut;
}

// The mass of what is kept of a warp's tokens, in all its lanes.
__device__ inline uint64_t kept_mass(const Job &job, const Weights &w, uint64_t cut, unsigned from, unsigned to) {
    uint64_t sum = 0;
    each(job, from, to, kTile, [&](unsigned id, float l, bool there) {
        uint64_t key = w.key(l, id);
        if (there && key >= cut) sum += mass(key);
    });
    return warp_total(sum);
}

// Of the threads' masses end to end, the one that `point` falls into: to `s.piece`, with what is left of the
// point in `s.point`.
__device__ inline void locate(Shared &s, uint64_t before, uint64_t own, uint64_t point) {
    if (before <= point && point < before + own) {
        s.piece = threadIdx.x;
        s.point = point - before;
    }
    __syncthreads();
}

// The token of a tile that `point` falls into, by one warp.
__device__ inline void walk(const Job &job, const Weights &w, uint64_t cut, unsigned tile, uint64_t point) {
    unsigned first = tile + threadIdx.x % 32 * kPerLane;
    uint64_t masses[kPerLane], own = 0;
#pragma unroll
    for (unsigned j = 0; j < kPerLane; j++) {
        uint64_t key = first + j < job.vocab ? w.key(job.logits[first + j], first + j) : 0;
        masses[j] = first + j < job.vocab && key >= cut ? mass(key) : 0;
        own += masses[j];
    }
    uint64_t upto = warp_scan(own) - own;
#pragma unroll
    for (unsigned j = 0; j < kPerLane; j++) {
        if (upto <= point && point < upto + masses[j]) job.choose(first + j);
        upto += masses[j];
    }
}

// By the last block of a row: the warp's slice that the point falls into, the tile of it, the token of that.
__device__ inline void draw(const Job &job, const Weights &w, uint64_t cut, Shared &s) {
    uint64_t total;
    if (threadIdx.x == 0) {
        s.piece = 0;
        s.point = 0;
    }
    uint64_t own = threadIdx.x < job.parts * kWarps ? __ldcg(&job.scratch->sums[threadIdx.x]) : 0;
    uint64_t before = block_scan(own, s.scan, total);
    locate(s, before, own, __umul64hi(job.params.uniform << 11, total));
    unsigned slice = job.len / kWarps, from = s.piece * slice, to = min(from + slice, job.vocab);
    uint64_t point = s.point;
    for (unsigned tile = from + threadIdx.x / 32 * kTile; tile < to; tile += kWarps * kTile) {
        uint64_t sum = kept_mass(job, w, cut, tile, min(tile + kTile, to));
        if (threadIdx.x % 32 == 0) s.keys[(tile - from) / kTile] = sum;
    }
    __syncthreads();
    own = from + threadIdx.x * kTile < to ? s.keys[threadIdx.x] : 0;
    before = block_scan(own, s.scan, total);
    locate(s, before, own, point);
    if (threadIdx.x < 32) walk(job, w, cut, from + s.piece * kTile, s.point);
}

__device__ inline void weigh(const Job &job, Shared &s) {
    Weights w;
    uint64_t peak;
    if (!open(job, w, peak)) return;
    uint64_t cut = cut_of(job, w, s), sum = kept_mass(job, w, cut, job.from(), job.to());
    if (threadIdx.x % 32 == 0) job.scratch->sums[job.part * kWarps + threadIdx.x / 32] = sum;
    if (job.parts == 1) __syncthreads();
    else if (!is_last(job.count, job.parts, &s.used)) return;
    draw(job, w, cut, s);
}

} // namespace sample

// Grid: parts, rows. `len` tokens a part, a multiple of 4096; ids of rows that hold a NaN or an infinity are ~0. They go
// to `ids`, for the next step, and to `host_ids`, memory that the host reads. `counts`: zeros, one for each row, if there are several parts.
#define SAMPLE_KERNEL(name, ...)                                                                                   \
    extern "C" __global__ void __launch_bounds__(sample::kThreads, 2)                                              \
        name(float *logits, const sample::Params *params, const sample::Edit *edits, unsigned known,               \
             const uint32_t *masks, unsigned mask_words, float soft_cap, sample::Scratch *scratch, uint32_t *ids,  \
             uint32_t *host_ids, unsigned vocab, unsigned len, unsigned *counts) {                                 \
        let_next_begin();                                                                                          \
        wait_for_previous();                                                                                       \
        DYNAMIC_SHARED(memory);                                                                                    \
        sample::Shared &s = *reinterpret_cast<sample::Shared *>(memory);                                           \
        size_t row = blockIdx.y;                                                                                   \
        sample::Job job = {logits + row * vocab, params[row], scratch + row, ids + row, host_ids + row,            \
                           counts + row,         vocab,       blockIdx.x,    gridDim.x, len};                      \
        sample::Changes changes = {edits, known, masks, mask_words, soft_cap};                                     \
        (void)changes;                                                                                             \
        __VA_ARGS__                                                                                                \
    }                                                                                                              \
    EXPORT(name)

SAMPLE_KERNEL(sample_peak, sample::peak(job, s, changes);)
SAMPLE_KERNEL(sample_spread, sample::spread(job, s);)
SAMPLE_KERNEL(sample_gather, sample::gather(job, s);)
SAMPLE_KERNEL(sample_weigh, sample::weigh(job, s);)
SAMPLE_KERNEL(sample_row, {
    sample::peak(job, s, changes);
    __syncthreads();
    sample::spread(job, s);
    __syncthreads();
    sample::gather(job, s);
    __syncthreads();
    sample::weigh(job, s);
})
