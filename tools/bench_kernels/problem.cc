#include "tools/bench_kernels/problem.h"

#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "kernels/bf16.h"

namespace skippipe::bench {
namespace {

constexpr uint64_t kIdsSeed = 2;

double element(const std::byte* at, Dtype dtype) {
  const auto read = [at]<typename T>(T value) {
    std::memcpy(&value, at, sizeof(T));
    return static_cast<double>(value);
  };
  if (dtype == Dtype::kBf16) return read(Bf16(0.0f));
  return dtype == Dtype::kF32 ? read(0.0f) : read(int32_t{0});
}

}  // namespace

Tensor Tensors::allocate(const Dims& shape, Dtype dtype) {
  const auto bytes = static_cast<size_t>(element_count(shape) * dtype_bytes(dtype));
  blocks_.push_back({device_.memory().allocate(bytes), bytes});
  return {blocks_.back().memory.get(), shape, dtype, device_.backend().device()};
}

Tensor Tensors::input(const Dims& shape, Dtype dtype) {
  const Tensor x = allocate(shape, dtype);
  device_.fill_random(x);
  return x;
}

Tensor Tensors::output(const Dims& shape, Dtype dtype) {
  const Tensor x = allocate(shape, dtype);
  device_.fill_nan(x);
  return x;
}

Tensor Tensors::ids(int64_t count, int64_t bound) {
  Random random(kIdsSeed, {blocks_.size()});
  std::vector<std::byte> bytes(static_cast<size_t>(count) * sizeof(int32_t));
  for (size_t i = 0; i < bytes.size(); i += sizeof(int32_t)) {
    const auto id = static_cast<int32_t>(random.below(static_cast<uint64_t>(bound)));
    std::memcpy(&bytes[i], &id, sizeof(id));
  }
  const Tensor x = allocate({count}, Dtype::kI32);
  device_.memory().upload(blocks_.back().memory, bytes);
  return x;
}

Array Tensors::values(const ConstTensor& x) const {
  const auto* data = static_cast<const std::byte*>(x.data());
  for (const Block& block : blocks_) {
    if (data < block.memory.get() || data >= block.memory.get() + block.bytes) continue;
    std::vector<std::byte> bytes(block.bytes);
    device_.memory().download(bytes, block.memory);
    Array result(static_cast<size_t>(x.elements()));
    for (size_t i = 0; i < result.size(); ++i) {
      int64_t rest = static_cast<int64_t>(i), offset = 0;
      for (int d = x.rank() - 1; d >= 0; --d) {
        offset += rest % x.dim(d) * x.stride(d);
        rest /= x.dim(d);
      }
      const auto first = static_cast<size_t>(data - block.memory.get());
      result[i] = element(&bytes[first + static_cast<size_t>(offset * dtype_bytes(x.dtype()))], x.dtype());
    }
    return result;
  }
  throw InternalError("a tensor of another problem");
}

Ids Tensors::id_values(const ConstTensor& x) const {
  const Array ids = values(x);
  return {ids.begin(), ids.end()};
}

std::vector<Operation> all_operations() {
  std::vector<Operation> all;
  for (const auto& some : {product_operations(), attention_operations(), row_operations(), flat_operations()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

Array plus(Array a, const Array& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

}  // namespace skippipe::bench
