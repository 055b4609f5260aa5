// Attention of a decoding step, for bf16: one new row of each sequence. Rotation, the cache and attention in one kernel.
#pragma once
#include "attention.cuh"
#include "rows.cuh"

constexpr int STEP_THREADS = 256, STEP_WARPS = 8;

// Eight values of bf16 that lie one behind the other.
__device__ inline void unpack(const uint4& packed, float (&values)[8]) {
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        values[2 * i] = float_of(words[i] << 16);
        values[2 * i + 1] = float_of(words[i] & 0xffff0000u);
    }
}

// Bias, norm and rotation of one head by a warp, as `rotate` does it; put(i, v) takes value i of the head.
template <class Put>
__device__ void rotate_head(const bf16* raw, const float* bias, const float* norm, const float2* angles, int dim, float eps, Put put) {
    int half = dim / 2;
    float inverse = 1;
    if (norm) {
        float squares = 0;
        for (int i = lane(); i < dim; i += 32) {
            float v = number(raw[i]) + (bias ? bias[i] : 0.0f);
            squares += v * v;
        }
        inverse = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
    }
    for (int i = lane(); i < half; i += 32) {
        float low = number(raw[i]) + (bias ? bias[i] : 0.0f), high = number(raw[half + i]) + (bias ? bias[half + i] : 0.0f);
        if (norm) {
            low *= inverse * norm[i];
            high *= inverse * norm[half + i];
        }
        float cosine = angles ? angles[i].x : 1.0f, sine = angles ? angles[i].y : 0.0f;
        put(i, rounded<bf16>(low * cosine - high * sine));
        put(half + i, rounded<bf16>(high * cosine + low * sine));
    }
}

// A block is (sequence, key head): up to G query heads share the key head. Its warps take turns at the keys, in which D / 8
// threads read a key, eight values each. Every thread keeps the running maxima, sums and results (arXiv 1805.02867) of the
// keys that it saw; they come together at the end.
template <int D, int G>
__device__ void attend_step(const bf16* raw, const float* bias, const float* query_norm, const float* key_norm, const float2* angles,
                            Shape heads, float eps, float scale, bf16* cache, const int* cache_rows, const Slot* slots, bf16* out,
                            int out_stride) {
    constexpr int LANES = D / 8, KEYS = 32 / LANES, UNROLL = 2, TURN = STEP_WARPS * KEYS * UNROLL;
    __shared__ float query[G][D];
    __shared__ float results[STEP_WARPS][G][D];
    __shared__ float maxima[STEP_WARPS][G], sums[STEP_WARPS][G];
    int dim = heads.dim, group = heads.queries / heads.keys, row = blockIdx.x, key_head = blockIdx.y;
    size_t width = size_t(heads.queries + 2 * heads.keys) * dim, stride = 2 * size_t(heads.keys) * dim;
    wait_for_earlier();
    Slot slot = slots[row];
    raw += row * width;
    angles += size_t(row) * (dim / 2);
    for (int i = threadIdx.x; i < G * D; i += STEP_THREADS) query[i / D][i % D] = 0;
    __syncthreads();
    bf16* kept = cache + cache_rows[row] * stride + size_t(key_head) * dim;
    for (int head = warp(); head < group + 2; head += STEP_WARPS) {
        if (head < group) {
            int at = (key_head * group + head) * dim;
            rotate_head(raw + at, bias ? bias + at : nullptr, query_norm, angles, dim, eps, [&](int i, bf16 v) { query[head][i] = number(v) * scale; });
        } else {
            bool value = head > group;
            int at = (heads.queries + (value ? heads.keys : 0) + key_head) * dim;
            bf16* to = kept + (value ? size_t(heads.keys) * dim : 0);
            rotate_head(raw + at, bias ? bias + at : nullptr, value ? nullptr : key_norm, value ? nullptr : angles, dim, eps, [&](int i, bf16 v) { to[i] = v; });
        }
    }
    // The new row of the cache is this block's own, so its threads see it behind this.
    __syncthreads();
    launch_later();
    int part = lane() % LANES, first = lane() / LANES;
    SequenceKeys keys = {slot.prefix, slot.prompt_from, slot.prompt, slot.own_from, slot.own, 1};
    float asked[G][8], result[G][8], max[G], sum[G];
#pragma unroll
    for (int h = 0; h < G; h++) {
        max[h] = NOTHING;
        sum[h] = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            asked[h][i] = query[h][part * 8 + i];
            result[h][i] = 0;
        }
    }
    const bf16* of_head = cache + size_t(key_head) * dim + part * 8;
    bool inside = part * 8 < dim;
    for (int from = warp() * KEYS * UNROLL; from < keys.count(); from += TURN) {
        uint4 key[UNROLL], value[UNROLL];
        bool seen[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int at = from + u * KEYS + first;
            uint4 nothing = {0, 0, 0, 0};
            seen[u] = at < keys.count();
            const bf16* place = of_head + (seen[u] ? keys.row(at, 0) * stride : 0);
            key[u] = seen[u] && inside ? *reinterpret_cast<const uint4*>(place) : nothing;
            value[u] = seen[u] && inside ? *reinterpret_cast<const uint4*>(place + size_t(heads.keys) * dim) : nothing;
        }
        float score[UNROLL][G];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            float k[8];
            unpack(key[u], k);
#pragma unroll
            for (int h = 0; h < G; h++) {
                float s = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) s += asked[h][i] * k[i];
#pragma unroll
                for (int offset = LANES / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(ALL, s, offset);
                score[u][h] = seen[u] ? s : NOTHING;
            }
        }
        float v[UNROLL][8];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) unpack(value[u], v[u]);
#pragma unroll
        for (int h = 0; h < G; h++) {
            float most = max[h];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) most = fmaxf(most, score[u][h]);
            float factor = expf(max[h] - most);
            max[h] = most;
            sum[h] *= factor;
#pragma unroll
            for (int i = 0; i < 8; i++) result[h][i] *= factor;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                // As the pass over whole sequences: what values are weighed by is in bf16, the sum is not.
                float p = score[u][h] > NOTHING ? expf(score[u][h] - most) : 0.0f, weight = number(rounded<bf16>(p));
                sum[h] += p;
#pragma unroll
                for (int i = 0; i < 8; i++) result[h][i] += weight * v[u][i];
            }
        }
    }
#pragma unroll
    for (int h = 0; h < G; h++) {
        float most = max[h];
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, offset));
        float factor = expf(max[h] - most);
        sum[h] *= factor;
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2) sum[h] += __shfl_xor_sync(ALL, sum[h], offset);
        if (lane() == 0) {
            maxima[warp()][h] = most;
            sums[warp()][h] = sum[h];
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float v = result[h][i] * factor;
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2) v += __shfl_xor_sync(ALL, v, offset);
            if (first == 0) results[warp()][h][part * 8 + i] = v;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < group * dim; i += STEP_THREADS) {
        int h = i / dim, at = i % dim;
        float most = NOTHING, sum = 0, v = 0;
        for (int w = 0; w < STEP_WARPS; w++) most = fmaxf(most, maxima[w][h]);
        for (int w = 0; w < STEP_WARPS; w++) {
            float factor = expf(maxima[w][h] - most);
            sum += factor * sums[w][h];
            v += factor * results[w][h][at];
        }
        out[size_t(row) * out_stride + (key_head * group + h) * dim + at] = rounded<bf16>(v / sum);
    }
}
