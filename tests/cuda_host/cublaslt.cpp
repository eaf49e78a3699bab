// A stand-in for libcublasLt.so.13, in host memory: the twelve calls that quant/cuda/products.cpp looks up, by the real headers,
// for the two products it asks for, bf16 and block-scaled FP4 to fp32.
//
// It does what cuBLAS's documentation says (13: cublasLtMatmul(), "Tensor Core Usage", "1D Block Scaling Factors Layout") and
// refuses everything else: attributes that it does not know or of another size, forms and types that are not in its tables,
// FP4 without 16-byte dimensions, scales where none belong, pointers less aligned than the heuristics were told, an algorithm
// of another product, too little workspace; whatever the workspace holds it overwrites. Nothing here knows fp4_layout.h. It
// cannot show which kernels the library has for a shape, their order of sums or their speed.
#include <cublasLt.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr std::size_t version = 139999;  // of no release: who opened this one sees it
constexpr std::size_t needed_workspace = 1 << 20;
constexpr std::uint64_t own_algorithm = 0x617373617920414cu;

struct Product {
  std::int32_t transposed_a = CUBLAS_OP_N, transposed_b = CUBLAS_OP_N;
  std::int32_t mode_a = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, mode_b = mode_a;
  const void* scales_a = nullptr;
  const void* scales_b = nullptr;
};
struct Matrix {
  cudaDataType type;
  std::uint64_t rows, cols;
  std::int64_t stride;  // from column to column
  bool operator==(const Matrix&) const = default;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

std::atomic<int> alive{0};  // descriptors
int the_handle = 0;

// The headers' descriptors are opaque: ours lie behind their pointers.
const Product& of(cublasLtMatmulDesc_t it) { return *reinterpret_cast<const Product*>(it); }
const Matrix& of(cublasLtMatrixLayout_t it) { return *reinterpret_cast<const Matrix*>(it); }
const Preference& of(cublasLtMatmulPreference_t it) { return *reinterpret_cast<const Preference*>(it); }
template <class Ours, class Theirs>
cublasStatus_t create(Theirs* to, const Ours& value) {
  if (!to) return CUBLAS_STATUS_INVALID_VALUE;
  *to = reinterpret_cast<Theirs>(new Ours(value));
  ++alive;
  return CUBLAS_STATUS_SUCCESS;
}
template <class Ours, class Theirs>
cublasStatus_t destroy(Theirs it) {
  if (!it) return CUBLAS_STATUS_INVALID_VALUE;
  delete reinterpret_cast<Ours*>(it);
  --alive;
  return CUBLAS_STATUS_SUCCESS;
}
template <class Value>
cublasStatus_t set(Value& to, const void* from, std::size_t bytes) {
  if (!from || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
bool aligned(const void* at, std::uint64_t bytes) { return reinterpret_cast<std::uintptr_t>(at) % bytes == 0; }

// D [m, n] = op(A) [m, k] op(B) [k, n].
struct Shape {
  std::int64_t m, n, k;
};

cublasStatus_t shape_of(const Product& product, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& d, Shape& to) {
  const bool ta = product.transposed_a == CUBLAS_OP_T, tb = product.transposed_b == CUBLAS_OP_T;
  const std::uint64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols, n = tb ? b.rows : b.cols;
  if ((tb ? b.cols : b.rows) != k || d.rows != m || d.cols != n || !(c == d)) return CUBLAS_STATUS_INVALID_VALUE;
  to = {static_cast<std::int64_t>(m), static_cast<std::int64_t>(n), static_cast<std::int64_t>(k)};
  if (d.type != CUDA_R_32F || a.type != b.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (a.type == CUDA_R_16BF) {
    const bool scaled = product.scales_a || product.scales_b || product.mode_a != CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F ||
                        product.mode_b != CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    return scaled ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
  }
  if (a.type != CUDA_R_4F_E2M1 || !ta || tb) return CUBLAS_STATUS_NOT_SUPPORTED;
  constexpr std::int32_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  if (product.mode_a != blocks || product.mode_b != blocks) return CUBLAS_STATUS_NOT_SUPPORTED;
  // 16 bytes: 32 elements of FP4, 4 of fp32.
  const bool whole = k % 32 == 0 && a.stride % 32 == 0 && b.stride % 32 == 0 && m % 4 == 0 && d.stride % 4 == 0;
  return whole ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

float e2m1(unsigned code) {
  constexpr float values[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  return code & 8 ? -values[code & 7] : values[code & 7];
}
float ue4m3(unsigned byte) {  // the sign is ignored
  const int exponent = byte >> 3 & 15, fraction = byte & 7;
  if ((byte & 127) == 127) return NAN;
  return exponent ? std::ldexp(static_cast<float>(8 + fraction), exponent - 10) : std::ldexp(static_cast<float>(fraction), -9);
}

// op(A)'s rows or op(B)'s columns, k elements each, as fp32: exact.
std::vector<float> lines_of(const Matrix& matrix, const void* data, bool along_columns, const void* scales) {
  const auto count = static_cast<std::int64_t>(along_columns ? matrix.cols : matrix.rows);
  const auto k = static_cast<std::int64_t>(along_columns ? matrix.rows : matrix.cols);
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  std::vector<float> to(static_cast<std::size_t>(count * k));
  for (std::int64_t line = 0; line < count; ++line)
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t at = along_columns ? line * matrix.stride + i : i * matrix.stride + line;
      float& value = to[static_cast<std::size_t>(line * k + i)];
      if (matrix.type == CUDA_R_16BF) {
        const std::uint32_t bits = static_cast<std::uint32_t>(bytes[2 * at] | bytes[2 * at + 1] << 8) << 16;
        std::memcpy(&value, &bits, sizeof value);
        continue;
      }
      // Scales lie in tiles of 128 lines and 4 blocks, tiles row by row; each row of scales is filled up to whole tiles.
      const std::int64_t inner = i / 16, inner_dim = (k / 16 + 3) / 4 * 4, tile = (inner / 4 * 4 + line / 128 * inner_dim) * 128;
      const std::int64_t outer = line % 128, offset = outer % 32 * 16 + outer / 32 * 4 + inner % 4;
      value = e2m1(bytes[at / 2] >> (at % 2 * 4) & 15u) * ue4m3(static_cast<const std::uint8_t*>(scales)[tile + offset]);
    }
  return to;
}

// Sixteen fp32 sums beside each other, as a vector unit has them. Watched by TSan it would take minutes.
__attribute__((no_sanitize("thread"))) float dot(const float* a, const float* b, std::int64_t k) {
  float sums[16] = {}, sum = 0;
  std::int64_t i = 0;
  for (; i + 16 <= k; i += 16)
    for (int lane = 0; lane < 16; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  for (; i < k; ++i) sum += a[i] * b[i];
  for (const float each : sums) sum += each;
  return sum;
}

// What an algorithm was chosen for.
cublasLtMatmulAlgo_t algorithm_for(const Product& product, const Matrix& a, const Shape& shape, const Preference& preference) {
  const auto& [m, n, k] = shape;
  cublasLtMatmulAlgo_t algo{};
  algo.data[0] = own_algorithm;
  algo.data[1] = static_cast<std::uint64_t>(m);
  algo.data[2] = static_cast<std::uint64_t>(n);
  algo.data[3] = static_cast<std::uint64_t>(k);
  algo.data[4] = static_cast<std::uint64_t>(a.type * 256 + product.transposed_a * 16 + product.transposed_b);
  for (int i = 0; i < 4; ++i) algo.data[5 + i / 2] |= static_cast<std::uint64_t>(preference.alignment[i]) << (i % 2 * 32);
  return algo;
}

}  // namespace

extern "C" {

// For tests.
int assay_cublaslt_alive() { return alive; }

std::size_t cublasLtGetVersion() { return version; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&the_handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* to, cublasComputeType_t compute, cudaDataType scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return create(to, Product{});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t it) { return destroy<Product>(it); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t it, cublasLtMatmulDescAttributes_t what, const void* from,
                                              std::size_t bytes) {
  auto& product = *reinterpret_cast<Product*>(it);
  switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(product.transposed_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(product.transposed_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: return set(product.mode_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: return set(product.mode_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: return set(product.scales_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: return set(product.scales_b, from, bytes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* to, cudaDataType type, std::uint64_t rows, std::uint64_t cols,
                                          std::int64_t stride) {
  if (rows == 0 || cols == 0 || stride < static_cast<std::int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  return create(to, Matrix{type, rows, cols, stride});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t it) { return destroy<Matrix>(it); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* to) { return create(to, Preference{}); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t it) { return destroy<Preference>(it); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t it, cublasLtMatmulPreferenceAttributes_t what,
                                                    const void* from, std::size_t bytes) {
  auto& preference = *reinterpret_cast<Preference*>(it);
  switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(preference.workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(preference.alignment[0], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(preference.alignment[1], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(preference.alignment[2], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(preference.alignment[3], from, bytes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (handle != reinterpret_cast<cublasLtHandle_t>(&the_handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!desc || !a || !b || !c || !d || !preference || asked < 1 || !results) return CUBLAS_STATUS_INVALID_VALUE;
  Shape shape{};
  if (const auto status = shape_of(of(desc), of(a), of(b), of(c), of(d), shape); status != CUBLAS_STATUS_SUCCESS) return status;
  if (of(preference).workspace < needed_workspace) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  results[0].algo = algorithm_for(of(desc), of(a), shape, of(preference));
  results[0].workspaceSize = needed_workspace;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t of_a, const void* b, cublasLtMatrixLayout_t of_b, const void* beta,
                              const void* c, cublasLtMatrixLayout_t of_c, void* d, cublasLtMatrixLayout_t of_d,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, std::size_t workspace_bytes, cudaStream_t) {
  if (handle != reinterpret_cast<cublasLtHandle_t>(&the_handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!desc || !alpha || !beta || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
  if (!of_a || !of_b || !of_c || !of_d || !algo) return CUBLAS_STATUS_INVALID_VALUE;
  const Product& product = of(desc);
  Shape shape{};
  const auto status = shape_of(product, of(of_a), of(of_b), of(of_c), of(of_d), shape);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  Preference promised;
  const void* const pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    promised.alignment[i] = static_cast<std::uint32_t>(algo->data[5 + i / 2] >> (i % 2 * 32));
    if (promised.alignment[i] == 0 || !aligned(pointers[i], promised.alignment[i])) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const cublasLtMatmulAlgo_t wanted = algorithm_for(product, of(of_a), shape, promised);
  if (std::memcmp(&wanted, algo, sizeof wanted) != 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (!workspace || workspace_bytes < needed_workspace || !aligned(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
  if (of(of_a).type == CUDA_R_4F_E2M1)
    for (const void* scales : {product.scales_a, product.scales_b})
      if (!scales || !aligned(scales, 16)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memset(workspace, 0xee, workspace_bytes);
  const auto x = lines_of(of(of_a), a, product.transposed_a == CUBLAS_OP_T, product.scales_a);
  const auto y = lines_of(of(of_b), b, product.transposed_b == CUBLAS_OP_N, product.scales_b);
  const float factor = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  for (std::int64_t j = 0; j < shape.n; ++j)
    for (std::int64_t i = 0; i < shape.m; ++i) {
      const std::int64_t at = j * of(of_d).stride + i;
      const float old = keep == 0 ? 0 : keep * static_cast<const float*>(c)[at];  // with 0, C is not read
      static_cast<float*>(d)[at] = factor * dot(x.data() + i * shape.k, y.data() + j * shape.k, shape.k) + old;
    }
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
