// Rows of a matrix, picked by token and turned into floats: out[i] = scale * weights[token[i]].
//
// A few kilobytes a token, in one pass: 16 bytes written per thread and step, whatever the weights' kind. A token
// that the matrix does not have gives a row that is not a number: the model's output then is none either, which is
// noticed, where a read beyond the matrix would take the whole card down. Host code checks tokens before.
//
// Few rows may be normed at once (norm.cuh): a block's rows are whole pieces, of which it takes up what it has written.
// And since the step's tokens are at hand, blocks of their own may compute the angles of their positions (rope.cuh), which
// would be a launch by themselves.
#include "norm.cuh"
#include "quant.cuh"
#include "rope.cuh"

namespace embed {

using quant::Kind;
using quant::Planes;

constexpr int kThreads = 256;

// A row's blocks: y, but for the last where they are followed by one for angles.
__device__ inline unsigned blocks(const rope::Turns &turns) { return gridDim.y - (turns.half > 0 ? 1 : 0); }

__device__ inline size_t item() { return size_t(blockIdx.y) * kThreads + threadIdx.x; }

// Whether this is the block for a token's angles, which are there then.
__device__ inline bool turned(const rope::Turns &turns) {
    if (blockIdx.y < blocks(turns)) return false;
    for (int i = threadIdx.x; i < turns.half; i += kThreads) turns.put(blockIdx.x, i);
    return true;
}

// Ids that the step before has drawn. The host may list a token before it knows which one was drawn.
struct Drawn {
    const uint32_t *ids;
    uint32_t count;
};
// embed.rs has the same.
constexpr uint32_t kDrawn = 1u << 31;

// This block's token: as listed, or the one that was drawn for the listed row. ~0 if there is no such row.
__device__ inline uint32_t token_of(const uint32_t *tokens, Drawn drawn) {
    uint32_t token = tokens[blockIdx.x], row = token & ~kDrawn;
    if (!(token & kDrawn)) return token;
    return row < drawn.count ? drawn.ids[row] : ~0u;
}

// The norm of rows, if one follows at once: `values` is null if not, and holds 8-bit numbers if there are scales.
struct Norm {
    const float *weight;
    void *values;
    float2 *scales;
    float *squares;

    // Norms the numbers that this block has written of its row, `kEach` a thread and step, all of it written by now.
    template <int kEach> __device__ void after(float *stream, int width, unsigned blocks) const {
        if (!values) return;
        __syncthreads();
        constexpr int kPieces = kThreads * kEach / norms::kPiece;
        int pieces = width / norms::kPiece, row = blockIdx.x;
        for (int chunk = blockIdx.y; chunk * kPieces < pieces; chunk += blocks) {
            for (int i = threadIdx.x / 32; i < kPieces && chunk * kPieces + i < pieces; i += kThreads / 32) {
                int piece = chunk * kPieces + i;
                if (scales) {
                    norms::Unscaled<int8_t> to = {width, stream, weight, static_cast<int8_t *>(values), scales, squares};
                    to.put(row, piece, *to.at(row, piece));
                } else {
                    norms::Unscaled<bf16> to = {width, stream, weight, static_cast<bf16 *>(values), nullptr, squares};
                    to.put(row, piece, *to.at(row, piece));
                }
            }
        }
    }
};

template <class T>
__device__ void dense(const T *RESTRICT weights, const uint32_t *RESTRICT tokens, Drawn drawn, int rows, int columns,
                      float scale, float *stream, const Norm &norm, unsigned blocks) {
    uint32_t token = token_of(tokens, drawn);
    const T *row = weights + size_t(token) * columns;
    float *out = stream + size_t(blockIdx.x) * columns;
    bool there = token < uint32_t(rows);
    for (size_t c = item(); c < size_t(columns); c += blocks * kThreads) out[c] = there ? scale * to_float(row[c]) : NAN;
    norm.after<1>(stream, columns, blocks);
}

// Bytes of `four`, each times `by` less `minus`, times `scale`.
__device__ inline float4 floats(uint32_t four, float by, float minus, float scale) {
    return make_float4(scale * (float(int8_t(four)) * by - minus), scale * (float(int8_t(four >> 8)) * by - minus),
                       scale * (float(int8_t(four >> 16)) * by - minus),
                       scale * (float(int8_t(four >> 24)) * by - minus));
}

// A thread turns one word of a group's low bits: numbers 4 w .. and 16 + 4 w ...
template <Kind K>
__device__ void quantised(Planes planes, const uint32_t *RESTRICT tokens, Drawn drawn, int rows, int groups, float scale,
                          float *stream, const Norm &norm, unsigned blocks) {
    uint32_t token = token_of(tokens, drawn);
    float4 *to = reinterpret_cast<float4 *>(stream) + size_t(blockIdx.x) * groups * 8;
    bool there = token < uint32_t(rows);
    for (size_t i = item(); i < size_t(groups) * 4; i += blocks * kThreads) {
        size_t group = i / 4, index = there ? size_t(token) * groups + group : 0;
        int w = int(i % 4);
        const unsigned *low = reinterpret_cast<const unsigned *>(planes.low) + index * (quant::kLowBytes<K> / 4);
        uint2 high = make_uint2(0, 0), both = make_uint2(low[w], 0);
        if constexpr (quant::kFifths<K>) high.x = reinterpret_cast<const unsigned *>(planes.high)[index];
        if constexpr (K == quant::Q6_K) high = reinterpret_cast<const uint2 *>(planes.high)[index];
        if constexpr (K == quant::Q8_0) both.y = low[4 + w];
        else both = quant::pair<K>(both.x, high, w);
        float2 by = quant::scale_of<K>(quant::load_scale<K>(planes, index), int(group % 8));
        float factor = there ? scale : NAN, minus = quant::kMinimum<K> ? by.y : 0.0f;
        to[group * 8 + w] = floats(both.x, by.x, minus, factor);
        to[group * 8 + 4 + w] = floats(both.y, quant::kHalves<K> ? by.y : by.x, minus, factor);
    }
    norm.after<8>(stream, groups * 32, blocks);
}

} // namespace embed

// The arguments of a norm and of angles, and what they make.
#define EMBED_MORE                                                                                                   \
    const float *weight, void *values, float2 *value_scales, float *squares, const uint32_t *positions,              \
        const uint32_t *longs, const float *inv_freq, const float *long_inv_freq, int half, float factor,            \
        float *cos, float *sin
#define EMBED_BEGIN                                                                                                  \
    let_next_begin();                                                                                                \
    wait_for_previous();                                                                                             \
    embed::Norm norm = {weight, values, value_scales, squares};                                                      \
    rope::Turns turns = {positions, longs, inv_freq, long_inv_freq, half, factor, cos, sin};                         \
    if (embed::turned(turns)) return;

#define EMBED_DENSE(name, type)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        embed_##name(const type *weights, const uint32_t *tokens, const uint32_t *drawn, uint32_t count, int rows,   \
                     int columns, float scale, float *out, EMBED_MORE) {                                             \
        EMBED_BEGIN                                                                                                  \
        embed::dense<type>(weights, tokens, {drawn, count}, rows, columns, scale, out, norm, embed::blocks(turns));  \
    }                                                                                                                \
    EXPORT(embed_##name)
EMBED_DENSE(f32, float)
EMBED_DENSE(f16, f16)
EMBED_DENSE(bf16, bf16)
#undef EMBED_DENSE

#define EMBED(name, kind)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        embed_##name(const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers,          \
                     const uint32_t *tokens, const uint32_t *drawn, uint32_t count, int rows, int groups,            \
                     float scale, float *out, EMBED_MORE) {                                                          \
        EMBED_BEGIN                                                                                                  \
        embed::quantised<quant::kind>({low, high, scales, supers}, tokens, {drawn, count}, rows, groups, scale, out, \
                                      norm, embed::blocks(turns));                                                   \
    }                                                                                                                \
    EXPORT(embed_##name)
EACH_KIND(EMBED)
#undef EMBED
#undef EMBED_BEGIN
#undef EMBED_MORE
