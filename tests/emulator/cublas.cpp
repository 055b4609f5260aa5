// A cuBLAS without a device: plain loops over what the emulated driver allocates.
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" void emulator_enqueue(void (*work)(void*), void* argument, void (*drop)(void*));

namespace {
enum { F32 = 0, BF16 = 14 };

double read(const void* from, int type, size_t i) {
    if (type == F32) return static_cast<const float*>(from)[i];
    uint32_t bits = uint32_t(static_cast<const uint16_t*>(from)[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
void write(void* to, int type, size_t i, float value) {
    if (type == F32) {
        static_cast<float*>(to)[i] = value;
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value == value) bits += 0x7fff + ((bits >> 16) & 1);
    static_cast<uint16_t*>(to)[i] = uint16_t(bits >> 16);
}

struct Product {
    int flip_a, flip_b, m, n, k;
    float alpha, beta;
    const void *a, *b;
    void* c;
    int a_type, b_type, c_type;
    size_t lda, ldb, ldc;

    // Columns lie one behind the other.
    void run() const {
        std::vector<double> left(k);
        for (int i = 0; i < m; i++) {
            for (int l = 0; l < k; l++) left[l] = read(a, a_type, flip_a ? i * lda + l : l * lda + i);
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int l = 0; l < k; l++) sum += left[l] * read(b, b_type, flip_b ? l * ldb + j : j * ldb + l);
                // What is in the result is not looked at where it does not count.
                double old = beta == 0 ? 0 : beta * read(c, c_type, j * ldc + i);
                write(c, c_type, j * ldc + i, float(alpha * sum + old));
            }
        }
    }
};
}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

API cublasCreate_v2(void** handle) {
    static int one;
    return *handle = &one, 0;
}
API cublasDestroy_v2(void*) { return 0; }
API cublasSetStream_v2(void*, void*) { return 0; }
API cublasSetMathMode(void*, int) { return 0; }
API cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
API cublasGemmEx(void*, int flip_a, int flip_b, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
                 int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int, int) {
    if (m <= 0 || n <= 0 || k <= 0 || lda < (flip_a ? k : m) || ldb < (flip_b ? n : k) || ldc < m) return 7;
    // As the real one: both factors in one format, and a result in theirs or in single precision.
    if (a_type != b_type || (c_type != F32 && c_type != a_type)) return 15;
    auto* product = new Product{flip_a, flip_b, m, n, k, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, a_type, b_type, c_type, size_t(lda), size_t(ldb), size_t(ldc)};
    emulator_enqueue([](void* p) { static_cast<Product*>(p)->run(); }, product, [](void* p) { delete static_cast<Product*>(p); });
    return 0;
}
