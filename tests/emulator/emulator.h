// CUDA's execution model on a processor, as far as the kernels use it: blocks one after the other, the threads of a block
// as fibers that switch at barriers and shuffles.
//
// What it finds: wrong numbers, barriers that not all threads reach (reported as such, instead of a hang), missing
// barriers (threads run in an order that changes from launch to launch), misaligned and badly strided tensor core
// operands, reads of memory that nobody wrote (fresh memory holds NaN), and accesses behind an allocation (guard pages).
// What it says nothing of: speed, and whether a real device's compiler and driver do as they should.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __device__
#define __global__
#define __shared__ static
#define __align__(N) __attribute__((aligned(N)))
#define __launch_bounds__(...)

struct Dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct float2 {
    float x, y;
};

using std::max;
using std::min;

// Of the thread that runs now; set by the scheduler.
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
enum class Waits { NOTHING, WARP, FIRST, BLOCK };
// Leaves this thread until all of its warp, or its block, have come as far.
void wait(Waits waits);
// 64 bytes for each thread of a warp that travel in its next collective operation.
char* outbox();
const char* inbox(int lane);
// Scratch of the warp, for matrix products.
float* scratch();
[[noreturn]] void fail(const char* what);
// Leaves this thread until the first `count` of its block have come as far.
void wait_for_first(unsigned count);

template <class V> V exchanged(V v, int from) {
    static_assert(sizeof(V) <= 8);
    std::memcpy(outbox(), &v, sizeof v);
    wait(Waits::WARP);
    std::memcpy(&v, inbox(from), sizeof v);
    return v;
}
}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::Waits::BLOCK); }
inline void __syncwarp() { emulator::wait(emulator::Waits::WARP); }
template <int COUNT> void wait_for_first() { emulator::wait_for_first(COUNT); }
template <class V> V __shfl_xor_sync(unsigned, V v, int mask) { return emulator::exchanged(v, int(threadIdx.x % 32) ^ mask); }
template <class V> V __shfl_sync(unsigned, V v, int from) { return emulator::exchanged(v, from & 31); }
template <class V> V __shfl_up_sync(unsigned, V v, int by) {
    int lane = int(threadIdx.x % 32);
    return emulator::exchanged(v, lane < by ? lane : lane - by);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    unsigned mine = vote;
    std::memcpy(emulator::outbox(), &mine, sizeof mine);
    emulator::wait(emulator::Waits::WARP);
    unsigned all = 0;
    for (int lane = 0; lane < 32; lane++) {
        unsigned theirs;
        std::memcpy(&theirs, emulator::inbox(lane), sizeof theirs);
        all |= theirs << lane;
    }
    return all;
}
inline int __ffs(unsigned v) { return __builtin_ffs(int(v)); }
inline int __clz(unsigned v) { return v == 0 ? 32 : __builtin_clz(v); }

// Copied at once: that somebody reads before the wait is not found here.
inline void copy_later(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) emulator::fail("a copy of 16 bytes is not aligned to them");
    std::memcpy(to, from, 16);
}
inline void end_of_copies() {}
template <int N> void wait_for_copies() {}

inline uint4 streamed(const uint4* from) {
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulator::fail("a load of 16 bytes is not aligned to them");
    return *from;
}

struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 v) {
    uint32_t bits = uint32_t(v.bits) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (std::isnan(f)) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

namespace nvcuda::wmma {
struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major, mem_col_major };

// Which element a thread holds where is nobody's business, so here it is the simplest way.
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static_assert(M == 16 && N == 16 && K == 16);
    T x[8];
};

template <class T> void check(const T* at, unsigned stride) {
    if (reinterpret_cast<uintptr_t>(at) % 32 != 0) emulator::fail("a matrix operand is not aligned to 32 bytes");
    if (stride * sizeof(T) % 16 != 0) emulator::fail("the stride of a matrix operand is not a multiple of 16 bytes");
}

inline int element(int i) { return int(threadIdx.x % 32) + 32 * i; }

template <class F> void fill_fragment(F& f, float v) {
    for (auto& x : f.x) x = v;
}
template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& f, const T* from, unsigned stride) {
    check(from, stride);
    for (int i = 0; i < 8; i++) {
        int row = element(i) / 16, column = element(i) % 16;
        f.x[i] = std::is_same_v<Layout, row_major> ? from[row * stride + column] : from[column * stride + row];
    }
}
inline void load_matrix_sync(fragment<accumulator, 16, 16, 16, float>& f, const float* from, unsigned stride, layout_t) {
    check(from, stride);
    for (int i = 0; i < 8; i++) f.x[i] = from[element(i) / 16 * stride + element(i) % 16];
}
inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& f, unsigned stride, layout_t) {
    check(to, stride);
    for (int i = 0; i < 8; i++) to[element(i) / 16 * stride + element(i) % 16] = f.x[i];
}
template <class D, class A, class B> void mma_sync(D& d, const A& a, const B& b, const D& c) {
    float *left = emulator::scratch(), *right = left + 256;
    for (int i = 0; i < 8; i++) {
        left[element(i)] = __bfloat162float(a.x[i]);
        right[element(i)] = __bfloat162float(b.x[i]);
    }
    __syncwarp();
    for (int i = 0; i < 8; i++) {
        int row = element(i) / 16, column = element(i) % 16;
        float sum = c.x[i];
        for (int k = 0; k < 16; k++) sum += left[row * 16 + k] * right[k * 16 + column];
        d.x[i] = sum;
    }
    __syncwarp();
}
}  // namespace nvcuda::wmma

// PTX's ldmatrix.x4: thread i gives row i % 8 of matrix i / 8 and gets two values of each, of a row or, transposed, of a
// column.
inline void load_matrices(uint32_t (&to)[4], const __nv_bfloat16* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("a row of a matrix is not aligned to 16 bytes");
    int g = int(threadIdx.x % 32) / 4, q = int(threadIdx.x % 32) % 4;
    for (int i = 0; i < 4; i++) std::memcpy(&to[i], emulator::exchanged(row, 8 * i + g) + 2 * q, 4);
}
inline void load_transposed(uint32_t (&to)[4], const __nv_bfloat16* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("a row of a matrix is not aligned to 16 bytes");
    int g = int(threadIdx.x % 32) / 4, q = int(threadIdx.x % 32) % 4;
    for (int i = 0; i < 4; i++) {
        uint32_t low = emulator::exchanged(row, 8 * i + 2 * q)[g].bits, high = emulator::exchanged(row, 8 * i + 2 * q + 1)[g].bits;
        to[i] = low | high << 16;
    }
}

// PTX's mma.m16n8k16: thread 4 g + q of a warp holds of a rows g and g + 8, of b column g, in columns and rows 2 q, 2 q + 1
// and those eight further on; of the sums rows g and g + 8, columns 2 q and 2 q + 1.
inline void mma(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    float *left = emulator::scratch(), *right = left + 256;
    int g = int(threadIdx.x % 32) / 4, q = int(threadIdx.x % 32) % 4;
    auto half = [](uint32_t bits, int i) { return __bfloat162float({uint16_t(i ? bits >> 16 : bits)}); };
    for (int i = 0; i < 2; i++) {
        left[g * 16 + 2 * q + i] = half(a0, i);
        left[(g + 8) * 16 + 2 * q + i] = half(a1, i);
        left[g * 16 + 2 * q + 8 + i] = half(a2, i);
        left[(g + 8) * 16 + 2 * q + 8 + i] = half(a3, i);
        right[(2 * q + i) * 8 + g] = half(b0, i);
        right[(2 * q + 8 + i) * 8 + g] = half(b1, i);
    }
    __syncwarp();
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, column = 2 * q + i % 2;
        for (int k = 0; k < 16; k++) sums[i] += left[row * 16 + k] * right[k * 8 + column];
    }
    __syncwarp();
}
