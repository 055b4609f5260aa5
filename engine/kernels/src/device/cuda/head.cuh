// From logits: statistics of tokens, their gradient, and sampling.
#pragma once
#include "attention.cuh"

// A logit at a scale, rounded: where a sum holds it, taking it off again leaves nothing.
__device__ inline float scaled(float logit, float scale) {
#ifdef EMULATED
    return logit * scale;
#else
    return __fmul_rn(logit, scale);
#endif
}

// The tokens that may stand in a row's place, in rising order: all of the vocabulary, or with LISTED those of a list, where
// that is not empty.
template <bool LISTED> struct Choice;

template <> struct Choice<false> {
    int count;
    __device__ uint32_t token(int i) const { return i; }
};

// Where a row's list begins, and how long it is.
struct Listed {
    int from, count;
};

template <> struct Choice<true> {
    int count;
    const uint32_t* list;
    __device__ Choice(Listed listed, const uint32_t* tokens, int vocabulary)
        : count(listed.count ? listed.count : vocabulary), list(listed.count ? tokens + listed.from : nullptr) {}
    __device__ uint32_t token(int i) const { return list ? list[i] : i; }
};

// The same of all rows: made for one when its list may be read.
struct AllTokens {
    int count;
    __device__ Choice<false> of(int) const { return {count}; }
};

struct ListedTokens {
    const Listed* listed;
    const uint32_t* tokens;
    int vocabulary;
    __device__ Choice<true> of(int row) const { return Choice<true>(listed[row], tokens, vocabulary); }
};

// The maximum of scale * logits, the sum of exponentials relative to it, and the mean of scale * logits under the
// distribution. Every thread of the block gets them.
struct Partition {
    float max, sum, mean;
    __device__ float log_sum() const { return max + logf(sum); }
    __device__ float entropy() const { return log_sum() - mean; }
};

// The partition of a part of a distribution, relative to its own maximum, and where that is first reached.
struct Share {
    float max, sum, moment;
    int best;

    // Adds values up to which `most` is the maximum: what was summed is scaled to it (arXiv 1805.02867).
    __device__ void raise(float most) {
        float apart = max - most, factor = expf(apart);
        moment = factor * (moment + apart * sum);
        sum *= factor;
        max = most;
    }
};

__device__ inline Share joined(Share a, Share b) {
    int best = b.max > a.max || (b.max == a.max && b.best < a.best) ? b.best : a.best;
    float most = fmaxf(a.max, b.max);
    // What holds nothing keeps its sum of zero.
    if (a.max > NOTHING) a.raise(most);
    if (b.max > NOTHING) b.raise(most);
    return {most, a.sum + b.sum, a.moment + b.moment, best};
}

__device__ inline Share shared_by_warp(Share mine) {
    for (int offset = 16; offset > 0; offset /= 2) {
        Share other = {__shfl_xor_sync(ALL, mine.max, offset), __shfl_xor_sync(ALL, mine.sum, offset),
                       __shfl_xor_sync(ALL, mine.moment, offset), __shfl_xor_sync(ALL, mine.best, offset)};
        mine = joined(mine, other);
    }
    return mine;
}

// Adds the logits of places i, i + apart, ... of UNROLL that lie before `end`.
template <int UNROLL, class Tokens> __device__ inline void take(Share& mine, const float* logits, Tokens of, int i, int apart, int end, float scale) {
    float value[UNROLL], most = mine.max;
#pragma unroll
    for (int u = 0; u < UNROLL; u++) value[u] = i + apart * u < end ? scaled(logits[of.token(i + apart * u)], scale) : NOTHING;
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        if (value[u] > most) {
            most = value[u];
            mine.best = i + apart * u;
        }
    if (most == NOTHING) {
        // What is not a number has to be seen in the sum.
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (!(value[u] <= NOTHING)) mine.sum = value[u];
        return;
    }
    mine.raise(most);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        // Not `!(value > NOTHING)`, as above.
        if (value[u] <= NOTHING) continue;
        float z = value[u] - most, e = expf(z);
        mine.sum += e;
        mine.moment += e * z;
    }
}

// Of a row, by all threads of a block, which reads it once.
template <class Tokens> __device__ inline Partition partition(const float* logits, Tokens of, float scale) {
    constexpr int UNROLL = 8;
    __shared__ Share parts[32];
    Share mine = {NOTHING, 0, 0, 0};
    for (int i = threadIdx.x; i < of.count; i += UNROLL * blockDim.x) take<UNROLL>(mine, logits, of, i, blockDim.x, of.count, scale);
    mine = shared_by_warp(mine);
    __syncthreads();
    if (lane() == 0) parts[warp()] = mine;
    __syncthreads();
    Share nothing = {NOTHING, 0, 0, 0}, all = shared_by_warp(lane() < int(blockDim.x / 32) ? parts[lane()] : nothing);
    return {all.max, all.sum, all.max + all.moment / all.sum};
}

// Log-probability and entropy of each row's target among the tokens that may stand there: (rows, 2). One block a row.
template <class Tokens>
__device__ void statistics(const float* logits, const uint32_t* targets, float* out, int vocabulary, float scale, Tokens of) {
    logits += size_t(blockIdx.x) * vocabulary;
    Partition p = partition(logits, of, scale);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = scaled(logits[targets[blockIdx.x]], scale) - p.log_sum();
        out[2 * blockIdx.x + 1] = p.entropy();
    }
}

// As `statistics`, and the gradient of weights[0] * log p(target) + weights[1] * entropy with respect to the logits, which is
// zero for tokens that may not stand there. One block a row.
template <class T, bool LISTED>
__device__ void slopes(const float* logits, const uint32_t* targets, const float* weights, float* out, T* dlogits, int vocabulary, float scale,
                       Choice<LISTED> of) {
    size_t row = blockIdx.x;
    logits += row * vocabulary;
    dlogits += row * vocabulary;
    Partition p = partition(logits, of, scale);
    float log_sum = p.log_sum(), entropy = p.entropy(), of_log = weights[2 * row], of_entropy = weights[2 * row + 1];
    if (threadIdx.x == 0) {
        out[2 * row] = scaled(logits[targets[row]], scale) - log_sum;
        out[2 * row + 1] = entropy;
    }
    if (LISTED && of.count < vocabulary) {
        for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) dlogits[i] = rounded<T>(0.0f);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
        uint32_t token = of.token(i);
        float log_p = scaled(logits[token], scale) - log_sum, probability = expf(log_p);
        float slope = of_log * ((token == targets[row] ? 1.0f : 0.0f) - probability);
        slope -= of_entropy * probability * (log_p + entropy);
        dlogits[token] = rounded<T>(scale * slope);
    }
}

struct Sampled {
    uint32_t token;
    float log_probability, entropy;
};

constexpr int SAMPLE_THREADS = 1024, SAMPLE_WARPS = 32;

// The first of these sums, in their order, that `left` does not pass, and what is left in it; else the last that is
// more than zero. Every warp takes its own. The same for all threads of a warp.
__device__ inline int passed(double sum, double& left) {
    double through = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
        double before = __shfl_up_sync(ALL, through, offset);
        if (lane() >= offset) through += before;
    }
    unsigned over = __ballot_sync(ALL, sum > 0 && left < through), any = __ballot_sync(ALL, sum > 0);
    int at = over ? __ffs(over) - 1 : any ? 31 - __clz(any) : 0;
    left -= __shfl_sync(ALL, through - sum, at);
    return at;
}

// What a row of a decoding step reads, written for the next step by the thread that sampled its token; `tokens` is null where
// the host writes it. A sequence that has its last row (`ends`) goes on in a row that no other one sees, until the host takes
// it away.
struct Next {
    uint32_t* tokens;
    int* positions;
    int* cache_rows;
    Slot* slots;
    const int* ends;
    int spare;

    __device__ void go(int row, uint32_t token) const {
        if (!tokens) return;
        tokens[row] = token;
        if (cache_rows[row] + 1 < ends[row]) {
            positions[row] += 1;
            cache_rows[row] += 1;
            slots[row].own += 1;
        } else {
            cache_rows[row] = spare;
            slots[row] = {0, 0, 0, spare, 1};
        }
    }
};

// Samples a token a row among those that may stand there: where the running sum of probabilities, in their order, passes
// uniforms[row];
// the first of the most probable ones where `greedy`. The statistics are those at `scale`. One block of 1,024 threads a
// row: each warp reads a stretch of them, once; the stretch that is passed is then looked for by all of them.
template <class Tokens>
__device__ void sample_row(const float* logits, const double* uniforms, Sampled* out, int vocabulary, float scale, int greedy, Next next, Tokens tokens) {
    __shared__ Share stretches[SAMPLE_WARPS];
    __shared__ double sums[SAMPLE_WARPS];
    constexpr int UNROLL = 8;
    wait_for_earlier();
    launch_later();
    auto of = tokens.of(blockIdx.x);
    logits += size_t(blockIdx.x) * vocabulary;
    int each = (of.count + SAMPLE_WARPS - 1) / SAMPLE_WARPS, from = min(warp() * each, of.count), to = min(from + each, of.count);
    Share mine = {NOTHING, 0, 0, from};
    for (int i = from + lane(); i - lane() < to; i += 32 * UNROLL) take<UNROLL>(mine, logits, of, i, 32, to, scale);
    mine = shared_by_warp(mine);
    if (lane() == 0) stretches[warp()] = mine;
    __syncthreads();
    Share own = stretches[lane()], all = shared_by_warp(own);
    float log_sum = all.max + logf(all.sum), entropy = logf(all.sum) - all.moment / all.sum;
    int chosen = all.best;
    if (!greedy) {
        double weight = own.max > NOTHING ? double(own.sum) * exp(double(own.max - all.max)) : 0;
        double total = weight, left;
        for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(ALL, total, offset);
        left = uniforms[blockIdx.x] * total;
        int stretch = passed(weight, left);
        // The same again in that stretch, and then in the part of it that a warp had.
        int start = min(stretch * each, of.count), end = min(start + each, of.count), part = (each + SAMPLE_WARPS - 1) / SAMPLE_WARPS;
        double sum = 0;
        for (int i = start + warp() * part + lane(); i < min(start + (warp() + 1) * part, end); i += 32) sum += expf(scaled(logits[of.token(i)], scale) - all.max);
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL, sum, offset);
        if (lane() == 0) sums[warp()] = sum;
        __syncthreads();
        if (warp() != 0) return;
        int place = passed(sums[lane()], left);
        int first = start + place * part, last = min(first + part, end);
        chosen = first;
        for (int i = first; i < last; i += 32) {
            double p = i + lane() < last ? expf(scaled(logits[of.token(i + lane())], scale) - all.max) : 0;
            double some = p;
            for (int offset = 16; offset > 0; offset /= 2) some += __shfl_xor_sync(ALL, some, offset);
            if (some > 0) {
                bool here = left < some;
                chosen = i + passed(p, left);
                if (here) break;
                // `passed` took off all but the last; what is left is behind these.
                left = fmax(left - __shfl_sync(ALL, p, chosen - i), 0.0);
            }
        }
    }
    if (threadIdx.x == 0) {
        uint32_t token = of.token(chosen);
        out[blockIdx.x] = {token, scaled(logits[token], scale) - log_sum, entropy};
        next.go(blockIdx.x, token);
    }
}
