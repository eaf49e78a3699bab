// cuBLASLt's stand-in itself: what the documentation forbids is refused.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "catch.h"

namespace {

template <class Function>
Function* call(const char* name) {
  static void* library = dlopen(ASSAY_TORCH_STAND_IN "/nvidia/cu13/lib/libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library != nullptr);
  auto* found = reinterpret_cast<Function*>(dlsym(library, name));
  REQUIRE(found != nullptr);
  return found;
}
#define LT(name) call<decltype(name)>(#name)

// One product's description, right to begin with: y [8, 4] = a^T b over 32, of FP4.
struct Asked {
  cudaDataType type = CUDA_R_4F_E2M1, result = CUDA_R_32F;
  std::uint64_t m = 8, n = 4, k = 32, k_of_b = 32;
  std::int32_t transposed_a = CUBLAS_OP_T, transposed_b = CUBLAS_OP_N;
  std::int32_t mode_a = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3, mode_b = mode_a;
  std::uint64_t workspace = 1 << 20, given = 1 << 20;
  std::ptrdiff_t scales_at = 0, data_at = 0;
  bool another_algorithm = false;
};

// The status of the heuristics, or where they have an answer that of the product, done in place in `y`.
cublasStatus_t ask(const Asked& asked, float* first = nullptr) {
  alignas(256) static std::uint8_t memory[8192];
  alignas(256) static std::uint8_t workspace[1 << 20];
  std::memset(memory, 0x22, 4096);         // codes: 1
  std::memset(memory + 4096, 0x38, 2048);  // scales: 1
  cublasLtHandle_t handle{};
  cublasLtMatmulDesc_t desc{};
  cublasLtMatrixLayout_t a{}, b{}, y{};
  cublasLtMatmulPreference_t preference{};
  REQUIRE(LT(cublasLtCreate)(&handle) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(LT(cublasLtMatmulDescCreate)(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
  const void* scales = memory + 4096 + asked.scales_at;
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
    REQUIRE(LT(cublasLtMatmulDescSetAttribute)(desc, what, &value, sizeof value) == CUBLAS_STATUS_SUCCESS);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, asked.transposed_a);
  set(CUBLASLT_MATMUL_DESC_TRANSB, asked.transposed_b);
  set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, asked.mode_a);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, asked.mode_b);
  set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales);
  const auto layout = [&](cublasLtMatrixLayout_t& to, cudaDataType type, std::uint64_t rows, std::uint64_t cols) {
    REQUIRE(LT(cublasLtMatrixLayoutCreate)(&to, type, rows, cols, static_cast<std::int64_t>(rows)) == CUBLAS_STATUS_SUCCESS);
  };
  if (asked.transposed_a == CUBLAS_OP_T) layout(a, asked.type, asked.k, asked.m);
  else layout(a, asked.type, asked.m, asked.k);
  if (asked.transposed_b == CUBLAS_OP_N) layout(b, asked.type, asked.k_of_b, asked.n);
  else layout(b, asked.type, asked.n, asked.k_of_b);
  layout(y, asked.result, asked.m, asked.n);
  REQUIRE(LT(cublasLtMatmulPreferenceCreate)(&preference) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(LT(cublasLtMatmulPreferenceSetAttribute)(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &asked.workspace,
                                                   sizeof asked.workspace) == CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  auto status = LT(cublasLtMatmulAlgoGetHeuristic)(handle, desc, a, b, y, y, preference, 1, &best, &found);
  CHECK((found == 1) == (status == CUBLAS_STATUS_SUCCESS));
  if (found) {
    if (asked.another_algorithm) ++best.algo.data[1];
    const float one = 1, zero = 0;
    std::uint8_t* data = memory + asked.data_at;
    auto* result = reinterpret_cast<float*>(memory + 6144);
    status = LT(cublasLtMatmul)(handle, desc, &one, data, a, memory, b, &zero, result, y, result, y, &best.algo, workspace,
                                asked.given, nullptr);
    if (first) *first = *result;
  }
  LT(cublasLtMatmulPreferenceDestroy)(preference);
  for (const auto matrix : {a, b, y}) LT(cublasLtMatrixLayoutDestroy)(matrix);
  LT(cublasLtMatmulDescDestroy)(desc);
  return status;
}

}  // namespace

TEST_CASE("cuBLASLt's stand-in does the product that it documents, and refuses what is forbidden") {
  const std::int32_t scalar = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  float first = 0;
  CHECK(ask({}, &first) == CUBLAS_STATUS_SUCCESS);
  CHECK(first == 32);
  CHECK(ask({.k = 16, .k_of_b = 16}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.m = 6}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.n = 3}) == CUBLAS_STATUS_SUCCESS);
  CHECK(ask({.k_of_b = 64}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(ask({.transposed_a = CUBLAS_OP_N}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.transposed_b = CUBLAS_OP_T}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.mode_a = scalar}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.mode_b = CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.result = CUDA_R_16BF}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.type = CUDA_R_8F_E4M3}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.type = CUDA_R_16BF}) == CUBLAS_STATUS_INVALID_VALUE);  // with scales
  CHECK(ask({.workspace = 1000}) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(ask({.given = 1000}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(ask({.scales_at = 8}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(ask({.data_at = 16}) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(ask({.another_algorithm = true}) == CUBLAS_STATUS_INVALID_VALUE);

  cublasLtMatmulDesc_t desc{};
  CHECK(LT(cublasLtMatmulDescCreate)(&desc, CUBLAS_COMPUTE_16F, CUDA_R_32F) == CUBLAS_STATUS_NOT_SUPPORTED);
  REQUIRE(LT(cublasLtMatmulDescCreate)(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
  const std::int64_t wide = CUBLAS_OP_T;
  CHECK(LT(cublasLtMatmulDescSetAttribute)(desc, CUBLASLT_MATMUL_DESC_TRANSA, &wide, sizeof wide) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(LT(cublasLtMatmulDescSetAttribute)(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &wide, 4) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(LT(cublasLtMatmulDescDestroy)(desc) == CUBLAS_STATUS_SUCCESS);
  cublasLtMatrixLayout_t layout{};
  CHECK(LT(cublasLtMatrixLayoutCreate)(&layout, CUDA_R_16BF, 8, 8, 7) == CUBLAS_STATUS_INVALID_VALUE);
}
