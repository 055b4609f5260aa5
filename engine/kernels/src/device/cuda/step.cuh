// Attention of a decoding step, for bf16: one new row of each sequence. Rotation, the cache and attention in one kernel.
#pragma once
#include "flash.cuh"
#include "rows.cuh"

constexpr int STEP_THREADS = 256, STEP_WARPS = 8;

constexpr int HEAD_LANES = 16;

// Bias, norm and rotation of one head of at most 128 values by HEAD_LANES threads, as `rotate` does it; put(i, v) takes value
// i of the head. All threads of a warp call it, with `there` where they have a head.
template <class Put>
__device__ void rotate_head(bool there, const bf16* raw, const float* bias, const float* norm, const float2* angles, int dim, float eps, Put put) {
    constexpr int MOST = 128 / 2 / HEAD_LANES;
    int half = dim / 2, first = lane() % HEAD_LANES;
    float low[MOST], high[MOST], squares = 0;
#pragma unroll
    for (int n = 0; n < MOST; n++) {
        int i = first + n * HEAD_LANES;
        bool mine = there && i < half;
        low[n] = mine ? number(raw[i]) + (bias ? bias[i] : 0.0f) : 0.0f;
        high[n] = mine ? number(raw[half + i]) + (bias ? bias[half + i] : 0.0f) : 0.0f;
        squares += low[n] * low[n] + high[n] * high[n];
    }
#pragma unroll
    for (int offset = HEAD_LANES / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(ALL, squares, offset);
    float inverse = 1.0f / sqrtf(squares / dim + eps);
#pragma unroll
    for (int n = 0; n < MOST; n++) {
        int i = first + n * HEAD_LANES;
        if (!there || i >= half) continue;
        if (norm) {
            low[n] *= inverse * norm[i];
            high[n] *= inverse * norm[half + i];
        }
        float cosine = angles ? angles[i].x : 1.0f, sine = angles ? angles[i].y : 0.0f;
        put(i, rounded<bf16>(low[n] * cosine - high[n] * sine));
        put(half + i, rounded<bf16>(high[n] * cosine + low[n] * sine));
    }
}

// A head of a new row: a query, or where `head` is their number or one more, the key or the value that they share. `query`
// takes values of the former, the cache's row `kept` those of the latter.
template <class Query>
__device__ void rotate_new(bool there, int head, const bf16* raw, const float* bias, const float* query_norm, const float* key_norm,
                           const float2* angles, Shape heads, int key_head, float eps, bf16* kept, Query query) {
    int group = heads.queries / heads.keys, dim = heads.dim;
    bool asks = head < group, of_value = head > group;
    int at = asks ? (key_head * group + head) * dim : (heads.queries + (of_value ? heads.keys : 0) + key_head) * dim;
    bf16* to = kept + (of_value ? size_t(heads.keys) * dim : 0);
    rotate_head(there, raw + at, bias ? bias + at : nullptr, asks ? query_norm : of_value ? nullptr : key_norm, of_value ? nullptr : angles, dim, eps,
                [&](int i, bf16 v) {
                    if (asks) query(head, i, v);
                    else to[i] = v;
                });
}

// What a thread found of the keys that it saw, for up to G query heads: running maxima, sums, and results of eight of D values
// (arXiv 1805.02867).
template <int D, int G> struct Seen {
    static constexpr int LANES = D / 8, KEYS = 32 / LANES;
    float asked[G][8], result[G][8], max[G], sum[G];

    // Of heads whose values, times the scale, `query` gives.
    template <class Query> __device__ void start(Query query) {
#pragma unroll
        for (int h = 0; h < G; h++) {
            max[h] = NOTHING;
            sum[h] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                asked[h][i] = query(h, lane() % LANES * 8 + i);
                result[h][i] = 0;
            }
        }
    }

    // Takes the keys and values of UNROLL places; `key` is the thread's eight values of one, `seen` whether it is there.
    template <int UNROLL> __device__ void take(const uint4 (&key)[UNROLL], const uint4 (&value)[UNROLL], const bool (&seen)[UNROLL]) {
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
                float p = score[u][h] > NOTHING ? expf(score[u][h] - most) : 0.0f;
                sum[h] += p;
                score[u][h] = number(rounded<bf16>(p));
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            float v[8];
            unpack(value[u], v);
#pragma unroll
            for (int h = 0; h < G; h++)
#pragma unroll
                for (int i = 0; i < 8; i++) result[h][i] += score[u][h] * v[i];
        }
    }

    // Brings together what the threads of a warp found; the first LANES of them then have it.
    __device__ void join() {
#pragma unroll
        for (int h = 0; h < G; h++) {
            float most = max[h];
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, offset));
            float factor = expf(max[h] - most);
            max[h] = most;
            sum[h] *= factor;
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2) sum[h] += __shfl_xor_sync(ALL, sum[h], offset);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                result[h][i] *= factor;
#pragma unroll
                for (int offset = LANES; offset < 32; offset *= 2) result[h][i] += __shfl_xor_sync(ALL, result[h][i], offset);
            }
        }
    }
};

// Loads eight values each of UNROLL keys and their values, from `first` on: `row` gives the cache row of one. What is not
// there is zero.
template <int D, int UNROLL, class Row>
__device__ void load_keys(const bf16* cache, size_t stride, size_t apart, int dim, int first, int count, Row row, uint4 (&key)[UNROLL],
                          uint4 (&value)[UNROLL], bool (&seen)[UNROLL]) {
    constexpr int LANES = D / 8, KEYS = 32 / LANES;
    int part = lane() % LANES;
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        int at = first + u * KEYS + lane() / LANES;
        uint4 nothing = {0, 0, 0, 0};
        seen[u] = at < count;
        const bf16* place = cache + (seen[u] ? row(at) * stride : 0) + part * 8;
        bool there = seen[u] && part * 8 < dim;
        key[u] = there ? *reinterpret_cast<const uint4*>(place) : nothing;
        value[u] = there ? *reinterpret_cast<const uint4*>(place + apart) : nothing;
    }
}

// A block is (sequence, key head): up to G query heads share the key head. Its warps take turns at the keys, in which D / 8
// threads read a key, eight values each.
template <int D, int G>
__device__ void attend_step(const bf16* raw, const float* bias, const float* query_norm, const float* key_norm, const float2* angles,
                            Shape heads, float eps, float scale, bf16* cache, const int* cache_rows, const Slot* slots, bf16* out,
                            int out_stride) {
    constexpr int UNROLL = 2, EACH = Seen<D, G>::KEYS * UNROLL, TURN = STEP_WARPS * EACH;
    __shared__ float query[G][D];
    __shared__ float results[STEP_WARPS][G][D];
    __shared__ float maxima[STEP_WARPS][G], sums[STEP_WARPS][G];
    int dim = heads.dim, group = heads.queries / heads.keys, row = blockIdx.x, key_head = blockIdx.y;
    size_t width = size_t(heads.queries + 2 * heads.keys) * dim, stride = 2 * size_t(heads.keys) * dim;
    // What was written two kernels ago is there: the one before this has waited for it. All keys but the new one are that old.
    Slot slot = slots[row];
    SequenceKeys keys = {slot.prefix, slot.prompt_from, slot.prompt, slot.own_from, slot.own, 1};
    auto cache_row = [&](int at) { return keys.row(at, 0); };
    bf16* of_head = cache + size_t(key_head) * dim;
    size_t apart = size_t(heads.keys) * dim;
    uint4 key[UNROLL], value[UNROLL];
    bool seen[UNROLL];
    int from = warp() * EACH;
    load_keys<D>(of_head, stride, apart, dim, from, keys.count() - 1, cache_row, key, value, seen);
    for (int i = threadIdx.x; i < G * D; i += STEP_THREADS) query[i / D][i % D] = 0;
    __syncthreads();
    wait_for_earlier();
    launch_later();
    raw += row * width;
    angles += size_t(row) * (dim / 2);
    bf16* kept = of_head + cache_rows[row] * stride;
    // Two heads a warp; there are no more than twice as many as warps.
    int head = warp() * 2 + lane() / HEAD_LANES;
    rotate_new(head < group + 2, head, raw, bias, query_norm, key_norm, angles, heads, key_head, eps, kept,
               [&](int h, int i, bf16 v) { query[h][i] = number(v) * scale; });
    // The new row of the cache is this block's own, so its threads see it behind this.
    __syncthreads();
    Seen<D, G> found;
    found.start([&](int h, int i) { return query[h][i]; });
    for (; from < keys.count() - 1; from += TURN) {
        found.take(key, value, seen);
        load_keys<D>(of_head, stride, apart, dim, from + TURN, keys.count() - 1, cache_row, key, value, seen);
    }
    if (warp() == STEP_WARPS - 1) {
        load_keys<D>(of_head, stride, apart, dim, keys.count() - 1, keys.count(), cache_row, key, value, seen);
        found.take(key, value, seen);
    }
    found.join();
#pragma unroll
    for (int h = 0; h < G; h++) {
        if (lane() == 0) {
            maxima[warp()][h] = found.max[h];
            sums[warp()][h] = found.sum[h];
        }
        if (lane() < D / 8)
#pragma unroll
            for (int i = 0; i < 8; i++) results[warp()][h][lane() * 8 + i] = found.result[h][i];
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

// Rows that lie one behind the other and see the same prefix and prompt; none where `count` is 0.
struct Chunk {
    int first, count, prefix, prompt_from, prompt;
};

// Query heads of a chunk's rows, all together.
constexpr int CHUNK_QUERIES = 32;

// As `attend_step`, for rows that share a prompt. A block is (chunk, key head). Its first warps go through what the rows
// share, as tiles of queries over tiles of keys; the others through each row's own keys meanwhile; both come together at the
// end.
template <int D, int G, int KEYS, int STAGES>
__device__ void attend_chunk(const bf16* raw, const float* bias, const float* query_norm, const float* key_norm, const float2* angles,
                             Shape heads, float eps, float scale, bf16* cache, const int* cache_rows, const Slot* slots,
                             const Chunk* chunks, bf16* out, int out_stride) {
    constexpr int TILERS = CHUNK_QUERIES / 16, COUNT = 32 * TILERS, COLUMNS = KEYS / 8, WIDE = D / 8, UNROLL = 4;
    typedef Block<bf16, CHUNK_QUERIES, D> Queries;
    typedef Block<bf16, KEYS, D> Tile;
    __shared__ __align__(32) bf16 query[Queries::SIZE];
    __shared__ __align__(32) bf16 tiles[STAGES][2 * Tile::SIZE];
    __shared__ float results[CHUNK_QUERIES][D];
    __shared__ float maxima[CHUNK_QUERIES], sums[CHUNK_QUERIES];
    int dim = heads.dim, group = heads.queries / heads.keys, key_head = blockIdx.y;
    size_t width = size_t(heads.queries + 2 * heads.keys) * dim, stride = 2 * size_t(heads.keys) * dim, apart = size_t(heads.keys) * dim;
    Chunk chunk = chunks[blockIdx.x];
    bf16* of_head = cache + size_t(key_head) * dim;
    int shared = chunk.prefix + chunk.prompt, rounds = (shared + KEYS - 1) / KEYS;
    // Keys and values of prefix and prompt were there before the first step.
    auto load = [&](int round) {
        auto place = [&](int r) {
            int at = round * KEYS + r, row = at < chunk.prefix ? at : chunk.prompt_from + at - chunk.prefix;
            return at < shared ? of_head + row * stride : nullptr;
        };
        bf16* to = tiles[round % STAGES];
        load_rows_later<KEYS, D, COUNT>(to, dim, place);
        load_rows_later<KEYS, D, COUNT>(to + Tile::SIZE, dim, [&](int r) { bf16* key = place(r); return key ? key + apart : nullptr; });
    };
    if (warp() < TILERS)
        for (int round = 0; round < STAGES - 1; round++) {
            if (round < rounds && chunk.count > 0) load(round);
            end_of_copies();
        }
    for (int i = threadIdx.x; i < Queries::SIZE; i += STEP_THREADS) query[i] = rounded<bf16>(0.0f);
    __syncthreads();
    wait_for_earlier();
    launch_later();
    for (int first = warp() * 2; first < chunk.count * (group + 2); first += STEP_WARPS * 2) {
        int task = first + lane() / HEAD_LANES, place = task / (group + 2), row = chunk.first + place;
        bool there = task < chunk.count * (group + 2);
        if (!there) row = chunk.first;
        rotate_new(there, task % (group + 2), raw + row * width, bias, query_norm, key_norm, angles + size_t(row) * (dim / 2), heads, key_head, eps,
                   of_head + cache_rows[row] * stride,
                   [&](int h, int i, bf16 v) { query[(place * group + h) * Queries::STRIDE + i] = v; });
    }
    __syncthreads();
    int mine = warp() * 16, lanes = lane() / 4, quarter = lane() % 4;
    Scores<WIDE> result;
    Running running;
    float turn = scale * LOG2_E;
    if (warp() < TILERS) {
        result.clear();
        Left<D> left;
        left.load(query, mine);
        for (int round = 0; round < rounds && chunk.count > 0; round++) {
            if (round + STAGES - 1 < rounds) load(round + STAGES - 1);
            end_of_copies();
            wait_for_copies<STAGES - 1>();
            wait_for_first<COUNT>();
            const bf16 *key = tiles[round % STAGES], *value = key + Tile::SIZE;
            int from = round * KEYS;
            Scores<COLUMNS> score;
            score.clear();
            score.template add_rows<D>(left, key);
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (from + 8 * n + 2 * quarter + i % 2 >= shared) score.sums[n][i] = NOTHING;
            running.take(score, result, value, turn);
            // The next round's copies overwrite what is read here.
            wait_for_first<COUNT>();
        }
        running.end();
    } else {
        for (int place = warp() - TILERS; place < chunk.count; place += STEP_WARPS - TILERS) {
            Slot slot = slots[chunk.first + place];
            Seen<D, G> found;
            found.start([&](int h, int i) { return h < group ? number(query[(place * group + h) * Queries::STRIDE + i]) * scale : 0.0f; });
            for (int from = 0; from < slot.own; from += Seen<D, G>::KEYS * UNROLL) {
                uint4 keys[UNROLL], values[UNROLL];
                bool seen[UNROLL];
                load_keys<D>(of_head, stride, apart, dim, from, slot.own, [&](int at) { return slot.own_from + at; }, keys, values, seen);
                found.take(keys, values, seen);
            }
            found.join();
#pragma unroll
            for (int h = 0; h < G; h++) {
                if (h >= group) continue;
                if (lane() == 0) {
                    maxima[place * group + h] = found.max[h];
                    sums[place * group + h] = found.sum[h];
                }
                if (lane() < D / 8)
#pragma unroll
                    for (int i = 0; i < 8; i++) results[place * group + h][lane() * 8 + i] = found.result[h][i];
            }
        }
    }
    __syncthreads();
    if (warp() >= TILERS) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int asks = mine + lanes + 8 * half;
        if (asks >= chunk.count * group) continue;
        float of_shared = running.max[half] > NOTHING ? running.max[half] * scale : NOTHING, most = fmaxf(of_shared, maxima[asks]);
        float a = expf(of_shared - most), b = expf(maxima[asks] - most), whole = 1.0f / (a * running.sum[half] + b * sums[asks]);
        bf16* to = out + size_t(chunk.first + asks / group) * out_stride + (key_head * group + asks % group) * dim;
#pragma unroll
        for (int n = 0; n < WIDE; n++) {
            int column = 8 * n + 2 * quarter;
            if (column >= dim) continue;
            float low = a * result.sums[n][2 * half] + b * results[asks][column], high = a * result.sums[n][2 * half + 1] + b * results[asks][column + 1];
            *reinterpret_cast<uint32_t*>(to + column) = pair(low * whole, high * whole);
        }
    }
}
