// Attention over packed trees in bf16, and its backward pass: tiles of 64 queries by 64 keys whose scores and results stay
// in the registers that tensor cores write (FlashAttention-2, arXiv 2307.08691), deterministic. What attention.cuh does in
// single precision to check these.
//
// 128 threads a block. A warp has 16 rows of the tile; thread 4 g + q has rows g and g + 8 of them, and of every eight
// columns 2 q and 2 q + 1.
#pragma once
#include "attention.cuh"

constexpr float LOG2_E = 1.4426950408889634f;

// 16 rows of D values as the left factor of products: one entry for each 16 values.
template <int D> struct Left {
    uint32_t steps[D / 16][4];

    // Rows `first`.. of a tile.
    __device__ void load(const bf16* tile, int first) {
        const bf16* at = tile + (first + lane() % 16) * Block<bf16, 16, D>::STRIDE + lane() / 16 * 8;
#pragma unroll
        for (int k = 0; k < D / 16; k++) load_matrices(steps[k], at + 16 * k);
    }
};

// 16 x 8 N sums.
template <int N> struct Scores {
    float sums[N][4];

    __device__ void clear() {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[n][i] = 0;
    }

    // += a b^T, where b are 8 N rows of a tile.
    template <int D> __device__ void add_rows(const Left<D>& a, const bf16* rows) {
        constexpr int STRIDE = Block<bf16, 16, D>::STRIDE;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const bf16* at = rows + (8 * n + lane() % 8) * STRIDE + lane() / 8 * 8;
#pragma unroll
            for (int k = 0; k < D / 16; k += 2) {
                uint32_t b[4];
                load_matrices(b, at + 16 * k);
                mma(sums[n], a.steps[k][0], a.steps[k][1], a.steps[k][2], a.steps[k][3], b[0], b[1]);
                mma(sums[n], a.steps[k + 1][0], a.steps[k + 1][1], a.steps[k + 1][2], a.steps[k + 1][3], b[2], b[3]);
            }
        }
    }

    // += a b, where a are the rounded sums of another product and b are as many rows of a tile as that has columns.
    template <int M> __device__ void add_product(const Scores<M>& a, const bf16* rows) {
        constexpr int STRIDE = Block<bf16, 16, 8 * N>::STRIDE;
#pragma unroll
        for (int k = 0; k < M / 2; k++) {
            const auto &low = a.sums[2 * k], &high = a.sums[2 * k + 1];
            uint32_t left[4] = {pair(low[0], low[1]), pair(low[2], low[3]), pair(high[0], high[1]), pair(high[2], high[3])};
            const bf16* at = rows + (16 * k + lane() % 16) * STRIDE + lane() / 16 * 8;
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t b[4];
                load_transposed(b, at + 8 * n);
                mma(sums[n], left[0], left[1], left[2], left[3], b[0], b[1]);
                mma(sums[n + 1], left[0], left[1], left[2], left[3], b[2], b[3]);
            }
        }
    }

    // Writes all sums to rows first.. of 8 N values.
    __device__ void write_sums(float* to, int first) const {
        int group = lane() / 4, quarter = lane() % 4;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) to[(first + group + i / 2 * 8) * 8 * N + 8 * n + 2 * quarter + i % 2] = sums[n][i];
    }

    // Writes row g times factor[0] and row g + 8 times factor[1] to rows first + g.. of `to`, of which `rows` exist.
    __device__ void write(bf16* to, size_t stride, int first, int rows, int dim, const float (&factor)[2]) const {
        int group = lane() / 4, quarter = lane() % 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first + group + 8 * half;
            if (row >= rows) continue;
#pragma unroll
            for (int n = 0; n < N; n++) {
                int column = 8 * n + 2 * quarter;
                if (column < dim)
                    *reinterpret_cast<uint32_t*>(to + row * stride + column) = pair(sums[n][2 * half] * factor[half], sums[n][2 * half + 1] * factor[half]);
            }
        }
    }
};

// Adds up partial sums, in their order. A block is (tile of keys, key head).
template <int D>
__device__ void flash_sum_keys(const float* partial, const KeySum* all, int rows, int stride, Shape heads, bf16* dqkv) {
    constexpr int TILE = TileOf<bf16>::ROWS;
    KeySum sum = all[blockIdx.x];
    int from = sum.tile * TILE, count = min(TILE, rows - from), dim = heads.dim, key_head = blockIdx.y;
    for (int i = threadIdx.x; i < 2 * count * dim; i += THREADS) {
        int half = i / (count * dim), row = i / dim % count, column = i % dim;
        float v = 0;
        for (int slot = sum.first; slot < sum.first + sum.count; slot++)
            v += partial[((size_t(slot) * heads.keys + key_head) * 2 + half) * TILE * D + row * D + column];
        dqkv[size_t(from + row) * stride + (heads.queries + half * heads.keys + key_head) * dim + column] = rounded<bf16>(v);
    }
}

__device__ inline float quarter_sum(float v) {
    v += __shfl_xor_sync(ALL, v, 1);
    return v + __shfl_xor_sync(ALL, v, 2);
}

__device__ inline float quarter_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(ALL, v, 1));
    return fmaxf(v, __shfl_xor_sync(ALL, v, 2));
}

// Of rows g and g + 8: the largest score so far, unscaled, and the sum of exponentials relative to it (arXiv 1805.02867).
struct Running {
    float max[2] = {NOTHING, NOTHING}, sum[2] = {0, 0};

    // Takes the scores of some keys, NOTHING where a key is not seen, and adds their values to the results, which it scales to
    // the new maximum. `turn` is what scores are multiplied by, for powers of two.
    template <int N, int WIDE> __device__ void take(Scores<N>& score, Scores<WIDE>& result, const bf16* values, float turn) {
        float most[2] = {max[0], max[1]}, factor[2];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) most[i / 2] = fmaxf(most[i / 2], score.sums[n][i]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[half] = quarter_max(most[half]);
            factor[half] = exp2f((max[half] - most[half]) * turn);
            max[half] = most[half];
            sum[half] *= factor[half];
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float s = score.sums[n][i], p = s > NOTHING ? exp2f((s - max[i / 2]) * turn) : 0.0f;
                score.sums[n][i] = p;
                sum[i / 2] += p;
            }
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) result.sums[n][i] *= factor[i / 2];
        result.add_product(score, values);
    }

    // Each thread has the sum of its own columns until here.
    __device__ void end() {
        for (int half = 0; half < 2; half++) sum[half] = quarter_sum(sum[half]);
    }
};

// What a tile's rows continue into; none behind the last one.
__device__ inline void load_ends(int* to, const int* ends, int from, int count) {
    for (int i = threadIdx.x; i < TileOf<bf16>::ROWS; i += THREADS) to[i] = i < count ? ends[from + i] : 0;
}

// As `load_rows`, by copies that go on while the thread does, where rows are multiples of sixteen bytes.
template <int ROWS, int D, int COUNT = THREADS, class Row> __device__ void load_rows_later(bf16* tile, int dim, Row row) {
    constexpr int PACK = 8, STRIDE = Block<bf16, ROWS, D>::STRIDE;
    if (dim % PACK != 0) {
        load_rows<bf16, ROWS, D, COUNT>(tile, dim, row);
        return;
    }
    for (int i = threadIdx.x; i < ROWS * (D / PACK); i += COUNT) {
        int r = i / (D / PACK), c = i % (D / PACK) * PACK;
        const bf16* from = row(r);
        uint4 nothing = {0, 0, 0, 0};
        if (from && c < dim) copy_later(tile + r * STRIDE + c, from + c);
        else *reinterpret_cast<uint4*>(tile + r * STRIDE + c) = nothing;
    }
}

// Tiles of keys, their values and ends in shared memory: the next ones are on their way while these are read, where there is
// room for both.
template <int D> struct KeyTiles {
    static constexpr int TILE = TileOf<bf16>::ROWS, STAGES = D <= 64 ? 2 : 1, SIZE = Block<bf16, TILE, D>::SIZE;
    bf16* room;
    int* room_ends;
    int stage;

    __device__ bf16* key() const { return room + stage * 2 * SIZE; }
    __device__ bf16* value() const { return key() + SIZE; }
    __device__ int* ends() const { return room_ends + stage * TILE; }

    __device__ void load(int tile, const TreeKeys& keys, const bf16* k, const bf16* v, size_t stride, int dim) const {
        load_rows_later<TILE, D>(key(), dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : k + at * stride; });
        load_rows_later<TILE, D>(value(), dim, [&](int r) { int at = keys.row(tile, r); return at < 0 ? nullptr : v + at * stride; });
        load_ends(ends(), keys.ends, tile * TILE, keys.last + 1 - tile * TILE);
    }

    // Calls work(tile) for every tile that queries see, when it is there.
    template <class Work> __device__ void each(const TreeKeys& keys, const bf16* k, const bf16* v, size_t stride, int dim, Work work) {
        int tile = keys.next(0);
        // Who still reads what is in the room is done behind this.
        __syncthreads();
        if (STAGES == 2) {
            if (tile < keys.tiles()) load(tile, keys, k, v, stride, dim);
            end_of_copies();
        }
        while (tile < keys.tiles()) {
            int following = keys.next(tile + 1);
            if (STAGES == 2) {
                stage ^= 1;
                if (following < keys.tiles()) load(following, keys, k, v, stride, dim);
                end_of_copies();
                stage ^= 1;
                wait_for_copies<STAGES - 1>();
            } else {
                load(tile, keys, k, v, stride, dim);
                end_of_copies();
                wait_for_copies<0>();
            }
            __syncthreads();
            work(tile);
            __syncthreads();
            stage = STAGES == 2 ? stage ^ 1 : 0;
            tile = following;
        }
    }
};

template <int D>
__device__ void flash_tree(const bf16* qkv, int qkv_stride, const bf16* k, const bf16* v, int kv_stride, const int* ends, const int* tile_ends,
                           int first, int rows, Shape heads, float scale, bf16* out, int out_stride, float* log_sums) {
    constexpr int TILE = TileOf<bf16>::ROWS, COLUMNS = TILE / 8, WIDE = D / 8;
    typedef KeyTiles<D> Tiles;
    __shared__ __align__(32) bf16 room[Tiles::STAGES * 2 * Tiles::SIZE];
    __shared__ int room_ends[Tiles::STAGES * TILE];
    Tiles tiles = {room, room_ends, 0};
    int from = blockIdx.x * TILE, queries = min(TILE, rows - from), head = blockIdx.y, key_head = head / (heads.queries / heads.keys);
    int dim = heads.dim, mine = warp() * 16, group = lane() / 4, quarter = lane() % 4;
    TreeKeys keys = {ends, tile_ends, TILE, first + from, first + from + queries - 1};
    const bf16* q = qkv + size_t(from) * qkv_stride + head * dim;
    k += key_head * dim;
    v += key_head * dim;
    load_rows<bf16, TILE, D>(room, dim, [&](int r) { return r < queries ? q + size_t(r) * qkv_stride : nullptr; });
    __syncthreads();
    Left<D> query;
    query.load(room, mine);
    Scores<WIDE> result;
    result.clear();
    Running running;
    float turn = scale * LOG2_E;
    tiles.each(keys, k, v, kv_stride, dim, [&](int tile) {
        const int* key_ends = tiles.ends();
        Scores<COLUMNS> score;
        score.clear();
        score.template add_rows<D>(query, tiles.key());
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = 8 * n + 2 * quarter + i % 2, asks = keys.first + mine + group + i / 2 * 8;
                bool seen = tile * TILE + column <= asks && asks <= keys.last && asks < key_ends[column];
                score.sums[n][i] = seen ? score.sums[n][i] : NOTHING;
            }
        running.take(score, result, tiles.value(), turn);
    });
    running.end();
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        factor[half] = 1.0f / running.sum[half];
        int row = mine + group + 8 * half;
        if (log_sums && quarter == 0 && row < queries)
            log_sums[size_t(from + row) * heads.queries + head] = running.max[half] * scale + logf(running.sum[half]);
    }
    result.write(out + size_t(from) * out_stride + head * dim, out_stride, mine, queries, dim, factor);
}

// The gradient of queries. A block is (tile of queries, query head); all rows of the tree are there.
template <int D>
__device__ void flash_backward_queries(const bf16* qkv, int stride, const bf16* dout, int dout_stride, const float* log_sums, const float* delta,
                                       const int* ends, const int* tile_ends, int rows, Shape heads, float scale, bf16* dqkv) {
    // Half a tile of keys at a time: the registers hold no more.
    constexpr int TILE = TileOf<bf16>::ROWS, PART = TILE / 2, COLUMNS = PART / 8;
    typedef Block<bf16, TILE, D> Tile;
    typedef KeyTiles<D> Tiles;
    __shared__ __align__(32) bf16 room[Tiles::STAGES * 2 * Tiles::SIZE];
    __shared__ int room_ends[Tiles::STAGES * TILE];
    Tiles tiles = {room, room_ends, 0};
    int from = blockIdx.x * TILE, queries = min(TILE, rows - from), head = blockIdx.y, key_head = head / (heads.queries / heads.keys);
    int dim = heads.dim, mine = warp() * 16, group = lane() / 4, quarter = lane() % 4;
    TreeKeys keys = {ends, tile_ends, TILE, from, from + queries - 1};
    const bf16* q = qkv + size_t(from) * stride + head * dim;
    const bf16* d = dout + size_t(from) * dout_stride + head * dim;
    const bf16* k = qkv + (heads.queries + key_head) * dim;
    const bf16* v = k + heads.keys * dim;
    load_rows<bf16, TILE, D>(tiles.key(), dim, [&](int r) { return r < queries ? q + size_t(r) * stride : nullptr; });
    load_rows<bf16, TILE, D>(tiles.value(), dim, [&](int r) { return r < queries ? d + size_t(r) * dout_stride : nullptr; });
    __syncthreads();
    Left<D> query, grad;
    query.load(tiles.key(), mine);
    grad.load(tiles.value(), mine);
    float log_sum[2], along[2], turn = scale * LOG2_E;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        size_t at = size_t(from + min(mine + group + 8 * half, queries - 1)) * heads.queries + head;
        log_sum[half] = log_sums[at] * LOG2_E;
        along[half] = delta[at];
    }
    Scores<D / 8> result;
    result.clear();
    tiles.each(keys, k, v, stride, dim, [&](int tile) {
        const int* key_ends = tiles.ends();
#pragma unroll 1
        for (int part = 0; part < TILE; part += PART) {
            Scores<COLUMNS> score, slope;
            score.clear();
            slope.clear();
            score.template add_rows<D>(query, tiles.key() + part * Tile::STRIDE);
            slope.template add_rows<D>(grad, tiles.value() + part * Tile::STRIDE);
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = part + 8 * n + 2 * quarter + i % 2, asks = from + mine + group + i / 2 * 8;
                    bool seen = tile * TILE + column <= asks && asks <= keys.last && asks < key_ends[column];
                    float p = seen ? exp2f(score.sums[n][i] * turn - log_sum[i / 2]) : 0.0f;
                    slope.sums[n][i] = p * (slope.sums[n][i] - along[i / 2]) * scale;
                }
            result.add_product(slope, tiles.key() + part * Tile::STRIDE);
        }
    });
    result.write(dqkv + size_t(from) * stride + head * dim, stride, mine, queries, dim, {1.0f, 1.0f});
}

// The gradients of keys and values. A block is (tile of keys, key head): it goes through queries that see its keys, head by
// head among those that share them, QUERIES of them in a tile and PART of those at a time. Partial sums are
// (slot, key head, keys and values, TILE, D).
template <int D, int QUERIES, int PART>
__device__ void flash_backward_keys(const bf16* qkv, int stride, const bf16* dout, int dout_stride, const float* log_sums, const float* delta,
                                    const int* ends, const KeyWork* all, int rows, Shape heads, float scale, bf16* dqkv, float* partial) {
    constexpr int TILE = TileOf<bf16>::ROWS, COLUMNS = PART / 8;
    typedef Block<bf16, QUERIES, D> Tile;
    static_assert(2 * QUERIES >= TILE, "keys and values pass through the room of queries and gradients");
    // Queries and gradients; the next ones are on their way while these are read.
    __shared__ __align__(32) bf16 room[2][2 * Tile::SIZE];
    __shared__ float log_sums_of[2][QUERIES], deltas_of[2][QUERIES];
    bf16* both = room[0];
    KeyWork work = all[blockIdx.x];
    int from = work.tile * TILE, count = min(TILE, rows - from), key_head = blockIdx.y, shared = heads.queries / heads.keys;
    int dim = heads.dim, mine = warp() * 16, group = lane() / 4, quarter = lane() % 4;
    const bf16* k = qkv + size_t(from) * stride + (heads.queries + key_head) * dim;
    const bf16* v = k + heads.keys * dim;
    Left<D> key, value;
    load_rows<bf16, TILE, D>(both, dim, [&](int r) { return r < count ? k + size_t(r) * stride : nullptr; });
    __syncthreads();
    key.load(both, mine);
    __syncthreads();
    load_rows<bf16, TILE, D>(both, dim, [&](int r) { return r < count ? v + size_t(r) * stride : nullptr; });
    __syncthreads();
    value.load(both, mine);
    // Rows g and g + 8 of the warp.
    int asked[2], end[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = mine + group + 8 * half;
        asked[half] = from + row;
        end[half] = row < count ? ends[from + row] : 0;
    }
    float turn = scale * LOG2_E;
    Scores<D / 8> dkey, dvalue;
    dkey.clear();
    dvalue.clear();
    auto load = [&](int turn, int stage) {
        int start = work.from + turn / shared * QUERIES, head = key_head * shared + turn % shared, queries = min(QUERIES, rows - start);
        const bf16* q = qkv + size_t(start) * stride + head * dim;
        const bf16* d = dout + size_t(start) * dout_stride + head * dim;
        load_rows_later<QUERIES, D>(room[stage], dim, [&](int r) { return r < queries ? q + size_t(r) * stride : nullptr; });
        load_rows_later<QUERIES, D>(room[stage] + Tile::SIZE, dim, [&](int r) { return r < queries ? d + size_t(r) * dout_stride : nullptr; });
        for (int i = threadIdx.x; i < QUERIES; i += THREADS) {
            size_t at = size_t(start + min(i, queries - 1)) * heads.queries + head;
            log_sums_of[stage][i] = log_sums[at] * LOG2_E;
            deltas_of[stage][i] = delta[at];
        }
        end_of_copies();
    };
    // Keys and values have been read from the room behind this.
    __syncthreads();
    int turns = (work.to - work.from + QUERIES - 1) / QUERIES * shared;
    if (turns > 0) load(0, 0);
    for (int round = 0; round < turns; round++) {
        if (round + 1 < turns) load(round + 1, (round + 1) % 2);
        else end_of_copies();
        wait_for_copies<1>();
        __syncthreads();
        const bf16 *query = room[round % 2], *grad = query + Tile::SIZE;
        const float *log_sum = log_sums_of[round % 2], *along = deltas_of[round % 2];
        int start = work.from + round / shared * QUERIES, queries = min(QUERIES, rows - start);
#pragma unroll 1
        for (int part = 0; part < QUERIES; part += PART) {
            Scores<COLUMNS> score, slope;
            score.clear();
            slope.clear();
            score.template add_rows<D>(key, query + part * Tile::STRIDE);
            slope.template add_rows<D>(value, grad + part * Tile::STRIDE);
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int column = part + 8 * n + 2 * quarter + i % 2, asks = start + column;
                    bool seen = column < queries && asked[i / 2] <= asks && asks < end[i / 2];
                    float p = seen ? exp2f(score.sums[n][i] * turn - log_sum[column]) : 0.0f;
                    score.sums[n][i] = p;
                    slope.sums[n][i] = p * (slope.sums[n][i] - along[column]) * scale;
                }
            dvalue.add_product(score, grad + part * Tile::STRIDE);
            dkey.add_product(slope, query + part * Tile::STRIDE);
        }
        __syncthreads();
    }
    if (work.slot >= 0) {
        float* to = partial + (size_t(work.slot) * heads.keys + key_head) * 2 * TILE * D;
        dkey.write_sums(to, mine);
        dvalue.write_sums(to + TILE * D, mine);
        return;
    }
    bf16* to = dqkv + size_t(from) * stride + (heads.queries + key_head) * dim;
    dkey.write(to, stride, mine, count, dim, {1.0f, 1.0f});
    dvalue.write(to + heads.keys * dim, stride, mine, count, dim, {1.0f, 1.0f});
}
