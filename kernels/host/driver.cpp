// A stand-in for libcuda and libcublas, for tests of src/cuda where there is no card: the calls that it makes,
// over this machine's memory, as NVIDIA's manuals describe them. One library under both names.
//
// It is strict where a card would be quietly wrong, or wrong only now and then: a call without a context is
// refused; what a stream is given is done as late as the manual allows (when somebody waits for it), from
// memory as it then is; fresh memory is poisoned; a stream that is captured takes launches and products alone,
// and anything else spoils the capture; every object is counted, so that a test can ask what is left. Faults
// are injected by name. Kernels run on the emulator. What it cannot show: what a driver does beyond its manual.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

typedef std::function<int()> Work;

struct Stream;
struct Event {
    Stream *stream = nullptr;
    uint64_t at = 0; // everything before this
    bool timed = false;
};
struct Stream {
    std::deque<Work> waiting;
    uint64_t done = 0;
    int priority = 0;
    bool capturing = false, spoilt = false;
    std::vector<Work> captured;
};
struct Pool {
    uint64_t used = 0, reserved = 0, threshold = 0;
};
struct Block {
    size_t bytes;
    Pool *pool; // null: pinned memory of the host
    bool freed = false;
};
struct Graph {
    std::vector<Work> works;
};
struct Function {
    std::string name;
    int shared = 48 << 10;
};
struct Module {
    std::map<std::string, Function *> functions;
};
struct Blas {
    Stream *stream = nullptr;
    void *workspace = nullptr;
};

typedef int (*Kernels)(const char *, const unsigned *, const unsigned *, size_t, void **, unsigned long long,
                       char *, size_t);
// What the emulator is told of memory; the numbers are those of emu::races::Memory.
typedef void (*Tell)(int, uintptr_t, size_t);
enum { FRESH, WRITTEN, FREED };

std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Guard;

const uint64_t kTotal = 1ull << 30, kGranule = 2 << 20;
const int kMostArgs = 40;
int version = 13000, cards = 1, capability = 86, context_marker, retained, broken;
std::string last_error;
Kernels kernels;
Tell tell;
std::map<uintptr_t, Block> blocks;
std::set<void *> objects; // everything that has to be given back, blocks aside
std::set<Pool *> pools;
thread_local void *current;
thread_local std::string failing;
thread_local int failing_code;

// What the call of this name is to answer before anything else.
int asked(const char *name, bool context = true) {
    if (broken) return broken;
    if (failing == name) {
        failing.clear();
        if (failing_code >= 700 && failing_code < 720) broken = failing_code;
        return failing_code;
    }
    return context && current != &context_marker ? INVALID_CONTEXT : OK;
}

template <class T> T *made(T *object) {
    objects.insert(object);
    return object;
}
template <class T> bool known(T *object) { return objects.count(object) != 0; }
template <class T> int unmade(T *object) {
    if (!objects.erase(object)) return INVALID_HANDLE;
    delete object;
    return OK;
}

void told(int what, uintptr_t at, size_t bytes) {
    if (tell) tell(what, at, bytes);
}

int run_until(Stream *stream, uint64_t at) {
    while (stream->done < at && !stream->waiting.empty()) {
        Work work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        stream->done++;
        int code = work();
        if (code) return broken = code;
    }
    return OK;
}
int run_all(Stream *stream) { return run_until(stream, stream->done + stream->waiting.size()); }

// A stream's next work; a captured stream does not take it.
int plain(Stream *stream, Work work) {
    if (!known(stream)) return INVALID_HANDLE;
    if (stream->capturing) {
        stream->spoilt = true;
        return CAPTURE_UNSUPPORTED;
    }
    stream->waiting.push_back(std::move(work));
    return OK;
}
int capturable(Stream *stream, Work work) {
    if (!known(stream)) return INVALID_HANDLE;
    if (!stream->capturing) return plain(stream, std::move(work));
    if (stream->spoilt) return CAPTURE_INVALIDATED;
    stream->captured.push_back(std::move(work));
    return OK;
}

Block *find(uintptr_t at, size_t bytes) {
    auto next = blocks.upper_bound(at);
    if (next == blocks.begin()) return nullptr;
    auto found = std::prev(next);
    return at + bytes <= found->first + found->second.bytes ? &found->second : nullptr;
}
bool on_card(uintptr_t at, size_t bytes) {
    Block *block = find(at, bytes);
    return block && block->pool && !block->freed;
}
bool pinned(const void *at, size_t bytes) {
    Block *block = find(uintptr_t(at), bytes);
    return block && !block->pool;
}

uint64_t free_memory() {
    uint64_t taken = 0;
    for (Pool *pool : pools) taken += pool->reserved;
    return kTotal - taken;
}

float number(const void *at, size_t index, int type) {
    if (type == 0) return static_cast<const float *>(at)[index];
    uint16_t half = static_cast<const uint16_t *>(at)[index];
    uint32_t bits;
    float value;
    if (type == 14) {
        bits = uint32_t(half) << 16;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    int exponent = half >> 10 & 31, fraction = half & 1023;
    value = exponent ? std::ldexp(float(1024 + fraction), exponent - 25) : std::ldexp(float(fraction), -24);
    return half >> 15 ? -value : value;
}

} // namespace

// What tests ask of the stand-in itself.
extern "C" {

void stand_in_start(Kernels run, Tell memory) { kernels = run, tell = memory; }

void stand_in_is(int driver, int count, int compute) {
    Guard guard(lock);
    version = driver, cards = count, capability = compute;
}

// The next call of this name in this thread answers with this code; one from 700 on is the context's end, too.
void stand_in_fail(const char *call, int code) { failing = call, failing_code = code; }

// A new context after one that has failed, whose things are forgotten.
void stand_in_reset() {
    Guard guard(lock);
    broken = retained = 0;
    current = nullptr;
    objects.clear(), pools.clear(), blocks.clear();
}

// Objects and allocations that nobody has given back, and contexts retained.
size_t stand_in_left() {
    Guard guard(lock);
    size_t left = objects.size() + retained;
    for (auto &block : blocks) left += !block.second.freed;
    return left;
}

// libcuda

int cuInit(unsigned) { return cards ? asked("cuInit", false) : NO_DEVICE; }
int cuDriverGetVersion(int *out) { return *out = version, OK; }
int cuDeviceGetCount(int *out) { return *out = cards, OK; }
int cuDeviceGet(int *out, int ordinal) { return *out = ordinal, ordinal < cards ? OK : 101; }
int cuDeviceGetName(char *out, int room, int) { return std::strncpy(out, "stand-in", size_t(room)), OK; }
int cuDeviceGetPCIBusId(char *out, int room, int) {
    return std::strncpy(out, "ffff:ff:1f.7", size_t(room)), OK;
}
int cuDeviceGetAttribute(int *out, int which, int) {
    switch (which) {
    case 75: return *out = capability / 10, OK;
    case 76: return *out = capability % 10, OK;
    case 16: return *out = 4, OK;         // multiprocessors
    case 97: return *out = 99 << 10, OK;  // shared memory of a block, if asked for
    case 115: return *out = 1, OK;        // pools
    }
    return INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(void **out, int) {
    Guard guard(lock);
    return retained++, *out = &context_marker, asked("cuDevicePrimaryCtxRetain", false);
}
int cuDevicePrimaryCtxRelease_v2(int) {
    Guard guard(lock);
    return retained-- > 0 ? OK : INVALID_CONTEXT;
}
int cuCtxSetCurrent(void *context) { return current = context, asked("cuCtxSetCurrent", false); }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    return *least = 0, *greatest = -5, asked("cuCtxGetStreamPriorityRange");
}

int cuStreamCreateWithPriority(Stream **out, unsigned flags, int priority) {
    Guard guard(lock);
    if (int code = asked("cuStreamCreateWithPriority")) return code;
    if (flags != 1) return INVALID_VALUE; // must not wait for the default stream
    *out = made(new Stream);
    (*out)->priority = priority;
    return OK;
}
int cuStreamDestroy_v2(Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuStreamDestroy_v2")) return code;
    if (!known(stream)) return INVALID_HANDLE;
    run_all(stream);
    return unmade(stream);
}
int cuStreamSynchronize(Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuStreamSynchronize")) return code;
    if (!known(stream)) return INVALID_HANDLE;
    if (stream->capturing) return stream->spoilt = true, CAPTURE_UNSUPPORTED;
    if (int code = run_all(stream)) return code;
    for (Pool *pool : pools) {
        uint64_t kept = (pool->used + kGranule - 1) / kGranule * kGranule;
        if (pool->reserved > pool->threshold) pool->reserved = kept > pool->threshold ? kept : pool->threshold;
    }
    return OK;
}
int cuStreamQuery(Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuStreamQuery")) return code;
    if (!known(stream)) return INVALID_HANDLE;
    if (stream->capturing) return stream->spoilt = true, CAPTURE_UNSUPPORTED;
    return stream->waiting.empty() ? OK : NOT_READY;
}
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    Guard guard(lock);
    if (int code = asked("cuStreamBeginCapture_v2")) return code;
    if (!known(stream) || stream->capturing || mode == 0) return INVALID_VALUE; // global: others would spoil it
    stream->capturing = true, stream->spoilt = false;
    stream->captured.clear();
    return OK;
}
int cuStreamEndCapture(Stream *stream, Graph **out) {
    Guard guard(lock);
    *out = nullptr;
    if (!known(stream) || !stream->capturing) return INVALID_VALUE;
    stream->capturing = false;
    if (int code = asked("cuStreamEndCapture")) return code;
    if (stream->spoilt) return CAPTURE_INVALIDATED;
    *out = made(new Graph{std::move(stream->captured)});
    return OK;
}

int cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long) {
    Guard guard(lock);
    if (int code = asked("cuGraphInstantiateWithFlags")) return code;
    if (!known(graph)) return INVALID_HANDLE;
    return *out = made(new Graph(*graph)), OK;
}
int cuGraphLaunch(Graph *exec, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuGraphLaunch")) return code;
    if (!known(exec)) return INVALID_HANDLE;
    // By reference: whoever destroys it before it has run is found out.
    return plain(stream, [exec]() -> int {
        if (!known(exec)) return LAUNCH_FAILED;
        for (Work &work : exec->works)
            if (int code = work()) return code;
        return OK;
    });
}
int cuGraphDestroy(Graph *graph) {
    Guard guard(lock);
    return unmade(graph);
}
int cuGraphExecDestroy(Graph *exec) {
    Guard guard(lock);
    if (int code = asked("cuGraphExecDestroy")) return code;
    return unmade(exec);
}

int cuEventCreate(Event **out, unsigned flags) {
    Guard guard(lock);
    if (int code = asked("cuEventCreate")) return code;
    *out = made(new Event);
    return (*out)->timed = !(flags & 2), OK;
}
int cuEventRecord(Event *event, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuEventRecord")) return code;
    if (!known(event) || !known(stream)) return INVALID_HANDLE;
    event->stream = stream, event->at = stream->done + stream->waiting.size();
    return OK;
}
int cuEventSynchronize(Event *event) {
    Guard guard(lock);
    if (int code = asked("cuEventSynchronize")) return code;
    if (!known(event)) return INVALID_HANDLE;
    return event->stream ? run_until(event->stream, event->at) : OK;
}
// A thousandth of a millisecond for each piece of the stream's work between them.
int cuEventElapsedTime_v2(float *out, Event *start, Event *end) {
    Guard guard(lock);
    if (int code = asked("cuEventElapsedTime")) return code;
    if (!known(start) || !known(end) || !start->timed || !end->timed) return INVALID_HANDLE;
    if (!start->stream || start->stream != end->stream) return INVALID_HANDLE;
    if (end->stream->done < end->at || start->at > end->at) return NOT_READY;
    return *out = 1e-3f * float(end->at - start->at), OK;
}
int cuEventElapsedTime(float *out, Event *start, Event *end) { return cuEventElapsedTime_v2(out, start, end); }
int cuEventDestroy_v2(Event *event) {
    Guard guard(lock);
    return unmade(event);
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    Guard guard(lock);
    return *free = free_memory(), *total = kTotal, asked("cuMemGetInfo_v2");
}
int cuMemPoolCreate(Pool **out, const int *wanted) {
    Guard guard(lock);
    if (int code = asked("cuMemPoolCreate")) return code;
    // Pinned, no handle types, on a device, the first.
    if (wanted[0] != 1 || wanted[1] != 0 || wanted[2] != 1 || wanted[3] != 0) return INVALID_VALUE;
    *out = made(new Pool);
    pools.insert(*out);
    return OK;
}
int cuMemPoolDestroy(Pool *pool) {
    Guard guard(lock);
    if (int code = asked("cuMemPoolDestroy")) return code;
    if (!known(pool)) return INVALID_HANDLE;
    if (pool->used) return OK; // goes with the last allocation of it, which nobody can give back any more
    pools.erase(pool);
    return unmade(pool);
}
int cuMemPoolSetAttribute(Pool *pool, int which, uint64_t *value) {
    Guard guard(lock);
    if (int code = asked("cuMemPoolSetAttribute")) return code;
    if (!known(pool) || which != 4) return INVALID_VALUE;
    return pool->threshold = *value, OK;
}
int cuMemPoolGetAttribute(Pool *pool, int which, uint64_t *value) {
    Guard guard(lock);
    if (int code = asked("cuMemPoolGetAttribute")) return code;
    if (!known(pool) || (which != 5 && which != 7)) return INVALID_VALUE;
    return *value = which == 5 ? pool->reserved : pool->used, OK;
}
int cuMemPoolTrimTo(Pool *pool, size_t keep) {
    Guard guard(lock);
    if (int code = asked("cuMemPoolTrimTo")) return code;
    if (!known(pool)) return INVALID_HANDLE;
    uint64_t needed = (pool->used > keep ? pool->used : keep) + kGranule - 1;
    uint64_t kept = needed / kGranule * kGranule;
    if (kept < pool->reserved) pool->reserved = kept;
    return OK;
}
int cuMemAllocFromPoolAsync(uint64_t *out, size_t bytes, Pool *pool, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuMemAllocFromPoolAsync")) return code;
    if (!known(pool) || bytes == 0) return INVALID_VALUE;
    size_t size = (bytes + 511) / 512 * 512;
    uint64_t reserved = (pool->used + size + kGranule - 1) / kGranule * kGranule;
    if (reserved > pool->reserved && reserved - pool->reserved > free_memory()) return OUT_OF_MEMORY;
    if (int code = plain(stream, [] { return OK; })) return code;
    pool->used += size;
    if (reserved > pool->reserved) pool->reserved = reserved;
    // On pages of its own, as the emulator's checker wants it.
    void *memory = std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    std::memset(memory, 0xff, size);
    blocks[uintptr_t(memory)] = {size, pool};
    told(FRESH, uintptr_t(memory), bytes);
    return *out = uintptr_t(memory), OK;
}
int cuMemFreeAsync(uint64_t at, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuMemFreeAsync")) return code;
    auto found = blocks.find(at);
    if (found == blocks.end() || !found->second.pool || found->second.freed) return INVALID_VALUE;
    // Counted as used until somebody has waited for it.
    int code = plain(stream, [at]() -> int {
        Block block = blocks[at];
        if (block.freed) return LAUNCH_FAILED;
        block.pool->used -= block.bytes;
        blocks.erase(at);
        told(FREED, at, block.bytes);
        std::free(reinterpret_cast<void *>(at));
        return OK;
    });
    return code;
}
int cuPointerGetAttribute(void **out, int which, uint64_t at) {
    Guard guard(lock);
    if (int code = asked("cuPointerGetAttribute")) return code;
    if (which != 17 || !on_card(at, 1)) return INVALID_VALUE;
    return *out = find(at, 1)->pool, OK;
}
int cuMemHostAlloc(void **out, size_t bytes, unsigned) {
    Guard guard(lock);
    if (int code = asked("cuMemHostAlloc")) return code;
    *out = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    blocks[uintptr_t(*out)] = {bytes, nullptr};
    told(FRESH, uintptr_t(*out), bytes), told(WRITTEN, uintptr_t(*out), bytes);
    return OK;
}
int cuMemHostGetDevicePointer_v2(uint64_t *out, void *memory, unsigned flags) {
    Guard guard(lock);
    if (int code = asked("cuMemHostGetDevicePointer_v2")) return code;
    if (flags || !pinned(memory, 1)) return INVALID_VALUE;
    return *out = uint64_t(memory), OK;
}
int cuMemFreeHost(void *memory) {
    Guard guard(lock);
    if (int code = asked("cuMemFreeHost")) return code;
    auto found = blocks.find(uintptr_t(memory));
    if (found == blocks.end()) return INVALID_VALUE;
    told(FREED, uintptr_t(memory), found->second.bytes);
    blocks.erase(found);
    return std::free(memory), OK;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuMemcpyHtoDAsync_v2")) return code;
    if (!on_card(to, bytes)) return INVALID_VALUE;
    std::vector<char> kept;
    if (!pinned(from, bytes)) kept.assign(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
    return plain(stream, [=]() -> int {
        if (!on_card(to, bytes)) return 700;
        std::memcpy(reinterpret_cast<void *>(to), kept.empty() ? from : kept.data(), bytes);
        return told(WRITTEN, to, bytes), OK;
    });
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuMemcpyDtoHAsync_v2")) return code;
    if (!on_card(from, bytes)) return INVALID_VALUE;
    int code = plain(stream, [=]() -> int {
        if (!on_card(from, bytes)) return 700;
        return std::memcpy(to, reinterpret_cast<void *>(from), bytes), OK;
    });
    return code || pinned(to, bytes) ? code : run_all(stream);
}
int cuMemsetD8Async(uint64_t at, unsigned char byte, size_t bytes, Stream *stream) {
    Guard guard(lock);
    if (int code = asked("cuMemsetD8Async")) return code;
    if (!on_card(at, bytes)) return INVALID_VALUE;
    return plain(stream, [=]() -> int {
        std::memset(reinterpret_cast<void *>(at), byte, bytes);
        return told(WRITTEN, at, bytes), OK;
    });
}

int cuModuleLoadData(Module **out, const void *image) {
    Guard guard(lock);
    if (int code = asked("cuModuleLoadData")) return code;
    uint32_t magic;
    std::memcpy(&magic, image, 4);
    if (magic != 0xba55ed50u || uintptr_t(image) % 8) return 200;
    return *out = made(new Module), OK;
}
int cuModuleUnload(Module *module) {
    Guard guard(lock);
    if (!known(module)) return INVALID_HANDLE;
    for (auto &function : module->functions) delete function.second;
    return unmade(module);
}
// What functions an image has is not read: it has all but those with `absent` in their name.
int cuModuleGetFunction(Function **out, Module *module, const char *name) {
    Guard guard(lock);
    if (int code = asked("cuModuleGetFunction")) return code;
    if (!known(module)) return INVALID_HANDLE;
    if (std::strstr(name, "absent")) return NOT_FOUND;
    Function *&function = module->functions[name];
    if (!function) function = new Function{name};
    return *out = function, OK;
}
int cuFuncSetAttribute(Function *function, int which, int value) {
    Guard guard(lock);
    if (int code = asked("cuFuncSetAttribute")) return code;
    if (which != 8 || value > 99 << 10) return INVALID_VALUE;
    return function->shared = value, OK;
}
int cuLaunchKernel(Function *function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, Stream *stream, void **args, void **extra) {
    Guard guard(lock);
    if (int code = asked("cuLaunchKernel")) return code;
    if (extra || int(shared) > function->shared) return INVALID_VALUE;
    // How many there are is known to the image alone; a list of fewer than the most ends in null.
    std::vector<uint64_t> values;
    for (int i = 0; i < kMostArgs && args[i]; i++) values.push_back(*static_cast<uint64_t *>(args[i]));
    std::string name = function->name;
    return capturable(stream, [=]() -> int {
        std::vector<uint64_t> mine = values;
        std::vector<void *> places;
        for (uint64_t &value : mine) places.push_back(&value);
        unsigned grid[] = {bx, by, bz}, block[] = {tx, ty, tz};
        char error[256] = "";
        int code = kernels ? kernels(name.c_str(), grid, block, shared, places.data(), 0, error, sizeof error) : -1;
        if (code) last_error = error;
        return code ? LAUNCH_FAILED : OK;
    });
}

// As the driver lays it out; of the attributes only their number is looked at.
struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    Stream *stream;
    void *attributes;
    unsigned count;
};
int cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **args, void **extra) {
    const unsigned *grid = config->grid, *block = config->block;
    if (capability < 90 || config->count != 1) return INVALID_VALUE;
    return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], config->shared,
                          config->stream, args, extra);
}

// libcublas

int cublasCreate_v2(Blas **out) {
    Guard guard(lock);
    if (asked("cublasCreate_v2")) return 1;
    return *out = made(new Blas), OK;
}
int cublasDestroy_v2(Blas *blas) {
    Guard guard(lock);
    return unmade(blas) ? 1 : OK;
}
int cublasSetStream_v2(Blas *blas, Stream *stream) {
    Guard guard(lock);
    if (asked("cublasSetStream_v2")) return 13;
    return blas->stream = stream, blas->workspace = nullptr, OK;
}
int cublasSetWorkspace_v2(Blas *blas, void *workspace, size_t bytes) {
    Guard guard(lock);
    if (asked("cublasSetWorkspace_v2")) return 13;
    if (uintptr_t(workspace) % 256 || !on_card(uintptr_t(workspace), bytes)) return 7;
    return blas->workspace = workspace, OK;
}
int cublasSetMathMode(Blas *, int) { return OK; }
// By columns, for every transposition.
int cublasGemmEx(Blas *blas, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int type_a,
                 int lda, const void *b, int type_b, int ldb, const float *beta, void *c, int type_c, int ldc,
                 int compute, int) {
    Guard guard(lock);
    if (asked("cublasGemmEx")) return 13;
    if (!known(blas) || !blas->stream || !blas->workspace) return 1;
    bool kinds = type_a == type_b && type_c == 0 && compute == (type_a == 0 ? 69 : 68);
    bool sides = lda >= (ta ? k : m) && ldb >= (tb ? n : k) && ldc >= m && m > 0 && n > 0 && k > 0;
    if (!kinds || !sides || *beta != 0) return 7;
    float scale = *alpha;
    int code = capturable(blas->stream, [=]() -> int {
        for (int j = 0; j < n; j++) {
            told(WRITTEN, uintptr_t(c) + size_t(j) * ldc * sizeof(float), size_t(m) * sizeof(float));
            for (int i = 0; i < m; i++) {
                double sum = 0;
                for (int l = 0; l < k; l++) {
                    size_t at = ta ? size_t(i) * lda + l : size_t(l) * lda + i;
                    size_t bt = tb ? size_t(l) * ldb + j : size_t(j) * ldb + l;
                    sum += double(number(a, at, type_a)) * double(number(b, bt, type_b));
                }
                static_cast<float *>(c)[size_t(j) * ldc + i] = float(scale * sum);
            }
        }
        return OK;
    });
    return code ? 13 : OK;
}

} // extern "C"
