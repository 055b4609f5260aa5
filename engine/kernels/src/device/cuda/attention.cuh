// Attention over packed trees of tokens, and its backward pass, in tiles (arXiv 2205.14135), deterministic: in single
// precision, to check what flash.cuh does in bf16, and of a decoding step whose heads step.cuh does not take.
//
// Rows lie in depth-first order: a prefix, a prompt that continues it, the prompt's completions, the next prompt. All
// that continues row k then lies in k..ends[k], so row q may see row k exactly where k <= q < ends[k].
//
// 128 threads a block. Products run on tensor cores for bf16 (16 x 16 x 16, sums in single precision), and as plain
// loops for single precision, which serves to check the former.
#pragma once
#include "common.cuh"

constexpr int THREADS = 128, WARPS = 4;

// Rows of queries and keys in a tile, by format. The host has the same numbers (`Format::tile`).
template <class T> struct TileOf;
template <> struct TileOf<float> { static constexpr int ROWS = 16; };
template <> struct TileOf<bf16> { static constexpr int ROWS = 64; };

template <bool FLIPPED> struct Layout { typedef wmma::row_major type; };
template <> struct Layout<true> { typedef wmma::col_major type; };

// M x N sums, spread over the block's threads.
template <class T, int M, int N> struct Sums;

template <int M, int N> struct Sums<bf16, M, N> {
    static constexpr int ACROSS = N / 16, COUNT = (M / 16) * ACROSS, MINE = (COUNT + WARPS - 1) / WARPS;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> part[MINE];

    __device__ static int tile(int i) { return warp() + i * WARPS; }
    __device__ static int corner(int tile, int stride) { return tile / ACROSS * 16 * stride + tile % ACROSS * 16; }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < MINE; i++) wmma::fill_fragment(part[i], 0.0f);
    }
    __device__ void load(const float* from, int stride) {
#pragma unroll
        for (int i = 0; i < MINE; i++)
            if (tile(i) < COUNT) wmma::load_matrix_sync(part[i], from + corner(tile(i), stride), stride, wmma::mem_row_major);
    }
    __device__ void store(float* to, int stride) const {
#pragma unroll
        for (int i = 0; i < MINE; i++)
            if (tile(i) < COUNT) wmma::store_matrix_sync(to + corner(tile(i), stride), part[i], stride, wmma::mem_row_major);
    }
    // += a b, over K. With A_FLIPPED, a is stored as (K, M), transposed; with B_FLIPPED, b as (N, K).
    template <int K, bool A_FLIPPED, bool B_FLIPPED> __device__ void add(const bf16* a, int a_stride, const bf16* b, int b_stride) {
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            int row = tile(i) / ACROSS * 16, column = tile(i) % ACROSS * 16;
            if (tile(i) >= COUNT) continue;
#pragma unroll
            for (int k = 0; k < K; k += 16) {
                wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, typename Layout<A_FLIPPED>::type> x;
                wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, typename Layout<B_FLIPPED>::type> y;
                wmma::load_matrix_sync(x, a + (A_FLIPPED ? k * a_stride + row : row * a_stride + k), a_stride);
                wmma::load_matrix_sync(y, b + (B_FLIPPED ? column * b_stride + k : k * b_stride + column), b_stride);
                wmma::mma_sync(part[i], x, y, part[i]);
            }
        }
    }
};

template <int M, int N> struct Sums<float, M, N> {
    static constexpr int MINE = (M * N + THREADS - 1) / THREADS;
    float part[MINE];

    __device__ static int index(int i) { return threadIdx.x + i * THREADS; }

    __device__ void clear() {
        for (int i = 0; i < MINE; i++) part[i] = 0;
    }
    __device__ void load(const float* from, int stride) {
        for (int i = 0; i < MINE; i++)
            if (index(i) < M * N) part[i] = from[index(i) / N * stride + index(i) % N];
    }
    __device__ void store(float* to, int stride) const {
        for (int i = 0; i < MINE; i++)
            if (index(i) < M * N) to[index(i) / N * stride + index(i) % N] = part[i];
    }
    template <int K, bool A_FLIPPED, bool B_FLIPPED> __device__ void add(const float* a, int a_stride, const float* b, int b_stride) {
        for (int i = 0; i < MINE; i++) {
            int row = index(i) / N, column = index(i) % N;
            if (index(i) >= M * N) continue;
            for (int k = 0; k < K; k++)
                part[i] += a[A_FLIPPED ? k * a_stride + row : row * a_stride + k] * b[B_FLIPPED ? column * b_stride + k : k * b_stride + column];
        }
    }
};

// A tile of ROWS rows in shared memory, each of up to D values and some padding against bank conflicts.
template <class T, int ROWS, int D> struct Block {
    static constexpr int STRIDE = D + 16 / int(sizeof(T));
    static constexpr int SIZE = ROWS * STRIDE;
};

// Copies rows into a tile, by the block's first COUNT threads; row(i) is the address of row i, or null for one of zeros. Columns beyond `dim` are zero.
template <class T, int ROWS, int D, int COUNT = THREADS, class Row> __device__ void load_rows(T* tile, int dim, Row row) {
    constexpr int PACK = 16 / sizeof(T), STRIDE = Block<T, ROWS, D>::STRIDE;
    if (dim % PACK == 0) {
        for (int i = threadIdx.x; i < ROWS * (D / PACK); i += COUNT) {
            int r = i / (D / PACK), c = i % (D / PACK) * PACK;
            const T* from = row(r);
            uint4 nothing = {0, 0, 0, 0};
            *reinterpret_cast<uint4*>(tile + r * STRIDE + c) = from && c < dim ? *reinterpret_cast<const uint4*>(from + c) : nothing;
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * D; i += COUNT) {
            int r = i / D, c = i % D;
            const T* from = row(r);
            tile[r * STRIDE + c] = from && c < dim ? from[c] : rounded<T>(0.0f);
        }
    }
}

// The tiles of keys in a packed tree that some query from `first` on may see.
struct TreeKeys {
    const int* ends;       // by row
    const int* tile_ends;  // the largest of each tile
    int tile_rows, first, last;

    // The next such tile from `tile` on, or `tiles()`. The same for all threads of the block.
    __device__ int next(int tile) const {
        for (; tile < tiles(); tile += 32) {
            int mine = tile + lane();
            unsigned found = __ballot_sync(ALL, mine < tiles() && tile_ends[mine] > first);
            if (found) return tile + __ffs(found) - 1;
        }
        return tiles();
    }
    __device__ int tiles() const { return last / tile_rows + 1; }
    __device__ int row(int tile, int i) const { return tile * tile_rows + i <= last ? tile * tile_rows + i : -1; }
    __device__ bool sees(int query, int tile, int i) const {
        int key = tile * tile_rows + i;
        return key <= query && query <= last && query < ends[key];
    }
};

// The queries that a block of the gradient of keys goes through: rows from..to of those that see the keys of `tile`. What it
// finds is the whole gradient where `slot` is negative, else it goes to that place of the partial sums.
struct KeyWork {
    int tile, from, to, slot;
};

// A tile of keys whose gradient is the sum of `count` places of the partial sums.
struct KeySum {
    int tile, first, count;
};

// The keys of one sequence: three ranges of the cache's rows, its prefix, its prompt and its own.
struct SequenceKeys {
    int prefix, prompt_from, prompt, own_from, own;
    int tile_rows;

    __device__ int count() const { return prefix + prompt + own; }
    __device__ int next(int tile) const { return tile; }
    __device__ int tiles() const { return (count() + tile_rows - 1) / tile_rows; }
    __device__ int row(int tile, int i) const {
        int key = tile * tile_rows + i;
        if (key < prefix) return key;
        key -= prefix;
        if (key < prompt) return prompt_from + key;
        key -= prompt;
        return key < own ? own_from + key : -1;
    }
    __device__ bool sees(int, int tile, int i) const { return tile * tile_rows + i < count(); }
};

// One tile of TQ queries over the keys they see. Query i of `queries` is at q + i * q_stride, and is row `first` + i for
// the keys; its result goes to out + i * out_stride, the logarithm of its sum of exponentials to log_sums[i * log_stride].
template <class T, int D, int TQ, int TK, class Keys>
__device__ void attend_tile(const T* q, size_t q_stride, int queries, int first, const T* k, const T* v, size_t kv_stride, Keys keys,
                            int dim, float scale, T* out, size_t out_stride, float* log_sums, int log_stride) {
    typedef Block<T, TQ, D> Queries;
    typedef Block<T, TK, D> Values;
    constexpr int S = TK + 4, P = TK + 16 / int(sizeof(T)), O = D + 4, SHARE = THREADS / TQ;
    __shared__ __align__(32) T query[Queries::SIZE];
    __shared__ __align__(32) T value[Values::SIZE];
    __shared__ __align__(32) float score[TQ * S];
    __shared__ __align__(32) T weight[TQ * P];
    __shared__ __align__(32) float result[TQ * O];
    __shared__ float maxima[TQ], sums[TQ];

    load_rows<T, TQ, D>(query, dim, [&](int r) { return r < queries ? q + r * q_stride : nullptr; });
    for (int i = threadIdx.x; i < TQ * O; i += THREADS) result[i] = 0;
    for (int i = threadIdx.x; i < TQ; i += THREADS) {
        maxima[i] = NOTHING;
        sums[i] = 0;
    }
    // Threads of one row lie side by side in a warp.
    int row = threadIdx.x / SHARE, share = threadIdx.x % SHARE;
    for (int tile = keys.next(0); tile < keys.tiles(); tile = keys.next(tile + 1)) {
        __syncthreads();
        load_rows<T, TK, D>(value, dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : k + at * kv_stride; });
        __syncthreads();
        Sums<T, TQ, TK> scores;
        scores.clear();
        scores.template add<D, false, true>(query, Queries::STRIDE, value, Values::STRIDE);
        scores.store(score, S);
        __syncthreads();
        load_rows<T, TK, D>(value, dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : v + at * kv_stride; });
        float before = maxima[row], max = before;
        for (int i = share; i < TK; i += SHARE) {
            float s = row < queries && keys.sees(first + row, tile, i) ? score[row * S + i] * scale : NOTHING;
            score[row * S + i] = s;
            max = fmaxf(max, s);
        }
        for (int offset = SHARE / 2; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(ALL, max, offset));
        float factor = expf(before - max), sum = 0;
        for (int i = share; i < TK; i += SHARE) {
            float s = score[row * S + i], p = s > NOTHING ? expf(s - max) : 0.0f;
            weight[row * P + i] = rounded<T>(p);
            sum += p;
        }
        for (int offset = SHARE / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL, sum, offset);
        if (share == 0) {
            maxima[row] = max;
            sums[row] = sums[row] * factor + sum;
        }
        for (int i = share; i < D; i += SHARE) result[row * O + i] *= factor;
        __syncthreads();
        Sums<T, TQ, D> results;
        results.load(result, O);
        results.template add<TK, false, false>(weight, P, value, Values::STRIDE);
        results.store(result, O);
    }
    __syncthreads();
    if (row < queries) {
        for (int i = share; i < dim; i += SHARE) out[row * out_stride + i] = rounded<T>(result[row * O + i] / sums[row]);
        if (share == 0 && log_sums) log_sums[row * log_stride] = maxima[row] + logf(sums[row]);
    }
}

// Rows of a packed tree, the first of which is row `first` of the tree; keys and values of all rows up to the last one
// are in `k` and `v`. A block is (tile of queries, query head).
template <class T, int D>
__device__ void attend_tree(const T* qkv, int qkv_stride, const T* k, const T* v, int kv_stride, const int* ends, const int* tile_ends,
                            int first, int rows, Shape heads, float scale, T* out, int out_stride, float* log_sums) {
    constexpr int TILE = TileOf<T>::ROWS;
    int from = blockIdx.x * TILE, queries = min(TILE, rows - from), head = blockIdx.y, key = head / (heads.queries / heads.keys);
    TreeKeys keys = {ends, tile_ends, TILE, first + from, first + from + queries - 1};
    attend_tile<T, D, TILE, TILE>(qkv + size_t(from) * qkv_stride + head * heads.dim, qkv_stride, queries, first + from,
                                  k + key * heads.dim, v + key * heads.dim, kv_stride, keys, heads.dim, scale,
                                  out + size_t(from) * out_stride + head * heads.dim, out_stride,
                                  log_sums ? log_sums + size_t(from) * heads.queries + head : nullptr, heads.queries);
}

// What one row of a decoding step reads and writes.
struct Slot {
    int prefix, prompt_from, prompt, own_from, own;
};

// One new row for each sequence. A block is (sequence, key head): the query heads that share the key head are its tile
// of queries, 16 at most.
template <class T, int D>
__device__ void attend_one(const T* qkv, int qkv_stride, const T* k, const T* v, int kv_stride, const Slot* slots, Shape heads, float scale,
                           T* out, int out_stride) {
    constexpr int TILE = 128 / int(sizeof(T));
    int group = heads.queries / heads.keys;
    Slot slot = slots[blockIdx.x];
    SequenceKeys keys = {slot.prefix, slot.prompt_from, slot.prompt, slot.own_from, slot.own, TILE};
    attend_tile<T, D, 16, TILE>(qkv + size_t(blockIdx.x) * qkv_stride + blockIdx.y * group * heads.dim, heads.dim, group, 0,
                                k + blockIdx.y * heads.dim, v + blockIdx.y * heads.dim, kv_stride, keys, heads.dim, scale,
                                out + size_t(blockIdx.x) * out_stride + blockIdx.y * group * heads.dim, heads.dim, nullptr, 0);
}

// delta = the sum over a head's values of dout * out: (rows, query heads). A block is a row, a warp a head.
template <class T>
__device__ void attend_delta(const T* out, const T* dout, int stride, Shape heads, float* delta) {
    for (int head = warp(); head < heads.queries; head += blockDim.x / 32) {
        size_t at = size_t(blockIdx.x) * stride + head * heads.dim;
        float sum = 0;
        for (int i = lane(); i < heads.dim; i += 32) sum += number(out[at + i]) * number(dout[at + i]);
        sum = warp_sum(sum);
        if (lane() == 0) delta[size_t(blockIdx.x) * heads.queries + head] = sum;
    }
}

// The gradient of queries. A block is (tile of queries, query head); all rows of the tree are there.
template <class T, int D>
__device__ void attend_backward_queries(const T* qkv, int stride, const T* dout, int dout_stride, const float* log_sums, const float* delta,
                                        const int* ends, const int* tile_ends, int rows, Shape heads, float scale, T* dqkv) {
    constexpr int TILE = TileOf<T>::ROWS, S = TILE + 4, P = TILE + 16 / int(sizeof(T)), SHARE = THREADS / TILE, O = D + 4;
    typedef Block<T, TILE, D> Rows;
    __shared__ __align__(32) T query[Rows::SIZE];
    __shared__ __align__(32) T grad[Rows::SIZE];
    __shared__ __align__(32) T keys_values[2 * Rows::SIZE];
    __shared__ __align__(32) float score[TILE * S];
    __shared__ __align__(32) T slope[TILE * P];
    static_assert(2 * Rows::SIZE * sizeof(T) >= TILE * O * sizeof(float), "the result takes the place of keys and values");
    T *key = keys_values, *value = keys_values + Rows::SIZE;

    int from = blockIdx.x * TILE, queries = min(TILE, rows - from), head = blockIdx.y, key_head = head / (heads.queries / heads.keys);
    TreeKeys keys = {ends, tile_ends, TILE, from, from + queries - 1};
    const T* q = qkv + size_t(from) * stride + head * heads.dim;
    const T* k = qkv + (heads.queries + key_head) * heads.dim;
    const T* v = k + heads.keys * heads.dim;
    const T* d = dout + size_t(from) * dout_stride + head * heads.dim;
    load_rows<T, TILE, D>(query, heads.dim, [&](int r) { return r < queries ? q + size_t(r) * stride : nullptr; });
    load_rows<T, TILE, D>(grad, heads.dim, [&](int r) { return r < queries ? d + size_t(r) * dout_stride : nullptr; });
    int row = threadIdx.x / SHARE, share = threadIdx.x % SHARE;
    size_t at = size_t(from + min(row, queries - 1)) * heads.queries + head;
    float log_sum = log_sums[at], along = delta[at];
    Sums<T, TILE, D> result;
    result.clear();
    for (int tile = keys.next(0); tile < keys.tiles(); tile = keys.next(tile + 1)) {
        __syncthreads();
        load_rows<T, TILE, D>(key, heads.dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : k + size_t(at) * stride; });
        load_rows<T, TILE, D>(value, heads.dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : v + size_t(at) * stride; });
        __syncthreads();
        Sums<T, TILE, TILE> products;
        products.clear();
        products.template add<D, false, true>(query, Rows::STRIDE, key, Rows::STRIDE);
        products.store(score, S);
        __syncthreads();
        float probability[TILE / SHARE];
#pragma unroll
        for (int i = 0; i < TILE / SHARE; i++) {
            int column = share + i * SHARE;
            bool seen = row < queries && keys.sees(from + row, tile, column);
            probability[i] = seen ? expf(score[row * S + column] * scale - log_sum) : 0.0f;
        }
        __syncthreads();
        products.clear();
        products.template add<D, false, true>(grad, Rows::STRIDE, value, Rows::STRIDE);
        products.store(score, S);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE / SHARE; i++) {
            int column = share + i * SHARE;
            slope[row * P + column] = rounded<T>(probability[i] * (score[row * S + column] - along) * scale);
        }
        __syncthreads();
        result.template add<TILE, false, false>(slope, P, key, Rows::STRIDE);
    }
    __syncthreads();
    float* sums = reinterpret_cast<float*>(keys_values);
    result.store(sums, O);
    __syncthreads();
    if (row < queries) {
        T* to = dqkv + size_t(from + row) * stride + head * heads.dim;
        for (int i = share; i < heads.dim; i += SHARE) to[i] = rounded<T>(sums[row * O + i]);
    }
}

// The gradients of keys and values. A block is (tile of keys, key head): it goes through all queries that see its keys,
// head by head among those that share them. There are no partial sums.
template <class T, int D>
__device__ void attend_backward_keys(const T* qkv, int stride, const T* dout, int dout_stride, const float* log_sums, const float* delta,
                                     const int* ends, const KeyWork* all, int rows, Shape heads, float scale, T* dqkv) {
    constexpr int TILE = TileOf<T>::ROWS, S = TILE + 4, P = TILE + 16 / int(sizeof(T)), SHARE = THREADS / TILE, O = D + 4;
    typedef Block<T, TILE, D> Rows;
    __shared__ __align__(32) T keys_values[2 * Rows::SIZE];
    __shared__ __align__(32) T query[Rows::SIZE];
    __shared__ __align__(32) T grad[Rows::SIZE];
    __shared__ __align__(32) float score[TILE * S];
    __shared__ __align__(32) T weight[TILE * P];
    __shared__ __align__(32) T slope[TILE * P];
    T *key = keys_values, *value = keys_values + Rows::SIZE;

    KeyWork work = all[blockIdx.x];
    int from = work.tile * TILE, mine = min(TILE, rows - from), key_head = blockIdx.y, group = heads.queries / heads.keys;
    const T* k = qkv + size_t(from) * stride + (heads.queries + key_head) * heads.dim;
    const T* v = k + heads.keys * heads.dim;
    load_rows<T, TILE, D>(key, heads.dim, [&](int r) { return r < mine ? k + size_t(r) * stride : nullptr; });
    load_rows<T, TILE, D>(value, heads.dim, [&](int r) { return r < mine ? v + size_t(r) * stride : nullptr; });
    int row = threadIdx.x / SHARE, share = threadIdx.x % SHARE;
    Sums<T, TILE, D> dkey, dvalue;
    dkey.clear();
    dvalue.clear();
    for (int start = work.from; start < work.to; start += TILE) {
        for (int head = key_head * group; head < (key_head + 1) * group; head++) {
            const T* q = qkv + size_t(start) * stride + head * heads.dim;
            const T* d = dout + size_t(start) * dout_stride + head * heads.dim;
            int queries = min(TILE, rows - start);
            __syncthreads();
            load_rows<T, TILE, D>(query, heads.dim, [&](int r) { return r < queries ? q + size_t(r) * stride : nullptr; });
            load_rows<T, TILE, D>(grad, heads.dim, [&](int r) { return r < queries ? d + size_t(r) * dout_stride : nullptr; });
            size_t at = size_t(start + min(row, queries - 1)) * heads.queries + head;
            float log_sum = log_sums[at], along = delta[at];
            __syncthreads();
            Sums<T, TILE, TILE> products;
            products.clear();
            products.template add<D, false, true>(query, Rows::STRIDE, key, Rows::STRIDE);
            products.store(score, S);
            __syncthreads();
            float probability[TILE / SHARE];
#pragma unroll
            for (int i = 0; i < TILE / SHARE; i++) {
                int column = share + i * SHARE, asks = start + row, asked = from + column;
                bool seen = row < queries && column < mine && asked <= asks && asks < ends[asked];
                probability[i] = seen ? expf(score[row * S + column] * scale - log_sum) : 0.0f;
                weight[row * P + column] = rounded<T>(probability[i]);
            }
            __syncthreads();
            products.clear();
            products.template add<D, false, true>(grad, Rows::STRIDE, value, Rows::STRIDE);
            products.store(score, S);
            dvalue.template add<TILE, true, false>(weight, P, grad, Rows::STRIDE);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < TILE / SHARE; i++) {
                int column = share + i * SHARE;
                slope[row * P + column] = rounded<T>(probability[i] * (score[row * S + column] - along) * scale);
            }
            __syncthreads();
            dkey.template add<TILE, true, false>(slope, P, query, Rows::STRIDE);
        }
    }
    float* sums = reinterpret_cast<float*>(keys_values);
    for (int half = 0; half < 2; half++) {
        __syncthreads();
        if (half == 0) dkey.store(sums, O);
        else dvalue.store(sums, O);
        __syncthreads();
        if (row >= mine) continue;
        T* to = dqkv + size_t(from + row) * stride + (heads.queries + half * heads.keys + key_head) * heads.dim;
        for (int i = share; i < heads.dim; i += SHARE) to[i] = rounded<T>(sums[row * O + i]);
    }
}
