// Tensors are views: a pointer with shape, strides, element type and device. They own nothing; memory belongs to the
// slab of whoever runs the operation (engine/memory).
//
// Shape letters, everywhere: B batch, T tokens, N = B*T rows, C channels, H query heads, K key/value heads, D head
// dim, F feed-forward dim, V vocabulary.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace skippipe {

enum class Dtype : uint8_t { kF32 = 1, kBf16 = 2, kI32 = 3 };
enum class Device : uint8_t { kCpu = 1, kCuda = 2 };

constexpr int64_t dtype_bytes(Dtype dtype) { return dtype == Dtype::kBf16 ? 2 : 4; }
const char* dtype_name(Dtype dtype);  // "f32"
// What a model computes in: of "f32" and "bf16". Throws ConfigError for anything else.
Dtype parse_compute_dtype(std::string_view name);
const char* device_name(Device device);  // "cpu"

inline constexpr int kMaxRank = 4;

// Extents or strides of up to kMaxRank dimensions.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return values_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return values_[static_cast<size_t>(i)]; }
  friend bool operator==(const Dims&, const Dims&) = default;
  std::string to_string() const;  // "(4, 128)"

 private:
  std::array<int64_t, kMaxRank> values_{};
  int rank_ = 0;
};

// The product of the extents. Throws ShapeError if one is negative or the product overflows.
int64_t element_count(const Dims& shape);
Dims contiguous_strides(const Dims& shape);

// What views that can't be throw. (Out of line: CUDA sources, which know no formatting library, include this header.)
namespace internal {
[[noreturn]] void fail_reshape(const Dims& from, const Dims& to);
[[noreturn]] void fail_slice(const Dims& shape, int dimension, int64_t begin, int64_t count);
}  // namespace internal

// Void is void for a tensor that may be written, const void for one that may not. Strides count elements.
template <typename Void>
class BasicTensor {
 public:
  BasicTensor() = default;
  BasicTensor(Void* data, const Dims& shape, Dtype dtype, Device device = Device::kCpu)
      : BasicTensor(data, shape, contiguous_strides(shape), dtype, device) {}
  BasicTensor(Void* data, const Dims& shape, const Dims& strides, Dtype dtype, Device device)
      : data_(data), shape_(shape), strides_(strides), dtype_(dtype), device_(device) {}
  // A tensor that may be written is also one that may be read.
  operator BasicTensor<const void>() const { return {data_, shape_, strides_, dtype_, device_}; }  // NOLINT

  Void* data() const { return data_; }
  bool empty() const { return data_ == nullptr; }
  const Dims& shape() const { return shape_; }
  const Dims& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t stride(int i) const { return strides_[i]; }
  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t elements() const { return element_count(shape_); }
  int64_t bytes() const { return elements() * dtype_bytes(dtype_); }
  bool is_contiguous() const { return strides_ == contiguous_strides(shape_); }

  // Typed access on the host, without a check: T must fit dtype().
  template <typename T>
  auto* as() const {
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(data_);
  }

  // The same elements under another shape. Throws ShapeError unless contiguous with equal counts.
  BasicTensor reshape(const Dims& shape) const {
    if (!is_contiguous() || element_count(shape) != elements()) internal::fail_reshape(shape_, shape);
    return {data_, shape, contiguous_strides(shape), dtype_, device_};
  }
  // Indices [begin, begin + count) of dimension `dimension`; keeps the strides. Throws ShapeError if out of range.
  BasicTensor slice(int dimension, int64_t begin, int64_t count) const {
    if (dimension < 0 || dimension >= rank() || begin < 0 || count < 0 || begin > dim(dimension) - count)
      internal::fail_slice(shape_, dimension, begin, count);
    BasicTensor result = *this;
    result.shape_[dimension] = count;
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    result.data_ = static_cast<Byte*>(data_) + begin * stride(dimension) * dtype_bytes(dtype_);
    return result;
  }

 private:
  Void* data_ = nullptr;
  Dims shape_;
  Dims strides_;
  Dtype dtype_ = Dtype::kF32;
  Device device_ = Device::kCpu;
};

using Tensor = BasicTensor<void>;
using ConstTensor = BasicTensor<const void>;

}  // namespace skippipe
