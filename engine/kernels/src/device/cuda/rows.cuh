// Operations row by row, or value by value: embedding, norms, rotation, activation, conversions.
#pragma once
#include "common.cuh"

// x[row] = table[token of row], and the cosines and sines of the row's position, `half` of them. One block a row.
template <class T>
__device__ void embed(const T* table, const uint32_t* tokens, float* x, int width, const int* positions, const double* frequencies,
                      int half, float2* angles) {
    wait_for_earlier();
    launch_later();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        double angle = double(positions[blockIdx.x]) * frequencies[i];
        angles[size_t(blockIdx.x) * half + i] = {float(cos(angle)), float(sin(angle))};
    }
    const T* from = table + size_t(tokens[blockIdx.x]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) x[size_t(blockIdx.x) * width + i] = number(from[i]);
}

// EACH values that lie one behind the other, four or one: four in one access.
template <int EACH, class T> __device__ inline void get(const T* from, float (&v)[EACH]) {
    if constexpr (EACH == 4) unpacked(from, v);
    else v[0] = number(from[0]);
}

template <int EACH, class T> __device__ inline void put(T* to, const float (&v)[EACH]) {
    if constexpr (EACH == 4) packed(to, v);
    else to[0] = rounded<T>(v[0]);
}

// Values that a thread of a value-by-value kernel has: `each` of them, four or one, in rows of `columns`.
struct Place {
    unsigned row, column;
    __device__ Place(int columns, int each) {
        // 32 bits: a division of 64 takes longer than all the rest.
        unsigned i = blockIdx.x * blockDim.x + threadIdx.x, of_row = unsigned(columns) / each;
        row = i / of_row;
        column = i % of_row * each;
    }
};

constexpr int NORM_WARPS = 4;

// The row that a warp or a block of NORM_WARPS warps normalises, and how its threads go through it: a block, where there are
// too few rows to keep a device busy with a warp each.
struct NormRow {
    int row, first, apart;
    bool together;
    __device__ NormRow(int together, int each)
        : row(together ? blockIdx.x : blockIdx.x * NORM_WARPS + warp()), first((together ? threadIdx.x : lane()) * each),
          apart((together ? 32 * NORM_WARPS : 32) * each), together(together) {}
    __device__ float sum(float v) const { return together ? block_sum(v) : warp_sum(v); }
};

// out = x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467). `rows` names the rows of x to normalise, or is null for all.
template <int EACH, class T>
__device__ void rms_norm(const float* x, const int* rows, const float* weight, T* out, int width, int stride, float eps, int count, int together) {
    NormRow at(together, EACH);
    wait_for_earlier();
    launch_later();
    if (at.row >= count) return;
    x += size_t(rows ? rows[at.row] : at.row) * width;
    out += size_t(at.row) * stride;
    float squares = 0;
#pragma unroll 4
    for (int i = at.first; i < width; i += at.apart) {
        float v[EACH];
        get(x + i, v);
#pragma unroll
        for (int j = 0; j < EACH; j++) squares += v[j] * v[j];
    }
    float inverse = 1.0f / sqrtf(at.sum(squares) / width + eps);
#pragma unroll 4
    for (int i = at.first; i < width; i += at.apart) {
        float v[EACH], w[EACH];
        get(x + i, v);
        get(weight + i, w);
#pragma unroll
        for (int j = 0; j < EACH; j++) v[j] *= inverse * w[j];
        put(out + i, v);
    }
}

// dx += the gradient of x, given that of the result; `as_read`, where it is not null, takes what dx then is. A warp a row.
template <int EACH, class T>
__device__ void rms_norm_backward(const float* x, const float* weight, const T* dy, float* dx, int width, int stride, float eps, T* as_read,
                                  int count) {
    NormRow at(0, EACH);
    if (at.row >= count) return;
    x += size_t(at.row) * width;
    dx += size_t(at.row) * width;
    dy += size_t(at.row) * stride;
    float squares = 0, along = 0;
#pragma unroll 4
    for (int i = at.first; i < width; i += at.apart) {
        float v[EACH], w[EACH], d[EACH];
        get(x + i, v);
        get(weight + i, w);
        get(dy + i, d);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            squares += v[j] * v[j];
            along += d[j] * w[j] * v[j];
        }
    }
    float inverse = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    float back = warp_sum(along) * inverse * inverse * inverse / width;
#pragma unroll 4
    for (int i = at.first; i < width; i += at.apart) {
        float v[EACH], w[EACH], d[EACH], sum[EACH];
        get(x + i, v);
        get(weight + i, w);
        get(dy + i, d);
        get(dx + i, sum);
#pragma unroll
        for (int j = 0; j < EACH; j++) sum[j] += d[j] * w[j] * inverse - v[j] * back;
        put(dx + i, sum);
        if (as_read) put(as_read + size_t(at.row) * width + i, sum);
    }
}

// The heads of a row: queries, then keys, then values.
struct Shape {
    int queries, keys, dim;
};

// Adds the bias, normalises heads where the model does (norms of width dim), and rotates queries and keys by the
// angles of their position: value i with value i + dim/2 (arXiv 2104.09864). `raw` and `qkv` may be the same. Where a cache is given,
// keys and values also go to row `cache_rows[row]` of it, keys first. One block of 128 threads a row, a warp a head.
template <class T>
__device__ void rotate(const T* raw, T* qkv, const float* bias, const float* query_norm, const float* key_norm,
                       const float2* angles, Shape heads, float eps, T* cache, const int* cache_rows) {
    int dim = heads.dim, half = dim / 2, all = heads.queries + 2 * heads.keys;
    angles += size_t(blockIdx.x) * half;
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
            float a = value ? low : low * angles[i].x - high * angles[i].y;
            float b = value ? high : high * angles[i].x + low * angles[i].y;
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
                                const float2* angles, Shape heads, float eps) {
    int dim = heads.dim, half = dim / 2, all = heads.queries + 2 * heads.keys;
    angles += size_t(blockIdx.x) * half;
    for (int head = warp(); head < heads.queries + heads.keys; head += blockDim.x / 32) {
        size_t at = size_t(blockIdx.x) * all * dim + size_t(head) * dim;
        for (int i = lane(); i < half; i += 32) {
            float c = angles[i].x, s = angles[i].y;
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

// out = silu(gate) * up (arXiv 2002.05202), where a row of `gate_up` has all gates before all ups.
template <int EACH, class T> __device__ void swiglu(const T* gate_up, T* out, int wide, int stride, int rows) {
    Place at(wide, EACH);
    if (at.row >= unsigned(rows)) return;
    gate_up += size_t(at.row) * 2 * wide + at.column;
    float gate[EACH], up[EACH];
    get(gate_up, gate);
    get(gate_up + wide, up);
#pragma unroll
    for (int j = 0; j < EACH; j++) gate[j] = gate[j] / (1.0f + expf(-gate[j])) * up[j];
    put(out + size_t(at.row) * stride + at.column, gate);
}

// The gradients of gates and ups.
template <int EACH, class T>
__device__ void swiglu_backward(const T* gate_up, const T* dout, T* dgate_up, int wide, int stride, int rows) {
    Place at(wide, EACH);
    if (at.row >= unsigned(rows)) return;
    size_t place = size_t(at.row) * 2 * wide + at.column;
    float gate[EACH], up[EACH], d[EACH];
    get(gate_up + place, gate);
    get(gate_up + place + wide, up);
    get(dout + size_t(at.row) * stride + at.column, d);
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        float sigmoid = 1.0f / (1.0f + expf(-gate[j])), of_up = d[j] * gate[j] * sigmoid;
        gate[j] = d[j] * up[j] * sigmoid * (1.0f + gate[j] * (1.0f - sigmoid));
        up[j] = of_up;
    }
    put(dgate_up + place, gate);
    put(dgate_up + place + wide, up);
}

// to[row][column] = factor * from[row][column], rows of different strides.
template <int EACH, class T>
__device__ void place(const float* from, T* to, int rows, int columns, int from_stride, int to_stride, float factor) {
    Place at(columns, EACH);
    if (at.row >= unsigned(rows)) return;
    float v[EACH];
    get(from + size_t(at.row) * from_stride + at.column, v);
#pragma unroll
    for (int j = 0; j < EACH; j++) v[j] *= factor;
    put(to + size_t(at.row) * to_stride + at.column, v);
}

// to[row][column] = from[row][column], rows of different strides.
template <int EACH, class T> __device__ void move(const T* from, T* to, int rows, int columns, int from_stride, int to_stride) {
    Place at(columns, EACH);
    if (at.row >= unsigned(rows)) return;
    float v[EACH];
    get(from + size_t(at.row) * from_stride + at.column, v);
    put(to + size_t(at.row) * to_stride + at.column, v);
}

// to[targets[i]] = the sum of rows order[offsets[i]..offsets[i + 1]] of `from`, in that order. One block a target.
__device__ inline void gather_sums(const float* from, const int* order, const int* offsets, const int* targets, float* to, int width) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0;
        for (int at = offsets[blockIdx.x]; at < offsets[blockIdx.x + 1]; at++) sum += from[size_t(order[at]) * width + i];
        to[size_t(targets[blockIdx.x]) * width + i] = sum;
    }
}
