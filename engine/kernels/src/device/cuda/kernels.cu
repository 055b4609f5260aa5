// The kernels by name. `cargo xtask cuda` compiles this file to kernels.ptx, which the engine embeds.
#include "rows.cuh"
#include "head.cuh"
#include "optimizer.cuh"
#include "attention.cuh"
#include "flash.cuh"
#include "products.cuh"
#include "step.cuh"

#define ROWS(T, F)                                                                                                     \
    extern "C" __global__ void embed_##F(const T* table, const uint32_t* tokens, float* x, int width,                  \
                                         const int* positions, const double* frequencies, int half, float2* angles) {  \
        embed<T>(table, tokens, x, width, positions, frequencies, half, angles);                                       \
    }                                                                                                                  \
    extern "C" __global__ void rms_norm_##F(const float* x, const int* rows, const float* weight, T* out, int width,   \
                                            int stride, float eps, int count, int each, int together) {                \
        if (each == 4) rms_norm<4, T>(x, rows, weight, out, width, stride, eps, count, together);                      \
        else rms_norm<1, T>(x, rows, weight, out, width, stride, eps, count, together);                                \
    }                                                                                                                  \
    extern "C" __global__ void rms_norm_backward_##F(const float* x, const float* weight, const T* dy, float* dx,      \
                                                     int width, int stride, float eps, T* as_read, int count,          \
                                                     int each) {                                                       \
        if (each == 4) rms_norm_backward<4, T>(x, weight, dy, dx, width, stride, eps, as_read, count);                 \
        else rms_norm_backward<1, T>(x, weight, dy, dx, width, stride, eps, as_read, count);                           \
    }                                                                                                                  \
    extern "C" __global__ void rotate_##F(const T* raw, T* qkv, const float* bias, const float* query_norm,            \
                                          const float* key_norm, const float2* angles, Shape heads, float eps,         \
                                          T* cache, const int* cache_rows) {                                           \
        rotate<T>(raw, qkv, bias, query_norm, key_norm, angles, heads, eps, cache, cache_rows);                        \
    }                                                                                                                  \
    extern "C" __global__ void rotate_backward_##F(const T* raw, T* dqkv, const float* bias, const float* query_norm,  \
                                                   const float* key_norm, const float2* angles, Shape heads,           \
                                                   float eps) {                                                        \
        rotate_backward<T>(raw, dqkv, bias, query_norm, key_norm, angles, heads, eps);                                 \
    }                                                                                                                  \
    extern "C" __global__ void swiglu_##F(const T* gate_up, T* out, int wide, int stride, int rows, int each) {        \
        if (each == 4) swiglu<4, T>(gate_up, out, wide, stride, rows);                                                 \
        else swiglu<1, T>(gate_up, out, wide, stride, rows);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void swiglu_backward_##F(const T* gate_up, const T* dout, T* dgate_up, int wide, int stride, \
                                                   int rows, int each) {                                               \
        if (each == 4) swiglu_backward<4, T>(gate_up, dout, dgate_up, wide, stride, rows);                             \
        else swiglu_backward<1, T>(gate_up, dout, dgate_up, wide, stride, rows);                                       \
    }                                                                                                                  \
    extern "C" __global__ void place_##F(const float* from, T* to, int rows, int columns, int from_stride,             \
                                         int to_stride, float factor, int each) {                                      \
        if (each == 4) place<4, T>(from, to, rows, columns, from_stride, to_stride, factor);                           \
        else place<1, T>(from, to, rows, columns, from_stride, to_stride, factor);                                     \
    }                                                                                                                  \
    extern "C" __global__ void move_##F(const T* from, T* to, int rows, int columns, int from_stride, int to_stride,   \
                                        int each) {                                                                    \
        if (each == 4) move<4, T>(from, to, rows, columns, from_stride, to_stride);                                    \
        else move<1, T>(from, to, rows, columns, from_stride, to_stride);                                              \
    }                                                                                                                  \
    extern "C" __global__ void slopes_##F(const float* logits, const uint32_t* targets, const float* weights,          \
                                          float* out, T* dlogits, int vocabulary, float scale) {                       \
        slopes<T>(logits, targets, weights, out, dlogits, vocabulary, scale, Choice<false>{vocabulary});               \
    }                                                                                                                  \
    extern "C" __global__ void slopes_within_##F(const float* logits, const uint32_t* targets, const float* weights,   \
                                                 float* out, T* dlogits, int vocabulary, float scale,                  \
                                                 const Listed* listed, const uint32_t* tokens) {                       \
        slopes<T>(logits, targets, weights, out, dlogits, vocabulary, scale,                                           \
                  Choice<true>(listed[blockIdx.x], tokens, vocabulary));                                               \
    }                                                                                                                  \
    extern "C" __global__ void attend_delta_##F(const T* out, const T* dout, int stride, Shape heads, float* delta) {  \
        attend_delta<T>(out, dout, stride, heads, delta);                                                              \
    }
FOR_BOTH(ROWS)

// What attention over trees is made of, by format and width of heads: in single precision, and in bf16.
#define TREES(T, F, D, BLOCKS, TREE, QUERIES, KEYS)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_tree_##D##_##F(                                       \
        const T* qkv, int qkv_stride, const T* k, const T* v, int kv_stride, const int* ends, const int* tile_ends,    \
        int first, int rows, Shape heads, float scale, T* out, int out_stride, float* log_sums) {                      \
        TREE(qkv, qkv_stride, k, v, kv_stride, ends, tile_ends, first, rows, heads, scale, out, out_stride, log_sums); \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_backward_queries_##D##_##F(                           \
        const T* qkv, int stride, const T* dout, int dout_stride, const float* log_sums, const float* delta,           \
        const int* ends, const int* tile_ends, int rows, Shape heads, float scale, T* dqkv) {                          \
        QUERIES(qkv, stride, dout, dout_stride, log_sums, delta, ends, tile_ends, rows, heads, scale, dqkv);           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attend_backward_keys_##D##_##F(                              \
        const T* qkv, int stride, const T* dout, int dout_stride, const float* log_sums, const float* delta,           \
        const int* ends, const KeyWork* work, int rows, Shape heads, float scale, T* dqkv, float* partial) {           \
        KEYS;                                                                                                          \
    }
#define SINGLE(D)                                                                                                      \
    TREES(float, f32, D, 1, (attend_tree<float, D>), (attend_backward_queries<float, D>), (attend_backward_keys<float, D>(qkv, stride, dout, dout_stride, log_sums, delta, ends, work, rows, heads, scale, dqkv)))
SINGLE(64)
SINGLE(128)
TREES(bf16, bf16, 64, 3, flash_tree<64>, flash_backward_queries<64>, 
      (flash_backward_keys<64, 64, 32>(qkv, stride, dout, dout_stride, log_sums, delta, ends, work, rows, heads, scale, dqkv, partial)))
TREES(bf16, bf16, 128, 1, flash_tree<128>, flash_backward_queries<128>, 
      (flash_backward_keys<128, 32, 16>(qkv, stride, dout, dout_stride, log_sums, delta, ends, work, rows, heads, scale, dqkv, partial)))

#define SUM_KEYS(D)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_keys_##D##_bf16(                                         \
        const float* partial, const KeySum* sums, int rows, int stride, Shape heads, bf16* dqkv) {                     \
        flash_sum_keys<D>(partial, sums, rows, stride, heads, dqkv);                                                   \
    }
SUM_KEYS(64)
SUM_KEYS(128)

#define ONE(T, F, D)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_one_##D##_##F(                                        \
        const T* qkv, int qkv_stride, const T* k, const T* v, int kv_stride, const Slot* slots, Shape heads,           \
        float scale, T* out, int out_stride) {                                                                         \
        attend_one<T, D>(qkv, qkv_stride, k, v, kv_stride, slots, heads, scale, out, out_stride);                      \
    }
#define BOTH_WIDTHS(T, F) ONE(T, F, 64) ONE(T, F, 128)
FOR_BOTH(BOTH_WIDTHS)

extern "C" __global__ void gather_sums_f32(const float* from, const int* order, const int* offsets, const int* targets,
                                           float* to, int width) {
    gather_sums(from, order, offsets, targets, to, width);
}

extern "C" __global__ void statistics_f32(const float* logits, const uint32_t* targets, float* out, int vocabulary,
                                          float scale) {
    statistics(logits, targets, out, vocabulary, scale, Choice<false>{vocabulary});
}

extern "C" __global__ void statistics_within_f32(const float* logits, const uint32_t* targets, float* out, int vocabulary,
                                                 float scale, const Listed* listed, const uint32_t* tokens) {
    statistics(logits, targets, out, vocabulary, scale, Choice<true>(listed[blockIdx.x], tokens, vocabulary));
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample_f32(
    const float* logits, const double* uniforms, Sampled* out, int vocabulary, float scale, int greedy, uint32_t* tokens,
    int* positions, int* cache_rows, Slot* slots, const int* ends, int spare) {
    sample_row(logits, uniforms, out, vocabulary, scale, greedy, {tokens, positions, cache_rows, slots, ends, spare},
         AllTokens{vocabulary});
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample_within_f32(
    const float* logits, const double* uniforms, Sampled* out, int vocabulary, float scale, int greedy, const Listed* listed,
    const uint32_t* tokens) {
    sample_row(logits, uniforms, out, vocabulary, scale, greedy, {}, ListedTokens{listed, tokens, vocabulary});
}

extern "C" __global__ void squares_f32(const float* values, double* partial, long long count) {
    squares(values, partial, count);
}

extern "C" __global__ void adamw_f32(float* values, const float* gradient, float* m, float* v, long long count, AdamW constants) {
    adamw(values, gradient, m, v, count, constants);
}

#define FEW(NAME, KIND, TILES, HALVES)                                                                                 \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS) few_##NAME##_##TILES##_##HALVES(                         \
        const float* x, const float* norm, const bf16* rows, int normed, int inner, int stride, int count, int scaled, \
        float eps, const bf16* weights, int weight_stride, int columns, void* out, int out_stride) {                   \
        few<TILES, HALVES, Few::KIND>({x, norm, rows, normed, inner, stride, count, scaled, eps}, weights,             \
                                      weight_stride, columns, out, out_stride);                                        \
    }
#define FEW_OF(NAME, KIND) FEW(NAME, KIND, 1, 1) FEW(NAME, KIND, 1, 2) FEW(NAME, KIND, 2, 1) FEW(NAME, KIND, 2, 2)
FEW_OF(round, ROUND)
FEW_OF(store, STORE)
FEW_OF(add, ADD)
FEW(swiglu, SWIGLU, 2, 1)
FEW(swiglu, SWIGLU, 2, 2)

#define ROW(NAME, KIND, R)                                                                                             \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS) row_##NAME##_##R(                                        \
        const float* x, const float* norm, const bf16* rows, int normed, int inner, int stride, int count, int scaled, \
        float eps, const bf16* weights, int weight_stride, int columns, void* out, int out_stride) {                   \
        row<R, Few::KIND>({x, norm, rows, normed, inner, stride, count, scaled, eps}, weights, weight_stride, columns, \
                          out, out_stride);                                                                            \
    }
#define ROWS_OF(NAME, KIND) ROW(NAME, KIND, 1) ROW(NAME, KIND, 2) ROW(NAME, KIND, 4)
ROWS_OF(round, ROUND)
ROWS_OF(store, STORE)
ROWS_OF(add, ADD)
ROWS_OF(swiglu, SWIGLU)

#define STEP(D, G)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(STEP_THREADS) attend_step_##D##_##G(                                  \
        const bf16* raw, const float* bias, const float* query_norm, const float* key_norm, const float2* angles,      \
        Shape heads, float eps, float scale, bf16* cache, const int* cache_rows, const Slot* slots, bf16* out,         \
        int out_stride) {                                                                                              \
        attend_step<D, G>(raw, bias, query_norm, key_norm, angles, heads, eps, scale, cache, cache_rows, slots, out,   \
                          out_stride);                                                                                 \
    }
#define CHUNKS(D, G, KEYS, STAGES, BLOCKS)                                                                                             \
    extern "C" __global__ void __launch_bounds__(STEP_THREADS, BLOCKS) attend_chunk_##D##_##G(                                 \
        const bf16* raw, const float* bias, const float* query_norm, const float* key_norm, const float2* angles,      \
        Shape heads, float eps, float scale, bf16* cache, const int* cache_rows, const Slot* slots,                    \
        const Chunk* chunks, bf16* out, int out_stride) {                                                              \
        attend_chunk<D, G, KEYS, STAGES>(raw, bias, query_norm, key_norm, angles, heads, eps, scale, cache, cache_rows, slots, \
                                 chunks, out, out_stride);                                                             \
    }
CHUNKS(64, 4, 32, 3, 2)
CHUNKS(64, 8, 32, 3, 1)
CHUNKS(128, 4, 16, 2, 1)
CHUNKS(128, 8, 16, 2, 1)
STEP(64, 4)
STEP(64, 8)
STEP(128, 4)
STEP(128, 8)
