// Products of quantised weights with up to 8 inputs whose results join the residual stream, and the norm after: the
// last product of attention and that of the feed-forward part.
//
// The sums are those of product_quant.cu. Each is added to the residual stream by the warp that has it. Rows go to the
// next product in pieces of 128 numbers (norm.cuh), which are several blocks': whichever of these is the last one
// rounds the piece, as in product_gated.cu. The norm's scale, for which all of a row would have to be there, is left to
// the next product.
#include "norm.cuh"
#include "product_quant.cuh"

namespace product_normed {

using namespace product_quant;
using norms::kPiece;
using Rounded = norms::Unscaled<int8_t>;

// Products of `to.width` rows. `counts`: one for each piece of a row. Shared memory: 128 bytes a warp.
template <Kind K, int N>
__device__ void run(const Planes &planes, const int8_t *RESTRICT x, const float2 *RESTRICT x_scales, int groups,
                    const float *RESTRICT bias, const Rounded &to, unsigned *counts, int split) {
    DYNAMIC_SHARED(memory);
    constexpr int R = rows_at_once(N);
    Place place(split);
    int each = kWarps / split * R, piece = int(blockIdx.x) * each / kPiece;
    unsigned first = blockIdx.x * each + place.team * R, start[R];
#pragma unroll
    for (int r = 0; r < R; r++) start[r] = (first + r) * groups;
    fetch_rows<K, R>(planes, start, groups, place, split);
    if (threadIdx.x == 0 && to.values) fetch_line(to.weight + first);
    wait_for_previous();
    bool has = place.part == 0 && place.lane < R * N;
    unsigned row = first + place.lane / N;
    float *at = to.stream + size_t(place.lane % N) * to.width + row, before = has ? *at : 0.0f;
    float sum = sum_rows<K, N>(planes, start, x, x_scales, groups, place, split, reinterpret_cast<float *>(memory));
    let_next_begin();
    if (has) *at = before + (sum + (bias ? bias[row] : 0.0f));
    if (!to.values || !is_last(counts + piece, kPiece / (kWarps * R) * split, reinterpret_cast<unsigned *>(memory))) return;
    for (int input = threadIdx.x / 32; input < N; input += kWarps) to.put(input, piece, __ldcg(to.at(input, piece)));
}

} // namespace product_normed

#define PRODUCT(name, kind, n)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, product_quant::resident(n)) product_normed_##name##_##n(       \
        const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const int8_t *x,      \
        const float2 *x_scales, int groups, const float *bias, int width, float *stream, const float *weight,        \
        int8_t *values, float2 *value_scales, float *squares, unsigned *counts, int split) {                         \
        product_normed::run<quant::kind, n>({low, high, scales, supers}, x, x_scales, groups, bias,                  \
                                            {width, stream, weight, values, value_scales, squares}, counts, split);  \
    }                                                                                                                \
    EXPORT(product_normed_##name##_##n)
#define PRODUCTS(name, kind) EACH_COUNT(PRODUCT, name, kind)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
