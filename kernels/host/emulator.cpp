// The emulator's engine: fibers, barriers, collectives, and the one entry point that Rust calls.
#include "emulator.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

__thread Place place;
__thread bool truncating;

namespace {

// The launch's order of threads has them beside the order itself.
constexpr unsigned long long kTruncate = 1ull << 63, kBackwards = 1ull << 62;

// Instrumented code takes more of it.
constexpr size_t kStack = races::kChecked ? 256 << 10 : 64 << 10;
// From one stack to the next. At a power of two, the tops of all stacks would share a few sets of the caches.
constexpr size_t kStride = kStack + 17 * 64;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kMostShared = 227 << 10;
constexpr size_t kGuard = 256;
constexpr unsigned char kPoison = 0xff, kFence = 0xa5;

enum class State : unsigned char { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
    void *to;
    const void *from;
    size_t bytes, valid;
};

#if defined(__x86_64__)
using Context = void *;
#else
using Context = ucontext_t;
#endif

struct Fiber {
    Context context;
    State state;
    // Whether the collective that it waits at is __syncwarp.
    bool barrier;
    unsigned mask;
    unsigned turn;
    unsigned index;
    Dim thread;
    std::vector<Copy> loose;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    // Two turns: a quick lane may be one collective ahead of a slow one.
    alignas(kSlot) unsigned char slots[2][32][kSlot];
};

struct Machine {
    unsigned char *stacks = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned> order;
    // Those of the running warp that have yet to have their turn: from here to there in `order`.
    unsigned next = 0, end = 0;
    unsigned char *shared = nullptr;
    Context scheduler;
    Fiber *running = nullptr;
    Entry entry = nullptr;
    void **args = nullptr;
    // Threads of the block that have waited for the launch before.
    unsigned waited = 0;
    std::string error;
};
// The state of this thread's device, behind a pointer, so that reading it asks nothing about its construction.
__thread Machine *machine;

struct Kernel {
    Entry entry = nullptr;
    std::atomic<unsigned long long> launches{0};
};

std::map<std::string, Kernel> &registry() {
    static std::map<std::string, Kernel> all;
    return all;
}

#if defined(__x86_64__)
extern "C" void serin_emulator_switch(void **save, void *to);
asm(R"(
.text
.globl serin_emulator_switch
.type serin_emulator_switch,@function
serin_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size serin_emulator_switch,.-serin_emulator_switch
.section .note.GNU-stack,"",@progbits
.text
)");
#endif

void switch_context(Context &from, Context &to) {
#if defined(__x86_64__)
    serin_emulator_switch(&from, to);
#else
    swapcontext(&from, &to);
#endif
}

// The context of the next thread of the warp that is ready, as the one that runs; else the scheduler's.
Context &take_turn() {
    Machine &m = *machine;
    while (m.next < m.end) {
        Fiber &fiber = m.fibers[m.order[m.next++]];
        if (fiber.state != State::kReady) continue;
        place.thread = fiber.thread;
        m.running = &fiber;
        races::resume(fiber.index);
        return fiber.context;
    }
    return m.scheduler;
}

// Lets others of the warp have their turn, until this thread is ready again and has its own.
void yield() {
    Fiber &left = *machine->running;
    switch_context(left.context, take_turn());
}

void body() {
    Machine &m = *machine;
    m.entry(m.args);
    m.running->state = State::kDone;
    yield();
    std::abort();
}

void prepare(Fiber &fiber, unsigned index) {
    unsigned char *stack = machine->stacks + size_t(index) * kStride;
#if defined(__x86_64__)
    void **top = reinterpret_cast<void **>(stack + kStack);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void *>(&body);
    for (int i = 3; i <= 8; i++) top[-i] = nullptr;
    fiber.context = top - 8;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
#endif
    fiber.state = State::kReady;
    fiber.turn = 0;
    fiber.index = index;
    Dim size = place.block_size;
    fiber.thread = {index % size.x, index / size.x % size.y, index / (size.x * size.y)};
    fiber.loose.clear();
    fiber.groups.clear();
}

// Lets those lanes of a warp go on that have all come. Returns whether any did.
bool release_warp(unsigned base, unsigned threads) {
    Machine &m = *machine;
    bool any = false;
    unsigned width = threads - base < 32 ? threads - base : 32;
    for (unsigned lane = 0; lane < width; lane++) {
        Fiber &first = m.fibers[base + lane];
        if (first.state != State::kAtWarp) continue;
        unsigned mask = width == 32 ? first.mask : first.mask & ((1u << width) - 1);
        bool all = true;
        for (unsigned i = 0; i < width && all; i++) {
            if (!(mask >> i & 1)) continue;
            Fiber &other = m.fibers[base + i];
            if (other.state == State::kDone) {
                m.error = "a warp collective names a lane that has left the kernel";
                return false;
            }
            all = other.state == State::kAtWarp && other.mask == first.mask;
        }
        if (!all) continue;
        for (unsigned i = 0; i < width; i++)
            if (mask >> i & 1) m.fibers[base + i].state = State::kReady;
        if (first.barrier) races::warp_met(base, mask);
        any = true;
    }
    return any;
}

bool release_block(unsigned threads) {
    Machine &m = *machine;
    bool waiting = false;
    for (unsigned i = 0; i < threads; i++) {
        State state = m.fibers[i].state;
        if (state == State::kReady || state == State::kAtWarp) return false;
        waiting |= state == State::kAtBlock;
    }
    for (unsigned i = 0; i < threads; i++) {
        if (m.fibers[i].state == State::kAtBlock) m.fibers[i].state = State::kReady;
    }
    if (waiting) races::block_met();
    return waiting;
}

void shuffle(unsigned *from, unsigned count, unsigned long long &state) {
    for (unsigned i = count; i > 1; i--) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(from[i - 1], from[unsigned(state >> 33) % i]);
    }
}

// 0: by index, 1: from the last to the first, others: warps and the lanes of each shuffled by that seed. Threads
// of a warp stand side by side.
void arrange(unsigned threads, unsigned long long how) {
    auto &order = machine->order;
    unsigned long long state = how * 0x9e3779b97f4a7c15ull;
    std::vector<unsigned> warps((threads + 31) / 32);
    for (unsigned w = 0; w < warps.size(); w++) warps[w] = w;
    if (how > 1) shuffle(warps.data(), unsigned(warps.size()), state);
    order.clear();
    for (unsigned w : warps) {
        size_t first = order.size();
        for (unsigned i = w * 32; i < threads && i < w * 32 + 32; i++) order.push_back(i);
        if (how > 1) shuffle(&order[first], unsigned(order.size() - first), state);
    }
    if (how == 1) std::reverse(order.begin(), order.end());
}

// Runs the threads of one warp, at `order[from]` and behind, until all of them wait for the block or are done.
// So one warp is as far ahead of another as the kernel's barriers let it be. Returns whether any ran.
bool run_warp(unsigned from, unsigned threads) {
    Machine &m = *machine;
    unsigned base = m.order[from] / 32 * 32, end = from;
    while (end < threads && m.order[end] / 32 * 32 == base) end++;
    bool any = false;
    for (;;) {
        m.next = from, m.end = end;
        Context &first = take_turn();
        bool ran = &first != &m.scheduler;
        if (ran) switch_context(m.scheduler, first);
        if (!m.error.empty()) return false;
        any |= ran;
        if (!release_warp(base, threads) && !ran) return any;
        if (!m.error.empty()) return false;
    }
}

bool run_block(unsigned threads, size_t shared) {
    Machine &m = *machine;
    std::memset(m.shared, kPoison, shared);
    std::memset(m.shared + shared, kFence, kGuard);
    m.waited = 0;
    for (unsigned i = 0; i < threads; i++) prepare(m.fibers[i], i);
    for (;;) {
        bool moved = false, done = true;
        for (unsigned at = 0; at < threads; at++) {
            if (at == 0 || m.order[at] / 32 != m.order[at - 1] / 32) moved |= run_warp(at, threads);
            if (!m.error.empty()) return false;
        }
        for (unsigned i = 0; i < threads; i++) done &= m.fibers[i].state == State::kDone;
        if (done) break;
        moved |= release_block(threads);
        if (!moved) {
            m.error = "deadlock: threads of a block wait at different barriers or collectives";
            return false;
        }
    }
    if (m.waited != threads) {
        m.error = "the kernel does not begin by waiting for the launch before it";
        return false;
    }
    for (size_t i = 0; i < kGuard; i++) {
        if (m.shared[shared + i] != kFence) {
            m.error = "the kernel wrote beyond its shared memory";
            return false;
        }
    }
    return true;
}

// In the order x, y, z, or from the last block to the first.
bool run_grid(unsigned threads, size_t shared, bool backwards) {
    Dim grid = place.grid;
    unsigned count = grid.x * grid.y * grid.z;
    for (unsigned i = 0; i < count; i++) {
        unsigned index = backwards ? count - 1 - i : i;
        place.block = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
        races::begin_block(index, machine->shared, shared, kMostShared + kGuard);
        if (!run_block(threads, shared)) return false;
        races::end_block();
    }
    return true;
}

void ready_machine() {
    static thread_local Machine own;
    machine = &own;
    Machine &m = own;
    if (m.stacks) return;
    size_t bytes = kStride * kMostThreads;
    void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    m.stacks = static_cast<unsigned char *>(at);
    m.fibers.resize(kMostThreads);
    m.warps.resize(kMostThreads / 32);
    m.shared = static_cast<unsigned char *>(std::aligned_alloc(1024, (kMostShared + kGuard + 1023) / 1024 * 1024));
}

} // namespace

Registrar::Registrar(const char *name, Entry entry) { registry()[name].entry = entry; }

void fail(const char *what) {
    machine->error = what;
    machine->next = machine->end;
    yield();
    std::abort();
}

static uint64_t bits_of(double v) {
    uint64_t bits;
    std::memcpy(&bits, &v, 8);
    return bits;
}

// 2 to the power of what a double's exponent field means.
static double power(int field) {
    uint64_t bits = uint64_t(field) << 52;
    double v;
    std::memcpy(&v, &bits, 8);
    return v;
}

// To a float, towards zero.
static float cut_off(double v) {
    float rounded = float(v);
    return std::fabs(double(rounded)) > std::fabs(v) ? __uint_as_float(__float_as_uint(rounded) - 1) : rounded;
}

// Tensor cores align all addends with the largest and cut off what lies below its last bits, one or two of them
// kept beyond a float's 24 (Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021). Here one is.
float tensor_sum(float c, const float x[16], const float y[16]) {
    double addends[17], sum = 0;
    addends[16] = c;
    for (int k = 0; k < 16; k++) addends[k] = double(x[k]) * double(y[k]);
    if (!truncating) {
        for (int k = 0; k < 16; k++) sum += addends[k];
        return float(addends[16] + sum);
    }
    // Products of floats are far from a double's denormals and from its largest: without their sign, bits are in the
    // order of the numbers.
    uint64_t largest = 0;
    for (double addend : addends) largest = std::max(largest, bits_of(addend) << 1 >> 1);
    int field = int(largest >> 52);
    if (field == 0) return 0;
    if (field == 0x7ff) {
        for (double addend : addends) sum += addend;
        return float(sum);
    }
    const double up = power(1023 + 24 - (field - 1023)), down = power(1023 - 24 + (field - 1023));
    int64_t units = 0;
    for (double addend : addends) units += int64_t(addend * up);
    return cut_off(double(units) * down);
}

unsigned lane() { return machine->running->index % 32; }

unsigned char *shared_memory() { return machine->shared; }

void wait_for_previous() {
    machine->waited++;
    races::waited();
}

void block_barrier() {
    machine->running->state = State::kAtBlock;
    yield();
}

const unsigned char *warp_gather(unsigned mask, const void *mine, size_t bytes, bool barrier) {
    Fiber &fiber = *machine->running;
    auto &slots = machine->warps[fiber.index / 32].slots[fiber.turn++ & 1];
    unsigned own = fiber.index % 32;
    if (bytes > kSlot) fail("a collective of more than 64 bytes per lane");
    if (!(mask >> own & 1)) fail("a lane calls a collective whose mask does not name it");
    std::memcpy(slots[own], mine, bytes);
    fiber.state = State::kAtWarp;
    fiber.mask = mask;
    fiber.barrier = barrier;
    yield();
    return slots[0];
}

void copy_later(void *to, const void *from, size_t bytes, size_t valid) {
    races::copy_begun(to, from, bytes, valid, EMU_SITE);
    machine->running->loose.push_back({to, from, bytes, valid});
}

void commit_copies() {
    Fiber &fiber = *machine->running;
    fiber.groups.push_back(std::move(fiber.loose));
    fiber.loose.clear();
}

void wait_copies(int groups_left) {
    auto &groups = machine->running->groups;
    while (groups.size() > size_t(groups_left)) {
        for (const Copy &c : groups.front()) {
            std::memcpy(c.to, c.from, c.valid);
            std::memset(static_cast<unsigned char *>(c.to) + c.valid, 0, c.bytes - c.valid);
            races::copy_arrived(c.to, c.bytes);
        }
        groups.erase(groups.begin());
    }
}

} // namespace emu

// Whether there is a kernel of this name.
extern "C" int serin_emulator_knows(const char *name) { return emu::registry().count(name) != 0; }

// Runs a kernel by name. `args[i]` points to its i-th argument. Returns 0, or -1 with `error` filled.
extern "C" int serin_emulator_launch(const char *name, const unsigned *blocks, const unsigned *threads,
                                     size_t shared, void **args, unsigned long long order, char *error,
                                     size_t room) {
    using namespace emu;
    auto say = [&](const std::string &what) {
        std::snprintf(error, room, "%s", what.c_str());
        return -1;
    };
    auto found = registry().find(name);
    if (found == registry().end()) return say("there is no such kernel");
    unsigned count = threads[0] * threads[1] * threads[2];
    if (count == 0 || count > kMostThreads) return say("a block has 1 to 1024 threads");
    if (shared > kMostShared) return say("a block has at most 227 KiB of shared memory");
    if (blocks[0] == 0 || blocks[1] == 0 || blocks[2] == 0) return say("the grid is empty");
    found->second.launches++;
    ready_machine();
    Machine &m = *machine;
    m.entry = found->second.entry;
    m.args = args;
    m.error.clear();
    place.grid = {blocks[0], blocks[1], blocks[2]};
    place.block_size = {threads[0], threads[1], threads[2]};
    truncating = order & kTruncate;
    arrange(count, order & ~(kTruncate | kBackwards));
    races::begin_launch(name, {m.stacks, kStride * kMostThreads, &place, sizeof place}, blocks, threads);
    bool done = run_grid(count, shared, order & kBackwards);
    races::end_launch();
    return done ? 0 : say(m.error);
}

// What the host does to memory that kernels use: see emu::races::Memory. Only a checked build listens.
extern "C" void serin_emulator_memory(int what, uintptr_t at, size_t bytes) {
    emu::races::memory(emu::races::Memory(what), at, bytes);
}

// How often this process has launched a kernel: tests ask which of several ways was taken.
extern "C" unsigned long long serin_emulator_launches(const char *name) {
    auto found = emu::registry().find(name);
    return found == emu::registry().end() ? 0 : found->second.launches.load();
}
