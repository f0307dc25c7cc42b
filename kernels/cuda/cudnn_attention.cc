// cuDNN has attention as single operations, but up to version 9.20 without a causal mask, and backward has no engines.
// So the operations of attention are spelled out, in the order in which NVIDIA's own C++ layer spells them (its
// CompositeSDPANode and CompositeSDPABackwardNode): cuDNN's engines know this graph by its form and replace all of it.
#include "kernels/cuda/cudnn_attention.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/error.h"
#include "kernels/cuda/cudnn_graph.h"

namespace skippipe::cuda {
namespace {

constexpr size_t kOldestVersion = 91300;  // before it, known errors in backward on Hopper
constexpr int64_t kAlignment = 16;        // of heads, which is what engines load at once
constexpr int64_t kScratchAlignment = 256;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kOne = 1;

enum Id : int64_t { kQ = 1, kK, kV, kY, kLse, kDy, kDq, kDk, kDv, kDqSums, kRowSums, kScale, kMasked, kFactor };

// Of samples, tokens and heads; those of a head's elements are 1.
using Strides = std::array<int64_t, 3>;

struct ForwardLayout {
  AttentionShape shape;
  Strides q, k, v, y;
  auto operator<=>(const ForwardLayout&) const = default;
};

// dy lies as y does.
struct BackwardLayout {
  ForwardLayout forward;
  Strides dq, dk, dv;
  auto operator<=>(const BackwardLayout&) const = default;
};

AttentionShape shape_of(const ConstTensor& q, const ConstTensor& k) {
  return {q.dim(0), q.dim(1), q.dim(2), k.dim(2), q.dim(3)};
}

Strides strides_of(const ConstTensor& x) { return {x.stride(0), x.stride(1), x.stride(2)}; }

ForwardLayout layout_of(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const ConstTensor& y) {
  return {shape_of(q, k), strides_of(q), strides_of(k), strides_of(v), strides_of(y)};
}

// The engine's: q, k and v are columns of one buffer, their gradients of another, y is contiguous.
BackwardLayout engine_layout(const AttentionShape& shape) {
  const int64_t columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim, y_columns = shape.heads * shape.head_dim;
  const Strides fused{shape.tokens * columns, columns, shape.head_dim};
  const Strides y{shape.tokens * y_columns, y_columns, shape.head_dim};
  return {{shape, fused, fused, fused, y}, fused, fused, fused};
}

// A graph with the tensors that both directions have. cuDNN's order of axes is samples, heads, tokens, elements.
class AttentionGraph {
 public:
  explicit AttentionGraph(const ForwardLayout& layout)
      : layout_(layout),
        scores_{layout.shape.batch, layout.shape.heads, layout.shape.tokens, layout.shape.tokens},
        rows_{layout.shape.batch, layout.shape.heads, layout.shape.tokens, 1},
        q_(heads_in_memory(kQ, layout.shape.heads, layout.q)),
        k_transposed_(transposed_heads_in_memory(kK, layout.k)),
        y_(heads_in_memory(kY, layout.shape.heads, layout.y)),
        lse_(rows_in_memory(kLse)),
        scale_(graph_.scalar(kScale)) {}

  CudnnGraph forward() && {
    const CudnnTensor v = heads_in_memory(kV, layout_.shape.kv_heads, layout_.v);
    const CudnnTensor scores = causal(scaled_scores());
    const CudnnTensor greatest = graph_.value(rows_), sum = graph_.value(rows_);
    graph_.reduce(greatest, CUDNN_REDUCE_TENSOR_MAX, scores);
    const CudnnTensor exponentials = apply(CUDNN_POINTWISE_EXP, {apply(CUDNN_POINTWISE_SUB, {scores, greatest})});
    graph_.reduce(sum, CUDNN_REDUCE_TENSOR_ADD, exponentials);
    graph_.pointwise(lse_, CUDNN_POINTWISE_ADD, {greatest, apply(CUDNN_POINTWISE_LOG, {sum})});
    const CudnnTensor p = graph_.value(scores_, CUDNN_DATA_BFLOAT16);
    graph_.pointwise(p, CUDNN_POINTWISE_DIV, {exponentials, sum});
    graph_.multiply(y_, p, v);
    return std::move(graph_);
  }

  CudnnGraph backward(const BackwardLayout& layout) && {
    const AttentionShape& shape = layout_.shape;
    const CudnnTensor v_transposed = transposed_heads_in_memory(kV, layout_.v);
    const CudnnTensor dy = heads_in_memory(kDy, shape.heads, layout_.y);

    // row_sums = sum over a head's elements of dy y, times the factor 1: dropout's would stand there.
    const CudnnTensor sums = graph_.value(rows_), row_sums = rows_in_memory(kRowSums);
    graph_.reduce(sums, CUDNN_REDUCE_TENSOR_ADD, apply(CUDNN_POINTWISE_MUL, {dy, y_}));
    graph_.pointwise(row_sums, CUDNN_POINTWISE_MUL, {sums, graph_.scalar(kFactor)});

    // p = exp(scores - lse); dv = p^T dy
    const CudnnTensor p = apply(CUDNN_POINTWISE_EXP, {causal(apply(CUDNN_POINTWISE_SUB, {scaled_scores(), lse_}))});
    multiply_transposed(heads_in_memory(kDv, shape.kv_heads, layout.dv), p, dy);

    // dscores = scale p (dy v^T - row_sums); dk = dscores^T q
    const CudnnTensor dp = graph_.value(scores_);
    graph_.multiply(dp, dy, v_transposed);
    const CudnnTensor dscores = apply(
        CUDNN_POINTWISE_MUL, {apply(CUDNN_POINTWISE_MUL, {apply(CUDNN_POINTWISE_SUB, {dp, row_sums}), p}), scale_});
    multiply_transposed(heads_in_memory(kDk, shape.kv_heads, layout.dk), dscores, q_);

    // dq = dscores k, its sums in f32 in memory
    const CudnnTensor k = graph_.value(head_extents(shape.kv_heads), head_strides(layout_.k));
    graph_.reshape(k, k_transposed_);
    const CudnnTensor dq_sums =
        graph_.memory(kDqSums, head_extents(shape.heads), dense_strides(head_extents(shape.heads)), CUDNN_DATA_FLOAT);
    graph_.multiply(dq_sums, dscores, k);
    graph_.pointwise(heads_in_memory(kDq, shape.heads, layout.dq), CUDNN_POINTWISE_IDENTITY, {dq_sums});
    return std::move(graph_);
  }

 private:
  CudnnExtents head_extents(int64_t heads) const {
    return {layout_.shape.batch, heads, layout_.shape.tokens, layout_.shape.head_dim};
  }
  static CudnnExtents head_strides(const Strides& strides) { return {strides[0], strides[2], strides[1], 1}; }

  CudnnTensor heads_in_memory(Id id, int64_t heads, const Strides& strides) {
    return graph_.memory(id, head_extents(heads), head_strides(strides), CUDNN_DATA_BFLOAT16);
  }
  // Engines know k by its transpose, and v in backward.
  CudnnTensor transposed_heads_in_memory(Id id, const Strides& strides) {
    const auto swapped = [](CudnnExtents x) {
      std::swap(x[2], x[3]);
      return x;
    };
    return graph_.memory(id, swapped(head_extents(layout_.shape.kv_heads)), swapped(head_strides(strides)),
                         CUDNN_DATA_BFLOAT16);
  }
  CudnnTensor rows_in_memory(Id id) { return graph_.memory(id, rows_, dense_strides(rows_), CUDNN_DATA_FLOAT); }

  CudnnTensor apply(cudnnPointwiseMode_t mode, std::initializer_list<CudnnTensor> inputs) {
    const CudnnTensor y = graph_.value(inputs.begin()->extents);
    graph_.pointwise(y, mode, inputs);
    return y;
  }

  CudnnTensor scaled_scores() {
    const CudnnTensor scores = graph_.value(scores_);
    graph_.multiply(scores, q_, k_transposed_);
    return apply(CUDNN_POINTWISE_MUL, {scores, scale_});
  }

  // Keeps the scores of keys that are not behind their query.
  CudnnTensor causal(const CudnnTensor& scores) {
    const CudnnTensor query = graph_.value(scores_, CUDNN_DATA_INT32), key = graph_.value(scores_, CUDNN_DATA_INT32);
    graph_.pointwise(query, CUDNN_POINTWISE_GEN_INDEX, {scores}, CUDNN_DATA_FLOAT, 2);
    graph_.pointwise(key, CUDNN_POINTWISE_GEN_INDEX, {scores}, CUDNN_DATA_FLOAT, 3);
    const CudnnTensor seen = graph_.value(scores_, CUDNN_DATA_BOOLEAN);
    graph_.pointwise(seen, CUDNN_POINTWISE_CMP_GE, {query, key}, CUDNN_DATA_BOOLEAN);
    return apply(CUDNN_POINTWISE_BINARY_SELECT, {scores, graph_.scalar(kMasked), seen});
  }

  // c = scores^T b; where heads share a key and value head, the sum over them.
  void multiply_transposed(const CudnnTensor& c, const CudnnTensor& scores, const CudnnTensor& b) {
    const int64_t tokens = layout_.shape.tokens, square = tokens * tokens;
    const CudnnTensor transposed =
        graph_.value(scores_, {layout_.shape.heads * square, square, 1, tokens}, CUDNN_DATA_BFLOAT16);
    graph_.reshape(transposed, scores);
    if (layout_.shape.heads == layout_.shape.kv_heads) return graph_.multiply(c, transposed, b);
    const CudnnTensor of_each_head = graph_.value(head_extents(layout_.shape.heads), CUDNN_DATA_BFLOAT16);
    graph_.multiply(of_each_head, transposed, b);
    graph_.reduce(c, CUDNN_REDUCE_TENSOR_ADD, of_each_head);
  }

  const ForwardLayout layout_;
  const CudnnExtents scores_, rows_;
  CudnnGraph graph_;
  const CudnnTensor q_, k_transposed_, y_, lse_, scale_;
};

bool suits(const AttentionShape& shape) {
  // Tokens: cuDNN's backward has returned NaN where they are no multiple of its tiles (pytorch/pytorch#196678,
  // NVIDIA/cudnn-frontend#1072).
  return shape.head_dim % 8 == 0 && shape.head_dim <= 128 && shape.tokens % 128 == 0;
}

bool is_aligned(const ConstTensor& x) { return reinterpret_cast<uintptr_t>(x.data()) % kAlignment == 0; }

bool suits(const ConstTensor& x) {
  if (x.dtype() != Dtype::kBf16 || !is_aligned(x)) return false;
  for (int i = 0; i < 3; ++i)
    if (x.stride(i) <= 0 || x.stride(i) * dtype_bytes(x.dtype()) % kAlignment != 0) return false;
  return true;
}

bool suits(std::initializer_list<ConstTensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const ConstTensor& x) { return suits(x); });
}

int64_t rounded_up(int64_t bytes) { return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }

// What a call needs of the context's workspace, one behind the other from the first address that is aligned.
struct Scratch {
  int64_t dq_sums = 0, row_sums = 0, plan = 0;
  int64_t bytes() const { return kScratchAlignment + dq_sums + row_sums + plan; }
};

Scratch forward_scratch(const CudnnPlan& plan) { return {.plan = plan.workspace_bytes}; }

Scratch backward_scratch(const CudnnPlan& plan, const AttentionShape& shape) {
  const int64_t row_bytes = shape.batch * shape.heads * shape.tokens * int64_t{sizeof(float)};
  return {rounded_up(row_bytes * shape.head_dim), rounded_up(row_bytes), plan.workspace_bytes};
}

std::byte* aligned(std::span<std::byte> workspace) {
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  return workspace.data() + (kScratchAlignment - address % kScratchAlignment) % kScratchAlignment;
}

struct DestroyHandle {
  void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
};
using Handle = std::unique_ptr<cudnnContext, DestroyHandle>;

Handle make_handle() {
  if (cudnnGetVersion() < kOldestVersion)
    throw DeviceError("cuDNN has version {}, expected {} or newer", cudnnGetVersion(), kOldestVersion);
  cudnnHandle_t handle = nullptr;
  SKP_CUDNN(cudnnCreate(&handle));
  return Handle(handle);
}

class CudnnAttention final : public AttentionLibrary {
 public:
  explicit CudnnAttention(const DeviceLimits& limits)
      : handle_(make_handle()), device_(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR) {
    device_.set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, int32_t{limits.index});
    device_.finalize();
    if (workspace_bytes({1, 128, 1, 1, 64}) == 0)
      throw DeviceError(
          "cuDNN has no attention for CUDA device {} (capability {}.{}). It compiles its kernels: libnvrtc must be on "
          "the library path. CUDNN_LOGLEVEL_DBG=2 CUDNN_LOGDEST_DBG=stderr tells more",
          limits.index, limits.capability / 10, limits.capability % 10);
  }

  int64_t workspace_bytes(const AttentionShape& shape) override {
    if (!suits(shape)) return 0;
    const BackwardLayout layout = engine_layout(shape);
    const CudnnPlan* forward = forward_plan(layout.forward);
    const CudnnPlan* backward = backward_plan(layout);
    if (forward == nullptr || backward == nullptr) return 0;
    return std::max(forward_scratch(*forward).bytes(), backward_scratch(*backward, shape).bytes());
  }

  bool forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v, float scale) override {
    const ForwardLayout layout = layout_of(q, k, v, y);
    if (!suits(layout.shape) || !suits({y, q, k, v}) || !is_aligned(lse)) return false;
    const CudnnPlan* plan = forward_plan(layout);
    if (plan == nullptr || forward_scratch(*plan).bytes() > std::ssize(ctx.workspace)) return false;
    execute(ctx, *plan,
            {{kQ, q.data()},
             {kK, k.data()},
             {kV, v.data()},
             {kY, y.data()},
             {kLse, lse.data()},
             {kScale, &scale},
             {kMasked, &kMinusInfinity}},
            aligned(ctx.workspace));
    return true;
  }

  bool backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                ConstTensor v, ConstTensor y, ConstTensor lse, float scale) override {
    const BackwardLayout layout{layout_of(q, k, v, y), strides_of(dq), strides_of(dk), strides_of(dv)};
    const AttentionShape& shape = layout.forward.shape;
    if (!suits(shape) || !suits({dq, dk, dv, dy, q, k, v, y}) || !is_aligned(lse) || dy.strides() != y.strides())
      return false;
    const CudnnPlan* plan = backward_plan(layout);
    if (plan == nullptr) return false;
    const Scratch scratch = backward_scratch(*plan, shape);
    if (scratch.bytes() > std::ssize(ctx.workspace)) return false;
    std::byte* const dq_sums = aligned(ctx.workspace);
    std::byte* const row_sums = dq_sums + scratch.dq_sums;
    execute(ctx, *plan,
            {{kQ, q.data()},
             {kK, k.data()},
             {kV, v.data()},
             {kY, y.data()},
             {kLse, lse.data()},
             {kDy, dy.data()},
             {kDq, dq.data()},
             {kDk, dk.data()},
             {kDv, dv.data()},
             {kDqSums, dq_sums},
             {kRowSums, row_sums},
             {kScale, &scale},
             {kMasked, &kMinusInfinity},
             {kFactor, &kOne}},
            row_sums + scratch.row_sums);
    return true;
  }

 private:
  // Null where cuDNN has none; that is kept too.
  const CudnnPlan* forward_plan(const ForwardLayout& layout) {
    auto found = forward_plans_.find(layout);
    if (found == forward_plans_.end())
      found = forward_plans_.emplace(layout, make_cudnn_plan(AttentionGraph(layout).forward(), device_)).first;
    return found->second ? &*found->second : nullptr;
  }
  const CudnnPlan* backward_plan(const BackwardLayout& layout) {
    auto found = backward_plans_.find(layout);
    if (found == backward_plans_.end())
      found = backward_plans_.emplace(layout, make_cudnn_plan(AttentionGraph(layout.forward).backward(layout), device_))
                  .first;
    return found->second ? &*found->second : nullptr;
  }

  void execute(const Context& ctx, const CudnnPlan& plan, std::initializer_list<CudnnBinding> bindings,
               void* workspace) {
    SKP_CUDNN(cudnnSetStream(handle_.get(), static_cast<cudaStream_t>(ctx.stream)));
    execute_cudnn_plan(handle_.get(), plan, bindings, workspace);
  }

  const Handle handle_;
  CudnnObject device_;
  std::map<ForwardLayout, std::optional<CudnnPlan>> forward_plans_;
  std::map<BackwardLayout, std::optional<CudnnPlan>> backward_plans_;
};

}  // namespace

std::unique_ptr<AttentionLibrary> make_cudnn_attention(const DeviceLimits& limits) {
  return std::make_unique<CudnnAttention>(limits);
}

}  // namespace skippipe::cuda
