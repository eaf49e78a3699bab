#include "quant/cuda/products.h"

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <vector>

#ifdef ASSAY_HAS_CUBLAS
#include <cublasLt.h>
#include <cuda_runtime.h>
#endif

namespace assay::quant::cuda {

#ifdef ASSAY_HAS_CUBLAS
namespace {

// What is called of the library, found by name in the one that was opened.
struct Library {
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) create_product;
  decltype(&cublasLtMatmulDescDestroy) destroy_product;
  decltype(&cublasLtMatmulDescSetAttribute) set_product;
  decltype(&cublasLtMatrixLayoutCreate) create_matrix;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_matrix;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
};

// What torch brings for CUDA 13: loaded already, on the loader's path, or in the folder that ASSAY_TORCH names, beside torch/.
void* open_library() {
  constexpr const char* file = "libcublasLt.so.13";
  if (void* there = dlopen(file, RTLD_NOW | RTLD_LOCAL)) return there;
  const char* folder = std::getenv("ASSAY_TORCH");
  return folder ? dlopen((std::string(folder) + "/nvidia/cu13/lib/" + file).c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
}

// The first symbol that is not there, or null.
const char* load(void* handle, Library& to) {
  const char* lacking = nullptr;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function && !lacking) lacking = name;
  };
  find(to.version, "cublasLtGetVersion");
  find(to.create, "cublasLtCreate");
  find(to.matmul, "cublasLtMatmul");
  find(to.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(to.create_product, "cublasLtMatmulDescCreate");
  find(to.destroy_product, "cublasLtMatmulDescDestroy");
  find(to.set_product, "cublasLtMatmulDescSetAttribute");
  find(to.create_matrix, "cublasLtMatrixLayoutCreate");
  find(to.destroy_matrix, "cublasLtMatrixLayoutDestroy");
  find(to.create_preference, "cublasLtMatmulPreferenceCreate");
  find(to.destroy_preference, "cublasLtMatmulPreferenceDestroy");
  find(to.set_preference, "cublasLtMatmulPreferenceSetAttribute");
  return lacking;
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLAS: ") + what + ": status " + std::to_string(static_cast<int>(status)));
}
void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// A descriptor and its end.
template <class Handle>
class Owned {
 public:
  explicit Owned(cublasStatus_t (*destroy)(Handle)) : destroy_(destroy) {}
  ~Owned() {
    if (handle_) destroy_(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
  cublasStatus_t (*destroy_)(Handle);
};

constexpr std::size_t workspace_bytes = 32u << 20;

// cuBLAS counts along columns: of row-major matrices it sees the transposes, so it is asked for y^T = b^T a^T.
class Lt : public Products {
 public:
  Lt(const Library& library, int major) : lt_(library), major_(major) {
    check(lt_.create(&handle_), "cublasLtCreate");
    const std::size_t v = lt_.version();
    name_ = "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }

  std::string name() const override { return name_; }
  std::string fp4_missing() const override {
    if (major_ >= 10) return "";  // as cuBLAS's documentation says; what a GPU has no kernel for, it refuses by itself
    return "no native FP4 products: they need compute capability 10.0 or later, and this GPU has " + std::to_string(major_);
  }

  void bf16(const void* a, const void* b, bool transposed, std::int64_t m, std::int64_t n, std::int64_t k, float* y,
            void* stream) override {
    if (m == 0 || n == 0) return;
    Owned<cublasLtMatmulDesc_t> product(lt_.destroy_product);
    check(lt_.create_product(product.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(product, CUBLASLT_MATMUL_DESC_TRANSA, transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    Owned<cublasLtMatrixLayout_t> of_b(lt_.destroy_matrix), of_a(lt_.destroy_matrix), of_y(lt_.destroy_matrix);
    if (transposed) create(of_b, CUDA_R_16BF, k, n);
    else create(of_b, CUDA_R_16BF, n, k);
    create(of_a, CUDA_R_16BF, k, m);
    create(of_y, CUDA_R_32F, n, m);
    run(product, b, of_b, a, of_a, y, of_y, stream);
  }

  void fp4(const Fp4Matrix& a, const Fp4Matrix& b, std::int64_t m, std::int64_t n, std::int64_t k, float* y,
           void* stream) override {
    if (const std::string missing = fp4_missing(); !missing.empty()) throw std::runtime_error(missing);
    if (k % 32 != 0 || n % 32 != 0) throw std::invalid_argument("native FP4 products: k and n are multiples of 32");
    if (m == 0 || n == 0) return;
    Owned<cublasLtMatmulDesc_t> product(lt_.destroy_product);
    check(lt_.create_product(product.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(product, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);  // the only form that FP4 takes
    const cublasLtMatmulMatrixScale_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
    set(product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, blocks);
    set(product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, blocks);
    set(product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.scales);
    set(product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.scales);
    Owned<cublasLtMatrixLayout_t> of_b(lt_.destroy_matrix), of_a(lt_.destroy_matrix), of_y(lt_.destroy_matrix);
    create(of_b, CUDA_R_4F_E2M1, k, n);
    create(of_a, CUDA_R_4F_E2M1, k, m);
    create(of_y, CUDA_R_32F, n, m);
    run(product, b.codes, of_b, a.codes, of_a, y, of_y, stream);
  }

 private:
  template <class Value>
  void set(const Owned<cublasLtMatmulDesc_t>& product, cublasLtMatmulDescAttributes_t what, const Value& value) const {
    check(lt_.set_product(product.get(), what, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
  // Column-major, columns close together.
  void create(Owned<cublasLtMatrixLayout_t>& matrix, cudaDataType type, std::int64_t rows, std::int64_t cols) const {
    check(lt_.create_matrix(matrix.out(), type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), rows),
          "cublasLtMatrixLayoutCreate");
  }
  void run(const Owned<cublasLtMatmulDesc_t>& product, const void* a, const Owned<cublasLtMatrixLayout_t>& of_a, const void* b,
           const Owned<cublasLtMatrixLayout_t>& of_b, float* y, const Owned<cublasLtMatrixLayout_t>& of_y,
           void* stream) const {
    Owned<cublasLtMatmulPreference_t> preference(lt_.destroy_preference);
    check(lt_.create_preference(preference.out()), "cublasLtMatmulPreferenceCreate");
    check(lt_.set_preference(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes),
          "cublasLtMatmulPreferenceSetAttribute");
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    check(lt_.heuristic(handle_, product.get(), of_a.get(), of_b.get(), of_y.get(), of_y.get(), preference.get(), 1, &best, &found),
          "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0) throw std::runtime_error("cuBLAS: no kernel for this product");
    const auto on = static_cast<cudaStream_t>(stream);
    void* workspace = nullptr;
    check(cudaMallocAsync(&workspace, workspace_bytes, on), "cudaMallocAsync");
    const float one = 1, zero = 0;
    const cublasStatus_t status = lt_.matmul(handle_, product.get(), &one, a, of_a.get(), b, of_b.get(), &zero, y, of_y.get(), y,
                                             of_y.get(), &best.algo, workspace, workspace_bytes, on);
    check(cudaFreeAsync(workspace, on), "cudaFreeAsync");
    check(status, "cublasLtMatmul");
  }

  Library lt_;
  int major_;
  cublasLtHandle_t handle_ = nullptr;
  std::string name_;
};

}  // namespace

Products* open_products(int major, std::string& missing) {
  void* handle = open_library();
  if (!handle) {
    missing = "no products on the GPU: libcublasLt.so.13 is not to be found (torch 2.11 brings it; ASSAY_TORCH names the folder "
              "that holds torch/ and nvidia/)";
    return nullptr;
  }
  Library library{};
  if (const char* lacking = load(handle, library)) {
    missing = std::string("no products on the GPU: this cuBLASLt lacks ") + lacking;
    return nullptr;
  }
  static Lt lt(library, major);
  return &lt;
}

#else

Products* open_products(int, std::string& missing) {
  missing = "no products on the GPU: this was built without cuBLAS's headers, which `make setup` brings";
  return nullptr;
}

#endif

}  // namespace assay::quant::cuda
