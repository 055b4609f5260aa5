// The optimiser: the gradient's norm, and AdamW (Loshchilov and Hutter 2019).
#pragma once
#include "common.cuh"

// partial[block] = the sum of squares of a share of the values, in double precision; not finite where a value is not.
__device__ inline void squares(const float* values, double* partial, long long count) {
    double sum = 0;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) sum += double(values[i]) * values[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

struct AdamW {
    double learning_rate, beta1, beta2, epsilon, weight_decay, correct1, correct2, factor;
};

// One update of values and moments; the gradient is scaled by `factor` (clipping). One thread a value.
__device__ inline void adamw(float* values, const float* gradient, float* m, float* v, long long count, AdamW c) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    // As on the CPU: stored in single precision, computed in double.
    double g = c.factor == 1.0 ? double(gradient[i]) : double(float(double(gradient[i]) * c.factor));
    m[i] = float(c.beta1 * m[i] + (1.0 - c.beta1) * g);
    v[i] = float(c.beta2 * v[i] + (1.0 - c.beta2) * g * g);
    double decayed = double(values[i]) * (1.0 - c.learning_rate * c.weight_decay);
    double direction = (double(m[i]) / c.correct1) / (sqrt(double(v[i]) / c.correct2) + c.epsilon);
    values[i] = float(decayed - c.learning_rate * direction);
}
