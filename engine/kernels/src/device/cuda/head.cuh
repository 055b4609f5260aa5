// From logits: statistics of tokens, their gradient, and sampling.
#pragma once
#include "common.cuh"

// The maximum of scale * logits, the sum of exponentials relative to it, and the mean of scale * logits under the
// distribution. Every thread of the block gets them.
struct Partition {
    float max, sum, mean;
    __device__ float log_sum() const { return max + logf(sum); }
    __device__ float entropy() const { return log_sum() - mean; }
};

__device__ inline Partition partition(const float* logits, int vocabulary, float scale) {
    float max = NOTHING, sum = 0, moment = 0;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) max = fmaxf(max, logits[i] * scale);
    max = block_max(max);
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        // Relative to the maximum, so that nothing cancels.
        float z = logits[i] * scale - max, e = expf(z);
        sum += e;
        moment += e * z;
    }
    sum = block_sum(sum);
    moment = block_sum(moment);
    return {max, sum, max + moment / sum};
}

// Log-probability and entropy of each row's target: (rows, 2). One block a row.
__device__ inline void statistics(const float* logits, const uint32_t* targets, float* out, int vocabulary, float scale) {
    logits += size_t(blockIdx.x) * vocabulary;
    Partition p = partition(logits, vocabulary, scale);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = logits[targets[blockIdx.x]] * scale - p.log_sum();
        out[2 * blockIdx.x + 1] = p.entropy();
    }
}

// As `statistics`, and the gradient of weights[0] * log p(target) + weights[1] * entropy with respect to the logits.
// One block a row.
template <class T>
__device__ void slopes(const float* logits, const uint32_t* targets, const float* weights, float* out, T* dlogits, int vocabulary, float scale) {
    size_t row = blockIdx.x;
    logits += row * vocabulary;
    dlogits += row * vocabulary;
    Partition p = partition(logits, vocabulary, scale);
    float log_sum = p.log_sum(), entropy = p.entropy(), of_log = weights[2 * row], of_entropy = weights[2 * row + 1];
    if (threadIdx.x == 0) {
        out[2 * row] = logits[targets[row]] * scale - log_sum;
        out[2 * row + 1] = entropy;
    }
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        float log_p = logits[i] * scale - log_sum, probability = expf(log_p);
        float slope = of_log * ((uint32_t(i) == targets[row] ? 1.0f : 0.0f) - probability);
        slope -= of_entropy * probability * (log_p + entropy);
        dlogits[i] = rounded<T>(scale * slope);
    }
}

struct Drawn {
    uint32_t token;
    float log_probability, entropy;
};

// Samples a token a row: where the running sum of probabilities, in the order of the vocabulary, passes uniforms[row];
// the first of the most probable ones where `greedy`. The statistics are those at `scale`. One block of 256 threads a row.
__device__ inline void draw(const float* logits, const double* uniforms, Drawn* out, int vocabulary, float scale, int greedy) {
    __shared__ double sums[256];
    __shared__ int best[256];
    logits += size_t(blockIdx.x) * vocabulary;
    Partition p = partition(logits, vocabulary, scale);
    int each = (vocabulary + blockDim.x - 1) / blockDim.x;
    int from = threadIdx.x * each, to = min(from + each, vocabulary);
    double sum = 0;
    int at = -1;
    for (int i = from; i < to; i++) {
        sum += expf(logits[i] * scale - p.max);
        if (at < 0 || logits[i] > logits[at]) at = i;
    }
    sums[threadIdx.x] = sum;
    best[threadIdx.x] = at;
    __syncthreads();
    if (threadIdx.x != 0) return;
    int chosen = 0;
    if (greedy) {
        for (int t = 0; t < int(blockDim.x); t++)
            if (best[t] >= 0 && (t == 0 || logits[best[t]] > logits[chosen])) chosen = best[t];
    } else {
        double total = 0;
        int last = 0;
        for (int t = 0; t < int(blockDim.x); t++) {
            total += sums[t];
            if (sums[t] > 0) last = t;
        }
        double left = uniforms[blockIdx.x] * total;
        int stretch = 0;
        while (stretch < last && left >= sums[stretch]) left -= sums[stretch++];
        // Where rounding leaves a gap at the end, the last token that has any weight is taken.
        for (int i = stretch * each; i < min((stretch + 1) * each, vocabulary); i++) {
            double probability = expf(logits[i] * scale - p.max);
            if (probability > 0) {
                chosen = i;
                left -= probability;
                if (left < 0) break;
            }
        }
    }
    out[blockIdx.x] = {uint32_t(chosen), logits[chosen] * scale - p.log_sum(), p.entropy()};
}
