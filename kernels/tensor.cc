#include "kernels/tensor.h"

#include "base/error.h"

namespace skippipe {

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "f32";
    case Dtype::kBf16:
      return "bf16";
    case Dtype::kI32:
      return "i32";
  }
  return "unknown";
}

Dtype parse_compute_dtype(std::string_view name) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
    if (name == dtype_name(dtype)) return dtype;
  throw ConfigError("found dtype '{}', expected f32 or bf16", name);
}

const char* device_name(Device device) {
  switch (device) {
    case Device::kCpu:
      return "cpu";
    case Device::kCuda:
      return "cuda";
  }
  return "unknown";
}

Dims::Dims(std::initializer_list<int64_t> values) : rank_(static_cast<int>(values.size())) {
  SKP_CHECK(values.size() <= kMaxRank, "{} dimensions, expected at most {}", values.size(), kMaxRank);
  size_t i = 0;
  for (const int64_t value : values) values_[i++] = value;
}

std::string Dims::to_string() const {
  std::string result = "(";
  for (int i = 0; i < rank_; ++i) result += (i == 0 ? "" : ", ") + std::to_string((*this)[i]);
  return result + ")";
}

int64_t element_count(const Dims& shape) {
  int64_t count = 1;
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count))
      throw ShapeError("{} is no shape: an extent is negative or the number of elements overflows", shape.to_string());
  return count;
}

Dims contiguous_strides(const Dims& shape) {
  Dims strides = shape;
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    if (__builtin_mul_overflow(stride, shape[i], &stride))
      throw ShapeError("{} is no shape: the number of elements overflows", shape.to_string());
  }
  return strides;
}

namespace internal {

void fail_reshape(const Dims& from, const Dims& to) {
  throw ShapeError("cannot view {} as {}", from.to_string(), to.to_string());
}

void fail_slice(const Dims& shape, int dimension, int64_t begin, int64_t count) {
  throw ShapeError("cannot take [{}, {}+{}) of dimension {} of {}", begin, begin, count, dimension, shape.to_string());
}

}  // namespace internal
}  // namespace skippipe
