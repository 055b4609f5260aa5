// Products of few rows with a layer's weights, as a decoding step makes them: bound by how fast weights come from memory.
//
// Each weight is read once, in 16 bytes a thread, straight into the registers that tensor cores read. The order of a sum
// over the inner dimension is free as long as both factors have the same, so a thread takes eight values that lie one behind
// the other. What stands around a product is done in it: the norm before it, and the sum or the activation behind it.
#pragma once
#include "common.cuh"

constexpr int FEW_THREADS = 256, FEW_WARPS = 8;

// What becomes of a product: bf16, single precision, added to single precision, or silu(gate) * up in bf16, where the
// weights have all gates before all ups.
enum class Few { ROUND, STORE, ADD, SWIGLU };

// The rows of a product, `inner` columns. The first `normed` come from x in single precision, times the weights of its
// norm; all others from `rows`, of which column `normed` is the first that is read. Where `scaled`, the results are
// multiplied by the row's 1 / sqrt(mean(x^2) + eps): a norm's factor comes out of the sum (arXiv 1910.07467).
struct FewRows {
    const float* x;
    const float* norm;
    const bf16* rows;
    int normed, inner, stride, count, scaled;
    float eps;
};

// Eight values of a row from column k on; none where there is no such row or column. Adds up the squares of x.
__device__ inline uint4 few_values(const FewRows& from, int row, int k, float& squares) {
    uint4 nothing = {0, 0, 0, 0};
    if (row >= from.count || k >= from.inner) return nothing;
    if (k >= from.normed) return *reinterpret_cast<const uint4*>(from.rows + size_t(row) * from.stride + k);
    const float4* x = reinterpret_cast<const float4*>(from.x + size_t(row) * from.normed + k);
    const float4* w = reinterpret_cast<const float4*>(from.norm + k);
    float4 a = x[0], b = x[1], u = w[0], v = w[1];
    squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
    return {pair(a.x * u.x, a.y * u.y), pair(a.z * u.z, a.w * u.w), pair(b.x * v.x, b.y * v.y), pair(b.z * v.z, b.w * v.w)};
}

// out = rows W^T. A block takes eight columns at a time (SWIGLU: eight gates and their ups; with TILES = 2 otherwise: sixteen),
// then those `gridDim.x` further on, whose weights are on their way meanwhile; its warps take turns at the inner dimension.
// HALVES of eight rows, two at most. `columns` are those of the result before the activation, the rows of W.
template <int TILES, int HALVES, Few KIND>
__device__ void few(FewRows from, const bf16* weights, int weight_stride, int columns, void* out, int out_stride) {
    constexpr bool GATED = KIND == Few::SWIGLU;
    constexpr int UNROLL = 4, STRIDE = FEW_WARPS * 32, OUT = GATED ? 1 : TILES, WIDTH = 8 * OUT;
    __shared__ float parts[FEW_WARPS][TILES][16][8];
    __shared__ float row_squares[FEW_WARPS][16];
    int group = lane() / 4, quarter = lane() % 4, kept = GATED ? columns / 2 : columns, start = warp() * 32 + quarter * 8;
    int tile = blockIdx.x, tiles = (kept + WIDTH - 1) / WIDTH;
    uint4 next[UNROLL][TILES];
    auto fetch = [&](int tile, int at) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            int column = tile * WIDTH + group + (GATED ? 0 : 8 * t);
            const bf16* mine = weights + size_t(GATED ? t * kept + column : column) * weight_stride;
            bool there = tile < tiles && column < kept;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                int k = at + u * STRIDE;
                uint4 nothing = {0, 0, 0, 0};
                next[u][t] = there && k < from.inner ? streamed(reinterpret_cast<const uint4*>(mine + k)) : nothing;
            }
        }
    };
    // Weights do not depend on what was launched before.
    fetch(tile, start);
    wait_for_earlier();
    launch_later();
    for (; tile < tiles; tile += gridDim.x) {
        float sums[TILES][4], squares[2] = {0, 0};
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[t][i] = 0;
        // What is added to is on its way, too, while the products are made.
        float added = 0;
        int of_row = threadIdx.x / WIDTH, of_column = tile * WIDTH + threadIdx.x % WIDTH;
        bool writes = threadIdx.x < 16 * WIDTH && of_row < from.count && of_column < kept;
        if (KIND == Few::ADD && writes) added = static_cast<const float*>(out)[size_t(of_row) * out_stride + of_column];
        for (int at = start; at - quarter * 8 < from.inner; at += UNROLL * STRIDE) {
            uint4 now[UNROLL][TILES], rows[UNROLL][HALVES];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
#pragma unroll
                for (int t = 0; t < TILES; t++) now[u][t] = next[u][t];
#pragma unroll
                for (int h = 0; h < HALVES; h++) rows[u][h] = few_values(from, group + 8 * h, at + u * STRIDE, squares[h]);
            }
            bool last = at - quarter * 8 + UNROLL * STRIDE >= from.inner;
            fetch(last ? tile + gridDim.x : tile, last ? start : at + UNROLL * STRIDE);
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                uint4 low = rows[u][0], high = {0, 0, 0, 0};
                if (HALVES == 2) high = rows[u][HALVES - 1];
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    mma(sums[t], low.x, high.x, low.y, high.y, now[u][t].x, now[u][t].y);
                    mma(sums[t], low.z, high.z, low.w, high.w, now[u][t].z, now[u][t].w);
                }
            }
        }
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            parts[warp()][t][group][2 * quarter] = sums[t][0];
            parts[warp()][t][group][2 * quarter + 1] = sums[t][1];
            parts[warp()][t][group + 8][2 * quarter] = sums[t][2];
            parts[warp()][t][group + 8][2 * quarter + 1] = sums[t][3];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = squares[h];
            sum += __shfl_xor_sync(ALL, sum, 1);
            sum += __shfl_xor_sync(ALL, sum, 2);
            if (quarter == 0) row_squares[warp()][group + 8 * h] = sum;
        }
        __syncthreads();
        if (writes) {
            int place = threadIdx.x % WIDTH;
            float factor = 1, value = 0, up = 0;
            if (from.scaled) {
                float sum = 0;
                for (int w = 0; w < FEW_WARPS; w++) sum += row_squares[w][of_row];
                factor = 1.0f / sqrtf(sum / from.normed + from.eps);
            }
            for (int w = 0; w < FEW_WARPS; w++) {
                value += parts[w][GATED ? 0 : place / 8][of_row][place % 8];
                if (GATED) up += parts[w][TILES - 1][of_row][place % 8];
            }
            value *= factor;
            size_t at = size_t(of_row) * out_stride + of_column;
            if (KIND == Few::ROUND) static_cast<bf16*>(out)[at] = rounded<bf16>(value);
            if (KIND == Few::STORE) static_cast<float*>(out)[at] = value;
            if (KIND == Few::ADD) static_cast<float*>(out)[at] = added + value;
            // As where the two are products of their own, which round.
            if (GATED) {
                float gate = number(rounded<bf16>(value));
                up = number(rounded<bf16>(up * factor));
                static_cast<bf16*>(out)[at] = rounded<bf16>(gate / (1.0f + expf(-gate)) * up);
            }
        }
        // The next round writes to what is read here.
        __syncthreads();
    }
}

constexpr int ROW_THREADS = 128, ROW_WARPS = 4, ROW_BYTES = 40 << 10;

// As `few`, for so few rows that plain arithmetic keeps up with memory: R at most, which a block holds in shared memory. A
// warp takes two columns at a time (SWIGLU: a gate and its up), so that no warp waits for another one behind the beginning.
template <int R, Few KIND> __device__ void row(FewRows from, const bf16* weights, int weight_stride, int columns, void* out, int out_stride) {
    constexpr bool GATED = KIND == Few::SWIGLU;
    constexpr int UNROLL = 4, APART = 32 * 8;
    __shared__ __align__(16) bf16 rows[ROW_BYTES / sizeof(bf16)];
    int kept = GATED ? columns / 2 : columns, step = GATED ? 1 : 2, inner = from.inner, start = lane() * 8;
    int column = (blockIdx.x * ROW_WARPS + warp()) * step, apart = gridDim.x * ROW_WARPS * step;
    uint4 next[2][UNROLL];
    auto fetch = [&](int column, int at) {
#pragma unroll
        for (int t = 0; t < 2; t++) {
            int place = GATED ? t * kept + column : column + t;
            bool there = column < kept && (GATED || column + t < kept);
            const bf16* mine = weights + size_t(place) * weight_stride;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                int k = at + u * APART;
                uint4 nothing = {0, 0, 0, 0};
                next[t][u] = there && k < inner ? streamed(reinterpret_cast<const uint4*>(mine + k)) : nothing;
            }
        }
    };
    // Weights do not depend on what was launched before.
    fetch(column, start);
    wait_for_earlier();
    launch_later();
    float factor[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        float squares = 0;
        for (int k = threadIdx.x * 8; k < inner; k += ROW_THREADS * 8)
            *reinterpret_cast<uint4*>(rows + r * inner + k) = few_values(from, r, k, squares);
        factor[r] = from.scaled ? 1.0f / sqrtf(block_sum(squares) / from.normed + from.eps) : 1.0f;
    }
    __syncthreads();
    for (; column < kept; column += apart) {
        float sums[2][R];
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int r = 0; r < R; r++) sums[t][r] = 0;
        for (int at = start; at - start < inner; at += UNROLL * APART) {
            uint4 now[2][UNROLL];
#pragma unroll
            for (int t = 0; t < 2; t++)
#pragma unroll
                for (int u = 0; u < UNROLL; u++) now[t][u] = next[t][u];
            bool last = at - start + UNROLL * APART >= inner;
            fetch(last ? column + apart : column, last ? start : at + UNROLL * APART);
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                int k = at + u * APART;
                if (k >= inner) continue;
                float w[2][8];
                unpack(now[0][u], w[0]);
                unpack(now[1][u], w[1]);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    float x[8];
                    unpack(*reinterpret_cast<const uint4*>(rows + r * inner + k), x);
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        sums[0][r] += x[i] * w[0][i];
                        sums[1][r] += x[i] * w[1][i];
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            float first = warp_sum(sums[0][r]) * factor[r], second = warp_sum(sums[1][r]) * factor[r];
            if (r >= from.count) continue;
            int mine = lane() % 2;
            float value = mine ? second : first;
            if (lane() >= (GATED ? 1 : 2) || column + mine >= kept) continue;
            size_t at = size_t(r) * out_stride + column + mine;
            if (KIND == Few::ROUND) static_cast<bf16*>(out)[at] = rounded<bf16>(value);
            if (KIND == Few::STORE) static_cast<float*>(out)[at] = value;
            if (KIND == Few::ADD) static_cast<float*>(out)[at] += value;
            if (GATED) {
                float gate = number(rounded<bf16>(first)), up = number(rounded<bf16>(second));
                static_cast<bf16*>(out)[at] = rounded<bf16>(gate / (1.0f + expf(-gate)) * up);
            }
        }
    }
}
