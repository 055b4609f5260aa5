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

// Each kernel exists for activations in single precision and in bf16; its name ends with which.
#define FOR_BOTH(KERNEL) KERNEL(float, f32) KERNEL(bf16, bf16)
