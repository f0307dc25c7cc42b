#include "kernels/checks.h"

#include <cstdint>

namespace skippipe {
namespace {

bool may_hold(Holds holds, Dtype dtype) {
  switch (holds) {
    case Holds::kReal:
    case Holds::kAnyReal:
      return dtype == Dtype::kF32 || dtype == Dtype::kBf16;
    case Holds::kF32:
      return dtype == Dtype::kF32;
    case Holds::kI32:
      return dtype == Dtype::kI32;
  }
  return false;
}

const char* expected_dtype(Holds holds) {
  switch (holds) {
    case Holds::kReal:
    case Holds::kAnyReal:
      return "f32 or bf16";
    case Holds::kF32:
      return "f32";
    case Holds::kI32:
      return "i32";
  }
  return "";
}

// The bytes that a view touches, as rows of `width` bytes every `pitch` bytes from `begin` to `end`.
struct Footprint {
  uintptr_t begin, end;
  int64_t pitch, width;

  explicit Footprint(const ConstTensor& t) : begin(reinterpret_cast<uintptr_t>(t.data())) {
    const int64_t size = dtype_bytes(t.dtype());
    const int row = t.rank() == 4 ? 1 : 0;  // (B,T,H,D) is B*T rows, (N,C) is N rows
    int64_t last = 0, last_of_row = 0;
    for (int i = 0; i < t.rank(); ++i) {
      last += (t.dim(i) - 1) * t.stride(i);
      if (i > row) last_of_row += (t.dim(i) - 1) * t.stride(i);
    }
    end = begin + static_cast<uintptr_t>((last + 1) * size);
    width = (last_of_row + 1) * size;
    pitch = t.rank() > 0 ? t.stride(row) * size : width;
    if (t.rank() == 4 && t.stride(0) % t.stride(1) != 0) pitch = 0;  // no such rows
  }
};

// Exact for views of the same rows of one buffer (columns of a fused projection); otherwise errs on the side of true.
bool overlap(const ConstTensor& a, const ConstTensor& b) {
  if (a.empty() || b.empty() || a.elements() == 0 || b.elements() == 0) return false;
  const Footprint x(a), y(b);
  if (x.end <= y.begin || y.end <= x.begin) return false;
  if (x.pitch != y.pitch || x.pitch <= 0 || x.width > x.pitch || y.width > y.pitch) return true;
  const auto pitch = static_cast<uintptr_t>(x.pitch);
  const uintptr_t offset =
      x.begin >= y.begin ? (x.begin - y.begin) % pitch : (pitch - (y.begin - x.begin) % pitch) % pitch;
  return offset < static_cast<uintptr_t>(y.width) || pitch - offset < static_cast<uintptr_t>(x.width);
}

bool same_view(const ConstTensor& a, const ConstTensor& b) {
  return a.data() == b.data() && a.shape() == b.shape() && a.strides() == b.strides() && a.dtype() == b.dtype();
}

}  // namespace

ArgumentCheck::ArgumentCheck(const Context& ctx, const char* operation) : ctx_(ctx), operation_(operation) {
  SKP_CHECK(ctx.backend != nullptr, "{}: the context has no backend", operation);
  SKP_CHECK(ctx.threads >= 1, "{}: the context has {} threads", operation, ctx.threads);
}

void ArgumentCheck::fail(const std::string& message) const { throw ShapeError("{}: {}", operation_, message); }

void ArgumentCheck::rank(const char* name, const ConstTensor& tensor, int expected) const {
  if (tensor.rank() != expected)
    throw ShapeError("{}: {} is {}, expected {} dimensions", operation_, name, tensor.shape().to_string(), expected);
  if (tensor.elements() == 0)
    throw ShapeError("{}: {} is {}, expected at least one element", operation_, name, tensor.shape().to_string());
}

void ArgumentCheck::holds(const char* name, const ConstTensor& tensor, Holds holds) {
  if (tensor.device() != ctx_.backend->device())
    throw DtypeError("{}: {} lives on {}, expected {}", operation_, name, device_name(tensor.device()),
                     device_name(ctx_.backend->device()));
  if (!may_hold(holds, tensor.dtype()))
    throw DtypeError("{}: {} is {}, expected {}", operation_, name, dtype_name(tensor.dtype()), expected_dtype(holds));
  if (holds == Holds::kReal) agrees(name, tensor.dtype());
}

void ArgumentCheck::agrees(const char* name, Dtype dtype) {
  if (!ctx_.backend->computes_in(dtype))
    throw DtypeError("{}: {} is {}, which the {} backend does not compute in on this machine; expected f32", operation_,
                     name, dtype_name(dtype), ctx_.backend->name());
  if (first_real_ == nullptr) {
    first_real_ = name;
    real_ = dtype;
  }
  if (dtype != real_)
    throw DtypeError("{}: {} is {}, expected {} as {} is", operation_, name, dtype_name(dtype), dtype_name(real_),
                     first_real_);
}

void ArgumentCheck::strided(const char* name, const ConstTensor& tensor, Holds expected, const Dims& shape) {
  if (tensor.shape() != shape)
    throw ShapeError("{}: {} is {}, expected {}", operation_, name, tensor.shape().to_string(), shape.to_string());
  holds(name, tensor, expected);
  if (tensor.empty() && tensor.elements() > 0)
    throw ShapeError("{}: {} has no memory, expected {}", operation_, name, shape.to_string());
  const int last = tensor.rank() - 1;
  for (int i = 0; i < tensor.rank(); ++i) {
    const bool apart = i == last ? tensor.stride(i) == 1 : tensor.dim(i) == 1 || tensor.stride(i) >= tensor.dim(last);
    if (!apart)
      throw ShapeError("{}: {} {} has strides {}, expected a last stride of 1 and rows that do not overlap", operation_,
                       name, shape.to_string(), tensor.strides().to_string());
  }
}

void ArgumentCheck::dense(const char* name, const ConstTensor& tensor, Holds expected, const Dims& shape) {
  strided(name, tensor, expected, shape);
  if (!tensor.is_contiguous())
    throw ShapeError("{}: {} {} has strides {}, expected contiguous", operation_, name, shape.to_string(),
                     tensor.strides().to_string());
}

void ArgumentCheck::disjoint(const Named& output, std::initializer_list<Named> others) const {
  for (const Named& other : others)
    if (overlap(output.tensor, other.tensor))
      throw ShapeError("{}: {} shares memory with {}, expected its own", operation_, output.name, other.name);
}

void ArgumentCheck::same_or_disjoint(const Named& output, std::initializer_list<Named> others) const {
  for (const Named& other : others)
    if (!same_view(output.tensor, other.tensor)) disjoint(output, {other});
}

void ArgumentCheck::workspace(int64_t bytes) const {
  if (ctx_.workspace.size() < static_cast<size_t>(bytes))
    throw ShapeError("{}: the workspace has {} bytes, expected at least {}", operation_, ctx_.workspace.size(), bytes);
  if (reinterpret_cast<uintptr_t>(ctx_.workspace.data()) % 64 != 0)
    throw ShapeError("{}: the workspace is not aligned to 64 bytes", operation_);
}

}  // namespace skippipe
