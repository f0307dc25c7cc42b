#include "kernels/cuda/cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

#include "base/error.h"
#include "kernels/cuda/errors.h"

namespace skippipe::cuda {
namespace {

const char* advice_for(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the driver may be older than this program's CUDA, or the device's memory full";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "memory is full";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "this cuBLAS does not know this GPU";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the cause may be an earlier kernel; CUDA_LAUNCH_BLOCKING=1 tells which";
    default:
      return "";
  }
}

void check_cublas(cublasStatus_t status, const CallSite& site) {
  if (status != CUBLAS_STATUS_SUCCESS) throw_device_error(site, cublasLtGetStatusName(status), advice_for(status));
}
#define SKP_CUBLAS(call) check_cublas((call), {#call, __FILE__, __LINE__})

template <auto kFunction>
struct Call {
  void operator()(auto* p) const { kFunction(p); }
};
using Handle = std::unique_ptr<cublasLtContext, Call<cublasLtDestroy>>;
using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, Call<cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Call<cublasLtMatrixLayoutDestroy>>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Call<cublasLtMatmulPreferenceDestroy>>;
using DeviceMemory = std::unique_ptr<void, Call<cudaFree>>;

Handle make_handle() {
  cublasLtHandle_t handle = nullptr;
  SKP_CUBLAS(cublasLtCreate(&handle));
  return Handle(handle);
}

DeviceMemory allocate(size_t bytes) {
  void* memory = nullptr;
  SKP_CUDA(cudaMalloc(&memory, bytes));
  return DeviceMemory(memory);
}

// Columns one behind the other, each with its elements side by side. (A stride means nothing where an extent is 1.)
template <typename Void>
bool is_column_major(const BasicMatrix<Void>& m) {
  return m.row_stride == 1 && (m.columns == 1 || m.column_stride >= m.rows);
}

// A matrix as cuBLASLt wants it: column-major in memory, and whether it enters the product transposed.
struct Operand {
  explicit Operand(const ConstMatrix& m) : transposed(!is_column_major(m)) {
    const ConstMatrix stored = transposed ? m.transposed() : m;
    data = stored.data;
    type = stored.dtype == Dtype::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
    rows = stored.rows;
    columns = stored.columns;
    leading = std::max(stored.column_stride, stored.rows);
  }
  // Up to 16 bytes: algorithms ask for no more, and more would let the choice hang on where a tensor happens to lie.
  uint32_t alignment() const {
    const auto address = reinterpret_cast<uintptr_t>(data) | 16;
    return static_cast<uint32_t>(address & -address);
  }

  bool transposed;
  const void* data;
  cudaDataType_t type;
  int64_t rows, columns, leading;
};

Layout make_layout(const Operand& m) {
  cublasLtMatrixLayout_t layout = nullptr;
  SKP_CUBLAS(cublasLtMatrixLayoutCreate(&layout, m.type, static_cast<uint64_t>(m.rows),
                                        static_cast<uint64_t>(m.columns), m.leading));
  return Layout(layout);
}

Operation make_operation(const Operand& a, const Operand& b) {
  cublasLtMatmulDesc_t raw = nullptr;
  SKP_CUBLAS(cublasLtMatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  Operation operation(raw);
  const auto set = [&](cublasLtMatmulDescAttributes_t name, bool transposed) {
    const cublasOperation_t value = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    SKP_CUBLAS(cublasLtMatmulDescSetAttribute(raw, name, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, a.transposed);
  set(CUBLASLT_MATMUL_DESC_TRANSB, b.transposed);
  return operation;
}

struct Product {
  Operation operation;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

class CublasltProducts final : public MatrixProducts {
 public:
  explicit CublasltProducts(const DeviceLimits& limits)
      : capability_(limits.capability),
        workspace_bytes_(limits.capability >= 90 ? size_t{64} << 20 : size_t{32} << 20),
        handle_(make_handle()),
        workspace_(allocate(workspace_bytes_)) {}

  bool computes_in(Dtype dtype) const override {
    return dtype == Dtype::kF32 || (dtype == Dtype::kBf16 && capability_ >= 80);
  }

  void multiply(Context& ctx, const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate) override {
    if (is_column_major(c))
      multiply_columns(ctx, c, Operand(a), Operand(b), accumulate);
    else
      multiply_columns(ctx, c.transposed(), Operand(b.transposed()), Operand(a.transposed()), accumulate);
  }

 private:
  using Key = std::array<int64_t, 14>;

  // c is column-major.
  void multiply_columns(Context& ctx, const Matrix& result, const Operand& a, const Operand& b, bool accumulate) {
    const Operand c(result);
    const Product& product = find(c, a, b, accumulate);
    const float alpha = 1, beta = accumulate ? 1 : 0;
    SKP_CUBLAS(cublasLtMatmul(handle_.get(), product.operation.get(), &alpha, a.data, product.a.get(), b.data,
                              product.b.get(), &beta, c.data, product.c.get(), result.data, product.c.get(),
                              &product.algorithm, workspace_.get(), workspace_bytes_,
                              static_cast<cudaStream_t>(ctx.stream)));
  }

  const Product& find(const Operand& c, const Operand& a, const Operand& b, bool accumulate) {
    const Key key{c.rows,        c.columns,    a.transposed ? a.rows : a.columns,
                  a.transposed,  b.transposed, a.leading,
                  b.leading,     c.leading,    a.type,
                  c.type,        accumulate,   a.alignment(),
                  b.alignment(), c.alignment()};
    auto found = products_.find(key);
    if (found == products_.end()) found = products_.emplace(key, make_product(c, a, b)).first;
    return found->second;
  }

  Product make_product(const Operand& c, const Operand& a, const Operand& b) {
    Product product{make_operation(a, b), make_layout(a), make_layout(b), make_layout(c), {}};
    const Preference preference = make_preference(c, a, b);
    std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
    int count = 0;
    SKP_CUBLAS(cublasLtMatmulAlgoGetHeuristic(handle_.get(), product.operation.get(), product.a.get(), product.b.get(),
                                              product.c.get(), product.c.get(), preference.get(),
                                              static_cast<int>(results.size()), results.data(), &count));
    for (const auto& result : std::span(results).first(static_cast<size_t>(count)))
      if (result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_bytes_) {
        product.algorithm = result.algo;
        return product;
      }
    throw DeviceError(
        "cuBLASLt has no algorithm for ({}, {}) = {}({}, {}) x {}({}, {}), aligned to {}, {} and {} bytes", c.rows,
        c.columns, a.transposed ? "transposed " : "", a.rows, a.columns, b.transposed ? "transposed " : "", b.rows,
        b.columns, c.alignment(), a.alignment(), b.alignment());
  }

  // Of the ways to split a sum, only the one that keeps its parts in f32 in the workspace and adds them in order.
  Preference make_preference(const Operand& c, const Operand& a, const Operand& b) const {
    cublasLtMatmulPreference_t raw = nullptr;
    SKP_CUBLAS(cublasLtMatmulPreferenceCreate(&raw));
    Preference preference(raw);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      SKP_CUBLAS(cublasLtMatmulPreferenceSetAttribute(raw, name, &value, sizeof value));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes_});
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a.alignment());
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b.alignment());
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c.alignment());
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c.alignment());
    return preference;
  }

  const int capability_;
  const size_t workspace_bytes_;
  const Handle handle_;
  const DeviceMemory workspace_;
  std::map<Key, Product> products_;
};

}  // namespace

std::unique_ptr<MatrixProducts> make_cublaslt_products(const DeviceLimits& limits) {
  return std::make_unique<CublasltProducts>(limits);
}

}  // namespace skippipe::cuda
