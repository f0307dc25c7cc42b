#include "kernels/cpu/matmul.h"

#include <new>

#include "base/error.h"
#include "kernels/cpu/backend_impl.h"

namespace skippipe::cpu {
namespace {

constexpr std::align_val_t kScratchAlignment{64};

dnnl::memory::desc descriptor(const ConstMatrix& m) {
  using Type = dnnl::memory::data_type;
  return {{m.rows, m.columns}, m.dtype == Dtype::kBf16 ? Type::bf16 : Type::f32, {m.row_stride, m.column_stride}};
}

void check(dnnl_status_t status, const char* what) {
  SKP_CHECK(status == dnnl_success, "oneDNN: {} returned {}", what, static_cast<int>(status));
}

}  // namespace

void MatmulCache::Free::operator()(std::byte* p) const { ::operator delete(p, kScratchAlignment); }

MatmulCache::MatmulCache() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

// oneDNN 2.6 has bf16 from AVX-512 on; where the instructions for it are missing, it emulates them.
bool matmul_knows(Dtype dtype) {
  if (dtype != Dtype::kBf16) return dtype == Dtype::kF32;
  constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kNeeded) == kNeeded;
}

MatmulCache::Product MatmulCache::make_product(const Matrix& c, const ConstMatrix& a, const ConstMatrix& b,
                                               bool accumulate) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0f);
    attributes.set_post_ops(post);
  }
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(descriptor(a), descriptor(b), descriptor(c)),
                                                 attributes, engine_);
  const size_t needed = description.scratchpad_desc().get_size();
  if (needed > scratch_bytes_) {
    scratch_.reset(static_cast<std::byte*>(::operator new(needed, kScratchAlignment)));
    scratch_bytes_ = needed;
  }
  const auto unset = [&](const dnnl::memory::desc& desc) { return dnnl::memory(desc, engine_, DNNL_MEMORY_NONE); };
  return {dnnl::matmul(description), unset(description.src_desc()), unset(description.weights_desc()),
          unset(description.dst_desc()), unset(description.scratchpad_desc())};
}

void MatmulCache::multiply(int threads, const Matrix& c, const ConstMatrix& a, const ConstMatrix& b,
                           bool accumulate) try {
  const TeamForLibraries team(team_, threads);
  const Key key{c.rows,
                c.columns,
                a.columns,
                a.row_stride,
                a.column_stride,
                b.row_stride,
                b.column_stride,
                c.row_stride,
                c.column_stride,
                accumulate,
                team.size(),
                static_cast<int64_t>(a.dtype),
                static_cast<int64_t>(c.dtype)};
  auto found = products_.find(key);
  if (found == products_.end()) found = products_.emplace(key, make_product(c, a, b, accumulate)).first;
  Product& product = found->second;
  // The C interface: its C++ wrapper would build a map and a vector at each call.
  const auto bind = [](dnnl::memory& memory, int argument, const void* data) {
    check(dnnl_memory_set_data_handle(memory.get(), const_cast<void*>(data)), "set_data_handle");
    return dnnl_exec_arg_t{argument, memory.get()};
  };
  const dnnl_exec_arg_t arguments[] = {bind(product.a, DNNL_ARG_SRC, a.data), bind(product.b, DNNL_ARG_WEIGHTS, b.data),
                                       bind(product.c, DNNL_ARG_DST, c.data),
                                       bind(product.scratch, DNNL_ARG_SCRATCHPAD, scratch_.get())};
  check(dnnl_primitive_execute(product.primitive.get(), stream_.get(), std::size(arguments), arguments), "execute");
} catch (const dnnl::error& error) {
  throw InternalError("oneDNN: ({}, {}) x ({}, {}): {}", a.rows, a.columns, b.rows, b.columns, error.what());
}

namespace {

template <typename Void>
BasicMatrix<Void> matrix(const BasicTensor<Void>& x) {
  return matrix_rows(x, 0, x.dim(0));
}

}  // namespace

void CpuBackend::linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) {
  matmuls_.multiply(ctx.threads, matrix(y), matrix(x), matrix(w).transposed(), false);
}

void CpuBackend::linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) {
  matmuls_.multiply(ctx.threads, matrix(dx), matrix(dy), matrix(w), accumulate);
}

void CpuBackend::linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  matmuls_.multiply(ctx.threads, matrix(dw), matrix(dy).transposed(), matrix(x), true);
}

}  // namespace skippipe::cpu
