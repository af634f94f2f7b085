// The feed-forward part up to its last product, of quantised weights with up to 8 inputs: gate and up, the activation of
// the gate, and rounding to the 8 bits that the last product takes.
//
// A warp takes the rows of an output's gate and of its up together, so that it has both sums. The sums are those of
// product_quant.cu, and what becomes of them is what rows.cu makes of them, bit for bit. Outputs are rounded in blocks
// of 32, which are several blocks' of threads: as few threads a block as before, or a narrow model would leave
// multiprocessors idle. Whichever of these blocks is the last one rounds, from floats in global memory. Once all blocks
// have come to that, most of the card is idle, and the next launch may begin.
#include "product_quant.cuh"

namespace product_gated {

using namespace product_quant;

// Outputs of a block of 8-bit inputs.
constexpr int kRounded = 32;

// Where outputs go: `[n][outputs]` of floats, and the same rounded. `counts`: one for every 32 outputs.
struct Out {
    int outputs;
    float *floats;
    int8_t *values;
    float2 *scales;
    unsigned *counts;
};

// Rounds 32 outputs of N inputs from `column` on: eight threads have one input's.
template <int N> __device__ void round(const Out &out, int column) {
    static_assert(N <= kWarps * 4, "each input has its threads");
    if (threadIdx.x / 32 * 4 >= N) return;
    int input = threadIdx.x / 8, at = input < N ? column + threadIdx.x % 8 * 4 : out.outputs;
    float4 v = make_float4(0, 0, 0, 0);
    if (input < N) v = __ldcg(reinterpret_cast<const float4 *>(out.floats + size_t(input) * out.outputs + at));
    rows::store4<int8_t>(out.values + size_t(input) * out.outputs, out.scales + size_t(input) * (out.outputs / 32), at,
                         out.outputs, true, v);
}

// The gate's rows lie above those of up, as many; their number is a multiple of 32. Shared memory: 128 bytes a warp.
template <Kind K, int N>
__device__ void run(const Planes &planes, const int8_t *RESTRICT x, const float2 *RESTRICT x_scales, int groups,
                    const norms::Scale &scale, const float *RESTRICT bias, int gelu, const Out &out, int split) {
    DYNAMIC_SHARED(memory);
    constexpr int R = rows_at_once(N), kOutputs = R / 2;
    Place place(split);
    int each = kWarps / split * kOutputs;
    unsigned first = blockIdx.x * each + place.team * kOutputs, start[R];
#pragma unroll
    for (int r = 0; r < R; r++) start[r] = (first + r % kOutputs + r / kOutputs * out.outputs) * groups;
    fetch_rows<K, R>(planes, start, groups, place, split);
    wait_for_previous();
    float sum = sum_rows<K, N>(planes, start, x, x_scales, groups, place, split, reinterpret_cast<float *>(memory));
    let_next_begin();
    int row = place.lane / N;
    unsigned output = first + row % kOutputs;
    sum = __fmaf_rn(sum, scale.of(place.lane % N, scale.each(N, groups * 32), N),
                    bias && row < R ? bias[output + size_t(row / kOutputs) * out.outputs] : 0.0f);
    float up = __shfl_sync(kAll, sum, place.lane + kOutputs * N);
    if (place.part == 0 && row < kOutputs)
        out.floats[size_t(place.lane % N) * out.outputs + output] = rows::activated(gelu, sum) * up;
    unsigned block = blockIdx.x * each / kRounded;
    if (is_last(out.counts + block, kRounded / each, reinterpret_cast<unsigned *>(memory)))
        round<N>(out, int(block) * kRounded);
}

} // namespace product_gated

#define PRODUCT(name, kind, n)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, product_quant::resident(n)) product_gated_##name##_##n(        \
        const uint8_t *low, const uint8_t *high, const uint8_t *scales, const uint8_t *supers, const int8_t *x,      \
        const float2 *x_scales, int groups, const float *bias, int gelu, int outputs, float *floats, int8_t *values, \
        float2 *value_scales, unsigned *counts, int split, const float *squares, float eps) {                        \
        product_gated::run<quant::kind, n>({low, high, scales, supers}, x, x_scales, groups, {squares, eps}, bias,   \
                                           gelu, {outputs, floats, values, value_scales, counts}, split);            \
    }                                                                                                                \
    EXPORT(product_gated_##name##_##n)
#define PRODUCTS(name, kind) EACH_COUNT(PRODUCT, name, kind)

EACH_KIND(PRODUCTS)

#undef PRODUCTS
#undef PRODUCT
