// Kernels with one error each, and a few without, for the tests of the checker of races (races.cpp). Not shipped: only
// a checked build of the emulator has them. All take `float *data`.
#include "../common.cuh"

namespace planted {

__device__ float *shared_floats() {
    DYNAMIC_SHARED(memory);
    return reinterpret_cast<float *>(memory);
}

// `count` numbers of each thread, for all to see.
__device__ void clear(float *shared, int count) {
    for (int i = 0; i < count; i++) shared[i * blockDim.x + threadIdx.x] = 0.0f;
    __syncthreads();
}

__device__ unsigned *word(float *data) { return reinterpret_cast<unsigned *>(data); }

} // namespace planted

#define PLANTED(name, ...)                                                                                           \
    extern "C" __global__ void planted_##name([[maybe_unused]] float *data) {                                        \
        wait_for_previous();                                                                                         \
        [[maybe_unused]] float *shared = planted::shared_floats();                                                   \
        [[maybe_unused]] unsigned at = threadIdx.x, warp = at / 32, lane = at % 32, block = blockIdx.x;              \
        __VA_ARGS__                                                                                                  \
    }                                                                                                                \
    EXPORT(planted_##name)

// Shared memory, between warps: a barrier is missing after the writes, or before what was read is written again.
PLANTED(shared_no_barrier, {
    planted::clear(shared, 1);
    shared[at] = 1.0f;
    data[at] = shared[at ^ 32];
})
PLANTED(shared_overwritten, {
    shared[at] = 1.0f;
    __syncthreads();
    float found = shared[at ^ 32];
    shared[at] = found + 1.0f;
})
PLANTED(shared_all_write, {
    shared[0] = float(at);
})
// Within a warp: a shuffle is no barrier, and __syncwarp is one only for the lanes that it names.
PLANTED(shared_shuffle, {
    planted::clear(shared, 1);
    shared[at] = 1.0f;
    float other = __shfl_xor_sync(kAll, 1.0f, 1);
    data[at] = shared[at ^ 1] + other;
})
PLANTED(shared_half_a_warp, {
    planted::clear(shared, 1);
    shared[at] = 1.0f;
    __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
    data[at] = shared[at ^ 16];
})
PLANTED(shared_read_by_warps, {
    planted::clear(shared, 1);
    float found = shared[0];
    __syncwarp();
    if (at == 63) shared[0] = found + 1.0f;
})
PLANTED(shared_atomic_and_plain, {
    if (at == 0) shared[0] = 0.0f;
    __syncthreads();
    if (warp == 0) atomicAdd(planted::word(shared), 1u);
    if (at == 32) data[0] = shared[0];
})
PLANTED(bytes_of_one_word, {
    unsigned char *bytes = reinterpret_cast<unsigned char *>(shared);
    bytes[at] = 1;
    bytes[at / 33] = 2;
})

// Global memory, of one block and of several.
PLANTED(global_no_barrier, {
    data[at] = 1.0f;
    data[64 + at] = data[at ^ 32];
})
PLANTED(blocks_write_one_place, {
    if (at == 0) data[0] = float(block);
})
PLANTED(block_reads_anothers, {
    if (at == 0) data[block] = 1.0f;
    if (at == 0 && block == 1) data[8] = data[0];
})
PLANTED(blocks_read_then_one_writes, {
    float found = data[0];
    data[8 + block * 64 + at] = found;
    if (block == gridDim.x - 1 && at == 5) data[0] = found + 1.0f;
})
// The last block reads what all have left; a fence is missing before or after the count.
#define LAST_BLOCK(before, after)                                                                                    \
    data[8 + block * 64 + at] = 1.0f;                                                                                \
    before;                                                                                                          \
    __syncthreads();                                                                                                 \
    if (at == 0) shared[0] = float(atomicAdd(planted::word(data), 1u));                                              \
    __syncthreads();                                                                                                 \
    if (shared[0] != float(gridDim.x - 1)) return;                                                                   \
    after;                                                                                                           \
    float sum = 0.0f;                                                                                                \
    for (unsigned other = 0; other < gridDim.x; other++) sum += data[8 + other * 64 + at];                           \
    data[8 + at] = sum;                                                                                              \
    if (at == 0) *planted::word(data) = 0;

PLANTED(last_block_not_released, { LAST_BLOCK(, __threadfence()) })
PLANTED(last_block_not_acquired, { LAST_BLOCK(__threadfence(), ) })

// What nobody has written, and what is not there.
PLANTED(shared_unwritten, { data[at] = shared[at]; })
PLANTED(global_unwritten, { data[at] = data[1024 + at]; })
PLANTED(shared_beyond, {
    for (unsigned i = at; i <= 64; i += 64) shared[i] = 0.0f;
})
PLANTED(global_beyond, { data[2047 + at] = 0.0f; })
PLANTED(global_before, { data[int(at) - 1] = 0.0f; })

// Asynchronous copies: read before they were waited for, read by others without a barrier, their place written.
PLANTED(copy_not_waited_for, {
    planted::clear(shared, 4);
    copy_async16(shared + at * 4, data + at * 4);
    copy_async_commit();
    data[1024 + at] = shared[at * 4];
})
PLANTED(copy_one_group_too_many, {
    copy_async16(shared + at * 4, data + at * 4);
    copy_async_commit();
    copy_async16(shared + 256 + at * 4, data + at * 4);
    copy_async_commit();
    copy_async_wait<1>();
    data[1024 + at] = shared[at * 4] + shared[256 + at * 4];
})
PLANTED(copy_no_barrier, {
    planted::clear(shared, 4);
    copy_async16(shared + at * 4, data + at * 4);
    copy_async_commit();
    copy_async_wait<0>();
    data[1024 + at] = shared[(at ^ 32) * 4];
})
PLANTED(copy_into_what_is_read, {
    planted::clear(shared, 4);
    for (int step = 0; step < 2; step++) {
        copy_async16(shared + at * 4, data + at * 4);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        data[1024 + at] = shared[(at ^ 32) * 4];
    }
})

// Before the launch before has been waited for.
extern "C" __global__ void planted_early_read(float *data) {
    float found = data[threadIdx.x];
    wait_for_previous();
    data[threadIdx.x] = found;
}
EXPORT(planted_early_read)
extern "C" __global__ void planted_early_write(float *data) {
    data[threadIdx.x] = 1.0f;
    wait_for_previous();
}
EXPORT(planted_early_write)

// Without an error.
PLANTED(right_shared, {
    shared[at] = 1.0f;
    __syncwarp();
    float found = shared[at ^ 1];
    __syncthreads();
    shared[at] = found;
    __syncthreads();
    data[block * 64 + at] = shared[at ^ 32];
})
PLANTED(right_last_block, { LAST_BLOCK(__threadfence(), __threadfence()) })
// As cooperative groups do it: one thread fences for all that have met it.
PLANTED(right_last_block_one_fence, {
    data[8 + block * 64 + at] = 1.0f;
    __syncthreads();
    if (at == 0) {
        __threadfence();
        shared[0] = float(atomicAdd(planted::word(data), 1u));
        __threadfence();
    }
    __syncthreads();
    if (shared[0] != float(gridDim.x - 1)) return;
    float sum = 0.0f;
    for (unsigned other = 0; other < gridDim.x; other++) sum += data[8 + other * 64 + at];
    data[8 + at] = sum;
})
PLANTED(right_is_last, {
    data[8 + block * 64 + at] = 1.0f;
    if (!is_last(planted::word(data), gridDim.x, planted::word(shared))) return;
    float sum = 0.0f;
    for (unsigned other = 0; other < gridDim.x; other++) sum += __ldcg(data + 8 + other * 64 + at);
    data[8 + at] = sum;
})
PLANTED(right_copies, {
    copy_async16(shared + at * 4, data + at * 4, 8);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    data[1024 + block * 64 + at] = shared[(at ^ 32) * 4 + 3];
})
PLANTED(right_bytes, {
    reinterpret_cast<unsigned char *>(shared)[at] = 1;
    __syncthreads();
    data[block * 64 + at] = shared[at / 4];
})
PLANTED(right_atomics, {
    if (at == 0) shared[0] = 0.0f;
    __syncthreads();
    atomicAdd(planted::word(shared), 1u);
    atomicAdd(planted::word(data), 1u);
    __syncthreads();
    data[block * 64 + 64 + at] = shared[0];
})

// For the counts of requests: side by side, two apart, vectors; all in one bank, none in the same, one word for all.
PLANTED(request_dense, { data[1024 + at] = data[at]; })
PLANTED(request_strided, { data[1024 + at] = data[at * 2]; })
PLANTED(request_vectors, {
    const float4 *from = reinterpret_cast<const float4 *>(data);
    reinterpret_cast<float4 *>(data)[256 + at] = from[at];
})
PLANTED(request_banks, { shared[lane * 32 + warp] = 1.0f; })
PLANTED(request_padded, { shared[lane * 33 + warp] = 1.0f; })
PLANTED(request_one_word, {
    if (lane == 0) shared[warp * 32] = 1.0f;
    __syncwarp();
    [[maybe_unused]] volatile float found = shared[warp * 32];
})
