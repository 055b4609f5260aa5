// A driver without a device: what libcuda exports, as far as the engine calls it, over the emulation of emulator.h.
#include "kernels.cu"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

Dim3 threadIdx, blockIdx, blockDim, gridDim;

#ifndef __x86_64__
#error "the emulator switches stacks in x86-64 instructions"
#endif
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
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
)");

namespace emulator {
namespace {
constexpr size_t STACK = 128 << 10;

struct Fiber {
    std::unique_ptr<char[]> memory{new char[STACK]};
    void* stack = nullptr;
    Waits waits = Waits::NOTHING;
    bool ended = false;
    int round = 0;  // which of the two boxes its next collective operation uses
    alignas(16) char box[2][8];
};

std::vector<Fiber> fibers;
std::vector<std::vector<float>> scratches;
void* scheduler;
size_t running;
const std::function<void()>* body;
const char* kernel = "";
unsigned launches;
size_t firsts;  // how many threads the barrier of the first ones is for

void enter() {
    (*body)();
    fibers[running].ended = true;
    void* nowhere;
    emulator_switch(&nowhere, scheduler);
}

void resume(size_t i) {
    running = i;
    threadIdx = {unsigned(i), 0, 0};
    emulator_switch(&scheduler, fibers[i].stack);
}

// Runs a warp until each of its threads has ended, or waits for others than those of its warp.
void run_warp(const std::vector<size_t>& warp) {
    for (;;) {
        size_t alive = 0, waiting = 0;
        for (size_t i : warp) {
            if (!fibers[i].ended && fibers[i].waits == Waits::NOTHING) resume(i);
            alive += !fibers[i].ended;
            waiting += !fibers[i].ended && fibers[i].waits == Waits::WARP;
        }
        if (waiting == 0 || waiting != alive) return;
        if (alive != 32) fail("a warp operation that some of its threads never reach");
        for (size_t i : warp) fibers[i].waits = Waits::NOTHING;
    }
}

void run_block(size_t threads, const std::vector<std::vector<size_t>>& warps) {
    for (size_t i = 0; i < threads; i++) {
        Fiber& f = fibers[i];
        f.waits = Waits::NOTHING;
        f.ended = false;
        f.round = 0;
        auto top = reinterpret_cast<uintptr_t>(f.memory.get() + STACK) & ~uintptr_t(15);
        void** at = reinterpret_cast<void**>(top);
        *--at = nullptr;
        *--at = reinterpret_cast<void*>(enter);
        for (int r = 0; r < 6; r++) *--at = nullptr;
        f.stack = at;
    }
    for (;;) {
        for (const auto& warp : warps) run_warp(warp);
        size_t alive = 0, at_block = 0, at_first = 0;
        for (size_t i = 0; i < threads; i++) {
            alive += !fibers[i].ended;
            at_block += !fibers[i].ended && fibers[i].waits == Waits::BLOCK;
            at_first += !fibers[i].ended && fibers[i].waits == Waits::FIRST;
        }
        if (alive == 0) return;
        if (at_first > 0 && at_first == firsts) {
            for (size_t i = 0; i < firsts; i++) {
                if (fibers[i].waits != Waits::FIRST) fail("a barrier of other threads than the first");
                fibers[i].waits = Waits::NOTHING;
            }
            continue;
        }
        if (at_block != alive || alive != threads) fail("a barrier that some threads never reach");
        for (size_t i = 0; i < threads; i++) fibers[i].waits = Waits::NOTHING;
    }
}
}  // namespace

void wait(Waits waits) {
    Fiber& f = fibers[running];
    f.waits = waits;
    emulator_switch(&f.stack, scheduler);
}
void wait_for_first(unsigned count) {
    firsts = count;
    wait(Waits::FIRST);
}
// The box stays untouched until the operation after the next one, by when everybody has read it.
char* outbox() {
    Fiber& f = fibers[running];
    f.round ^= 1;
    return f.box[f.round];
}
const char* inbox(int lane) { return fibers[running / 32 * 32 + lane].box[fibers[running].round]; }
float* scratch() { return scratches[running / 32].data(); }
void fail(const char* what) {
    std::fprintf(stderr, "emulator: kernel %s, block (%u, %u), thread %u: %s\n", kernel, blockIdx.x, blockIdx.y, threadIdx.x, what);
    std::fflush(stderr);
    std::abort();
}

void launch(const char* name, Dim3 grid, Dim3 block, const std::function<void()>& thread) {
    size_t threads = block.x;
    kernel = name;
    if (threads % 32 != 0 || threads == 0 || threads > 1024 || block.y * block.z != 1) fail("a block of threads that are no whole warps");
    while (fibers.size() < threads) fibers.emplace_back();
    scratches.resize(32, std::vector<float>(512));
    body = &thread;
    blockDim = block;
    gridDim = grid;
    // Forwards, backwards, and odd ones first: threads that depend on each other without a barrier give another result.
    std::vector<std::vector<size_t>> warps(threads / 32, std::vector<size_t>(32));
    auto place = [](size_t i, size_t count) { return launches % 3 == 0 ? i : launches % 3 == 1 ? count - 1 - i : i < count / 2 ? 2 * i + 1 : 2 * (i - count / 2); };
    for (size_t w = 0; w < threads / 32; w++)
        for (size_t lane = 0; lane < 32; lane++) warps[w][lane] = 32 * place(w, threads / 32) + place(lane, 32);
    launches++;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = {x, y, 0};
            run_block(threads, warps);
        }
}

// The work of a stream: done at once, or kept where it is being captured.
typedef std::vector<std::function<void()>> Graph;
Graph* capturing;
void enqueue(std::function<void()> work) {
    if (capturing) capturing->push_back(std::move(work));
    else work();
}
}  // namespace emulator

// For the emulated cuBLAS.
extern "C" __attribute__((visibility("default"))) void emulator_enqueue(void (*work)(void*), void* argument, void (*drop)(void*)) {
    std::shared_ptr<void> held(argument, drop);
    emulator::enqueue([=] { work(held.get()); });
}

namespace {
enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500 };

typedef std::function<void(Dim3, Dim3, void**)> Launcher;

template <class... A> Launcher launcher(const char* name, void (*kernel)(A...)) {
    return [=](Dim3 grid, Dim3 block, void** parameters) {
        // Arguments are taken when the kernel is launched, not when it runs.
        std::tuple<A...> arguments;
        size_t i = 0;
        std::apply([&](A&... each) { (std::memcpy(&each, parameters[i++], sizeof each), ...); }, arguments);
        emulator::enqueue([=] { emulator::launch(name, grid, block, [=] { std::apply(kernel, arguments); }); });
    };
}

#define KERNEL(NAME) {#NAME, launcher(#NAME, NAME)},
#define OF_FORMAT(T, F)                                                                                                \
    KERNEL(embed_##F) KERNEL(rms_norm_##F) KERNEL(rms_norm_backward_##F) KERNEL(rotate_##F)                            \
    KERNEL(rotate_backward_##F) KERNEL(swiglu_##F) KERNEL(swiglu_backward_##F) KERNEL(place_##F) KERNEL(move_##F) KERNEL(slopes_##F) KERNEL(slopes_within_##F)     \
    KERNEL(attend_delta_##F) OF_WIDTH(F, 64) OF_WIDTH(F, 128)
#define OF_WIDTH(F, D)                                                                                                 \
    KERNEL(attend_tree_##D##_##F) KERNEL(attend_one_##D##_##F) KERNEL(attend_backward_queries_##D##_##F)               \
    KERNEL(attend_backward_keys_##D##_##F)
#define OF_ROWS(K) KERNEL(row_##K##_1) KERNEL(row_##K##_2) KERNEL(row_##K##_4)
#define OF_KIND(K) KERNEL(few_##K##_1_1) KERNEL(few_##K##_1_2) KERNEL(few_##K##_2_1) KERNEL(few_##K##_2_2)
const std::map<std::string, Launcher>& kernels() {
    static const std::map<std::string, Launcher> all = {FOR_BOTH(OF_FORMAT) KERNEL(gather_sums_f32) KERNEL(statistics_f32)
                                                            KERNEL(statistics_within_f32) KERNEL(sample_f32) KERNEL(sample_within_f32) KERNEL(squares_f32) KERNEL(adamw_f32)
                                                                OF_KIND(round) OF_KIND(store) OF_KIND(add)
                                                                    OF_ROWS(round) OF_ROWS(store) OF_ROWS(add) OF_ROWS(swiglu) KERNEL(few_swiglu_2_1) KERNEL(few_swiglu_2_2)
                                                                        KERNEL(attend_chunk_64_4) KERNEL(attend_chunk_64_8) KERNEL(attend_chunk_128_4) KERNEL(attend_chunk_128_8) KERNEL(sum_keys_64_bf16) KERNEL(sum_keys_128_bf16) KERNEL(attend_step_64_4) KERNEL(attend_step_64_8)
                                                                            KERNEL(attend_step_128_4) KERNEL(attend_step_128_8)};
    return all;
}

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }
size_t used, limit = size_t(2) << 30;
std::map<uint64_t, std::pair<void*, size_t>> allocations;
}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

// How much memory the device has.
extern "C" __attribute__((visibility("default"))) void emulator_limit(size_t mib) { limit = mib << 20; }

API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID_DEVICE; }
API cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, size_t(length), "emulator"), SUCCESS; }
API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = limit, SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 9.0; few multiprocessors, so that blocks go on to further work; no memory pools.
    return *value = attribute == 75 ? 9 : attribute == 16 ? 2 : 0, SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = &used, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
static thread_local void* current;
API cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
API cuCtxSetCurrent(void* context) { return current = context, SUCCESS; }
API cuCtxSynchronize() { return SUCCESS; }
API cuStreamCreate(void** stream, unsigned) { return *stream = &used, SUCCESS; }
API cuStreamDestroy_v2(void*) { return SUCCESS; }
API cuStreamSynchronize(void*) { return SUCCESS; }
API cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = limit - used, *total = limit, SUCCESS; }
API cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    if (used + bytes > limit) return OUT_OF_MEMORY;
    size_t rounded = (bytes + page() - 1) / page() * page();
    void* base = mmap(nullptr, rounded + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(static_cast<char*>(base) + rounded, page(), PROT_NONE);
    // Not a number in every format, until somebody writes it.
    std::memset(base, 0xff, rounded);
    *at = reinterpret_cast<uint64_t>(base) + (rounded - bytes) / 256 * 256;
    allocations[*at] = {base, bytes};
    used += bytes;
    return SUCCESS;
}
API cuMemFree_v2(uint64_t at) {
    auto found = allocations.find(at);
    if (found == allocations.end()) return INVALID_VALUE;
    auto [base, bytes] = found->second;
    munmap(base, (bytes + page() - 1) / page() * page() + page());
    used -= bytes;
    allocations.erase(found);
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) { return std::memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS; }
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) { return std::memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS; }
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    emulator::enqueue([=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
    return SUCCESS;
}
API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void*) {
    emulator::enqueue([=] { std::memset(reinterpret_cast<void*>(to), value, bytes); });
    return SUCCESS;
}
API cuModuleLoadData(void** module, const void*) { return *module = &used, SUCCESS; }
API cuModuleUnload(void*) { return SUCCESS; }
API cuModuleGetFunction(const void** function, void*, const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? NOT_FOUND : (*function = &found->second, SUCCESS);
}
API cuLaunchKernel(const void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void*, void** parameters, void** extra) {
    if (gx == 0 || gy == 0 || gz != 1 || gy > 65535 || shared != 0 || extra) return INVALID_VALUE;
    (*static_cast<const Launcher*>(function))({gx, gy, gz}, {bx, by, bz}, parameters);
    return SUCCESS;
}
// As the driver's header has them.
struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared;
    void* stream;
    void* attributes;
    unsigned count;
};
API cuLaunchKernelEx(const LaunchConfig* c, const void* function, void** parameters, void** extra) {
    return cuLaunchKernel(function, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, parameters, extra);
}
API cuEventCreate(void** event, unsigned) { return *event = &used, SUCCESS; }
API cuEventRecord(void*, void*) { return SUCCESS; }
API cuEventElapsedTime_v2(float* milliseconds, void*, void*) { return *milliseconds = 1, SUCCESS; }
API cuEventDestroy_v2(void*) { return SUCCESS; }
API cuEventSynchronize(void*) { return SUCCESS; }
API cuMemHostAlloc(void** at, size_t bytes, unsigned) { return *at = std::malloc(bytes), *at ? SUCCESS : OUT_OF_MEMORY; }
API cuMemFreeHost(void* at) { return std::free(at), SUCCESS; }
API cuStreamBeginCapture_v2(void*, int) { return emulator::capturing = new emulator::Graph, SUCCESS; }
API cuStreamEndCapture(void*, void** graph) { return *graph = emulator::capturing, emulator::capturing = nullptr, SUCCESS; }
API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return *executable = new emulator::Graph(*static_cast<emulator::Graph*>(graph)), SUCCESS;
}
API cuGraphLaunch(void* executable, void*) {
    for (auto& work : *static_cast<emulator::Graph*>(executable)) work();
    return SUCCESS;
}
API cuGraphExecDestroy(void* executable) { return delete static_cast<emulator::Graph*>(executable), SUCCESS; }
API cuGraphDestroy(void* graph) { return delete static_cast<emulator::Graph*>(graph), SUCCESS; }
API cuGetErrorName(int error, const char** name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" : error == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
API cuGetErrorString(int error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == INVALID_DEVICE ? "invalid device ordinal" : error == NOT_FOUND ? "named symbol not found" : "invalid argument";
    return SUCCESS;
}
