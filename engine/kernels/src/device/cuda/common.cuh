// What all kernels share: number formats, sums over warps and blocks.
//
// The same sources compile with nvcc and, for the tests, with a plain C++ compiler against an emulation of the
// execution model (tests/emulator), which defines EMULATED.
#pragma once

#ifdef EMULATED
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <mma.h>
#endif
#include <stdint.h>

typedef __nv_bfloat16 bf16;
namespace wmma = nvcuda::wmma;

__device__ inline float number(float v) { return v; }
__device__ inline float number(bf16 v) { return __bfloat162float(v); }

template <class T> __device__ inline T rounded(float v);
template <> __device__ inline float rounded<float>(float v) { return v; }
template <> __device__ inline bf16 rounded<bf16>(float v) { return __float2bfloat16(v); }

// The number with these bits.
__device__ inline float float_of(uint32_t bits) {
#ifdef EMULATED
    float v;
    memcpy(&v, &bits, 4);
    return v;
#else
    return __uint_as_float(bits);
#endif
}

constexpr unsigned ALL = 0xffffffffu;
constexpr float NOTHING = -3.0e38f;

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }

template <class V> __device__ inline V warp_sum(V v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL, v, offset);
    return v;
}

__device__ inline float warp_max(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, offset));
    return v;
}

// Every thread of the block gets the sum. Threads are a multiple of 32.
template <class V> __device__ inline V block_sum(V v) {
    __shared__ V parts[32];
    v = warp_sum(v);
    __syncthreads();
    if (lane() == 0) parts[warp()] = v;
    __syncthreads();
    return warp_sum(lane() < int(blockDim.x / 32) ? parts[lane()] : V(0));
}

__device__ inline float block_max(float v) {
    __shared__ float parts[32];
    v = warp_max(v);
    __syncthreads();
    if (lane() == 0) parts[warp()] = v;
    __syncthreads();
    return warp_max(lane() < int(blockDim.x / 32) ? parts[lane()] : NOTHING);
}

// Two numbers in bf16, the first in the low bits.
__device__ inline uint32_t pair(float low, float high) {
    bf16 both[2] = {rounded<bf16>(low), rounded<bf16>(high)};
    uint32_t bits;
    memcpy(&bits, both, 4);
    return bits;
}

// Four numbers that lie one behind the other, in one access.
__device__ inline void unpacked(const float* from, float (&v)[4]) {
    float4 four = *reinterpret_cast<const float4*>(from);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}
__device__ inline void unpacked(const bf16* from, float (&v)[4]) {
    uint2 four = *reinterpret_cast<const uint2*>(from);
    v[0] = float_of(four.x << 16), v[1] = float_of(four.x & 0xffff0000u);
    v[2] = float_of(four.y << 16), v[3] = float_of(four.y & 0xffff0000u);
}
__device__ inline void packed(float* to, const float (&v)[4]) { *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]}; }
__device__ inline void packed(bf16* to, const float (&v)[4]) { *reinterpret_cast<uint2*>(to) = {pair(v[0], v[1]), pair(v[2], v[3])}; }

// Eight values of bf16 that lie one behind the other.
__device__ inline void unpack(const uint4& packed, float (&values)[8]) {
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        values[2 * i] = float_of(words[i] << 16);
        values[2 * i + 1] = float_of(words[i] & 0xffff0000u);
    }
}

// A kernel may begin while the one before it ends (programmatic dependent launch): it waits here before it reads what that
// one wrote, or writes what it reads. Nothing on devices, and in launches, that do not have this.
__device__ inline void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next kernel may begin. It stands behind the wait: a kernel that runs then knows that all but the one
// before it have ended.
__device__ inline void launch_later() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

#ifndef EMULATED
// Waits for the first COUNT threads of the block alone.
template <int COUNT> __device__ inline void wait_for_first() { asm volatile("bar.sync 1, %0;" ::"n"(COUNT) : "memory"); }

// A load of what is read once: it takes no room in the caches of multiprocessors.
__device__ inline uint4 streamed(const uint4* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// A copy of sixteen bytes to shared memory, which goes on while the thread does.
__device__ inline void copy_later(void* to, const void* from) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

// Ends a group of such copies.
__device__ inline void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for the thread's own copies, of all groups but the last N.
template <int N> __device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8 x 8 matrices of bf16 in shared memory: thread i gives the address of row i % 8 of matrix i / 8. Thread 4 g + q gets
// columns 2 q and 2 q + 1 of row g of each.
__device__ inline void load_matrices(uint32_t (&to)[4], const bf16* row) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
}

// The same of the transposed matrices.
__device__ inline void load_transposed(uint32_t (&to)[4], const bf16* row) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
}

// sums += a b for a (16 x 16) and b (16 x 8) in bf16, spread over a warp as PTX's mma.m16n8k16 has them.
__device__ inline void mma(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif

// Each kernel exists for activations in single precision and in bf16; its name ends with which.
#define FOR_BOTH(KERNEL) KERNEL(float, f32) KERNEL(bf16, bf16)
