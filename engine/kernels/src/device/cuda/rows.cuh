// Operations row by row, or value by value: embedding, norms, rotation, activation, conversions.
#pragma once
#include "common.cuh"

// x[row] = table[token of row], and where they are asked for the cosines and sines of the row's position, `half` of them.
// One block a row.
template <class T>
__device__ void embed(const T* table, const uint32_t* tokens, float* x, int width, const int* positions, const double* frequencies,
                      int half, float2* angles) {
    wait_for_earlier();
    launch_later();
    if (angles)
        for (int i = threadIdx.x; i < half; i += blockDim.x) {
            double angle = double(positions[blockIdx.x]) * frequencies[i];
            angles[size_t(blockIdx.x) * half + i] = {float(cos(angle)), float(sin(angle))};
        }
    const T* from = table + size_t(tokens[blockIdx.x]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) x[size_t(blockIdx.x) * width + i] = number(from[i]);
}

// out = x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467). One block a row; `rows` names the rows of x to
// normalise, or is null for all.
template <class T>
__device__ void rms_norm(const float* x, const int* rows, const float* weight, T* out, int width, int stride, float eps) {
    wait_for_earlier();
    launch_later();
    x += size_t(rows ? rows[blockIdx.x] : int(blockIdx.x)) * width;
    out += size_t(blockIdx.x) * stride;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += x[i] * x[i];
    float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[i] = rounded<T>(x[i] * inverse * weight[i]);
}

// dx += the gradient of x, given that of the result. One block a row.
template <class T>
__device__ void rms_norm_backward(const float* x, const float* weight, const T* dy, float* dx, int width, int stride, float eps) {
    x += size_t(blockIdx.x) * width;
    dx += size_t(blockIdx.x) * width;
    dy += size_t(blockIdx.x) * stride;
    float squares = 0, along = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        squares += x[i] * x[i];
        along += number(dy[i]) * weight[i] * x[i];
    }
    float inverse = 1.0f / sqrtf(block_sum(squares) / width + eps);
    float back = block_sum(along) * inverse * inverse * inverse / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) dx[i] += number(dy[i]) * weight[i] * inverse - x[i] * back;
}

// The heads of a row: queries, then keys, then values.
struct Shape {
    int queries, keys, dim;
};

// Adds the bias, normalises heads where the model does (norms of width dim), and rotates queries and keys by their
// position: value i with value i + dim/2 (arXiv 2104.09864). `raw` and `qkv` may be the same. Where a cache is given,
// keys and values also go to row `cache_rows[row]` of it, keys first. One block of 128 threads a row, a warp a head.
template <class T>
__device__ void rotate(const T* raw, T* qkv, const float* bias, const float* query_norm, const float* key_norm,
                       const int* positions, const double* frequencies, Shape heads, float eps, T* cache, const int* cache_rows) {
    __shared__ float cosines[128], sines[128];
    int dim = heads.dim, half = dim / 2, all = heads.queries + 2 * heads.keys;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        double angle = double(positions[blockIdx.x]) * frequencies[i];
        cosines[i] = float(cos(angle));
        sines[i] = float(sin(angle));
    }
    __syncthreads();
    for (int head = warp(); head < all; head += blockDim.x / 32) {
        size_t at = size_t(blockIdx.x) * all * dim + size_t(head) * dim;
        bool value = head >= heads.queries + heads.keys;
        const float* norm = value ? nullptr : head < heads.queries ? query_norm : key_norm;
        float inverse = 1;
        if (norm) {
            float squares = 0;
            for (int i = lane(); i < dim; i += 32) {
                float v = number(raw[at + i]) + (bias ? bias[head * dim + i] : 0.0f);
                squares += v * v;
            }
            inverse = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
        }
        T* kept = nullptr;
        if (cache && head >= heads.queries)
            kept = cache + size_t(cache_rows[blockIdx.x]) * 2 * heads.keys * dim + size_t(head - heads.queries) * dim;
        for (int i = lane(); i < half; i += 32) {
            float low = number(raw[at + i]) + (bias ? bias[head * dim + i] : 0.0f);
            float high = number(raw[at + half + i]) + (bias ? bias[head * dim + half + i] : 0.0f);
            if (norm) {
                low *= inverse * norm[i];
                high *= inverse * norm[half + i];
            }
            float a = value ? low : low * cosines[i] - high * sines[i];
            float b = value ? high : high * cosines[i] + low * sines[i];
            qkv[at + i] = rounded<T>(a);
            qkv[at + half + i] = rounded<T>(b);
            if (kept) {
                kept[i] = rounded<T>(a);
                kept[half + i] = rounded<T>(b);
            }
        }
    }
}

// The gradient through `rotate`, in place. One block of 128 threads a row, a warp a head.
template <class T>
__device__ void rotate_backward(const T* raw, T* dqkv, const float* bias, const float* query_norm, const float* key_norm,
                                const int* positions, const double* frequencies, Shape heads, float eps) {
    int dim = heads.dim, half = dim / 2, all = heads.queries + 2 * heads.keys;
    for (int head = warp(); head < heads.queries + heads.keys; head += blockDim.x / 32) {
        size_t at = size_t(blockIdx.x) * all * dim + size_t(head) * dim;
        for (int i = lane(); i < half; i += 32) {
            double angle = double(positions[blockIdx.x]) * frequencies[i];
            float c = float(cos(angle)), s = float(sin(angle));
            float low = number(dqkv[at + i]), high = number(dqkv[at + half + i]);
            dqkv[at + i] = rounded<T>(low * c + high * s);
            dqkv[at + half + i] = rounded<T>(high * c - low * s);
        }
        const float* norm = head < heads.queries ? query_norm : key_norm;
        if (!norm) continue;
        // What a thread reads below, another may have written above.
        __syncwarp();
        float squares = 0, along = 0;
        for (int i = lane(); i < dim; i += 32) {
            float v = number(raw[at + i]) + (bias ? bias[head * dim + i] : 0.0f);
            squares += v * v;
            along += number(dqkv[at + i]) * norm[i] * v;
        }
        float inverse = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
        float back = warp_sum(along) * inverse * inverse * inverse / dim;
        for (int i = lane(); i < dim; i += 32) {
            float v = number(raw[at + i]) + (bias ? bias[head * dim + i] : 0.0f);
            dqkv[at + i] = rounded<T>(number(dqkv[at + i]) * norm[i] * inverse - v * back);
        }
    }
}

// out = silu(gate) * up (arXiv 2002.05202), where a row of `gate_up` has all gates before all ups. One thread a value.
template <class T> __device__ void swiglu(const T* gate_up, T* out, int wide, int stride, int rows) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * wide) return;
    size_t row = i / wide, column = i % wide;
    float gate = number(gate_up[row * 2 * wide + column]), up = number(gate_up[row * 2 * wide + wide + column]);
    out[row * stride + column] = rounded<T>(gate / (1.0f + expf(-gate)) * up);
}

// The gradients of gates and ups. One thread a value.
template <class T>
__device__ void swiglu_backward(const T* gate_up, const T* dout, T* dgate_up, int wide, int stride, int rows) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * wide) return;
    size_t row = i / wide, column = i % wide, at = row * 2 * wide + column;
    float gate = number(gate_up[at]), up = number(gate_up[at + wide]), d = number(dout[row * stride + column]);
    float sigmoid = 1.0f / (1.0f + expf(-gate));
    dgate_up[at] = rounded<T>(d * up * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
    dgate_up[at + wide] = rounded<T>(d * gate * sigmoid);
}

// to[row][column] = factor * from[row][column], rows of different strides. One thread a value.
template <class T>
__device__ void place(const float* from, T* to, int rows, int columns, int from_stride, int to_stride, float factor) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * columns) return;
    size_t row = i / columns, column = i % columns;
    to[row * to_stride + column] = rounded<T>(factor * from[row * from_stride + column]);
}

// to[row][column] = from[row][column], rows of different strides. One thread a value.
template <class T> __device__ void move(const T* from, T* to, int rows, int columns, int from_stride, int to_stride) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * columns) return;
    size_t row = i / columns, column = i % columns;
    to[row * to_stride + column] = from[row * from_stride + column];
}

// to[targets[i]] = the sum of rows order[offsets[i]..offsets[i + 1]] of `from`, in that order. One block a target.
__device__ inline void gather_sums(const float* from, const int* order, const int* offsets, const int* targets, float* to, int width) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0;
        for (int at = offsets[blockIdx.x]; at < offsets[blockIdx.x + 1]; at++) sum += from[size_t(order[at]) * width + i];
        to[size_t(targets[blockIdx.x]) * width + i] = sum;
    }
}
