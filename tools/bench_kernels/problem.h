// One operation with its tensors: how to run it, what it must compute, and what to hold its speed against.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/reference/operations.h"
#include "tools/bench_kernels/device.h"
#include "tools/bench_kernels/shapes.h"

namespace skippipe::bench {

using reference::Array;
using reference::Ids;

// The tensors of one problem, and their memory.
class Tensors {
 public:
  // dtype: of activations and weights.
  Tensors(BenchDevice& device, Dtype dtype) : device_(device), dtype_(dtype) {}
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;

  BenchDevice& device() { return device_; }
  Dtype dtype() const { return dtype_; }
  // For questions about scratch memory.
  Context context() const { return device_.context(); }

  // Random.
  Tensor input(const Dims& shape) { return input(shape, dtype_); }
  Tensor input(const Dims& shape, Dtype dtype);
  // In [0, bound).
  Tensor ids(int64_t count, int64_t bound);
  // NaN.
  Tensor output(const Dims& shape) { return output(shape, dtype_); }
  Tensor output(const Dims& shape, Dtype dtype);

  // What a tensor of this problem, or a part of one, holds now; row-major.
  Array values(const ConstTensor& x) const;
  Ids id_values(const ConstTensor& x) const;

 private:
  struct Block {
    testing::DeviceMemory memory;
    size_t bytes;
  };
  Tensor allocate(const Dims& shape, Dtype dtype);

  BenchDevice& device_;
  Dtype dtype_;
  std::vector<Block> blocks_;
};

struct Output {
  const char* name;
  ConstTensor tensor;
  Array expected;
  double term_size = 0;  // of the terms whose sum this is, where they cancel by design
};

// What a rate is counted in, which also names the ceiling that it cannot exceed.
enum class Unit { kBytes, kFlops };

// Another way to do the same work, or the part of it that a library does.
struct Peer {
  std::string name;  // empty: none
  std::function<void(Context&)> run = {};
  double work = 0;
  int64_t scratch_bytes = 0;
  bool same_outputs = false;  // it computes what the operation computes, and is verified, too
};

struct Problem {
  std::function<void(Context&)> run;
  double work;  // of one run: bytes that must be read and written, or floating-point operations that must be done
  Unit unit;
  // What the outputs will hold after the first run, by the formulas; asked before it.
  std::function<std::vector<Output>()> expected;
  // Makes inputs that are results of other operations; before anything else.
  std::function<void(Context&)> prepare = {};
  int64_t scratch_bytes = 0;
  Peer peer = {};  // none for what moves bytes: a plain copy of as many bytes
};

struct Operation {
  const char* name;
  Problem (*make)(Tensors& tensors, const Shape& shape);
  bool f32_only = false;
  bool is_attention = false;
  bool portable_attention = false;  // for devices that have other kernels, too
};
// All of them, one line each.
std::vector<Operation> all_operations();
std::vector<Operation> product_operations();
std::vector<Operation> attention_operations();
std::vector<Operation> row_operations();
std::vector<Operation> flat_operations();

// Element by element.
Array plus(Array a, const Array& b);

}  // namespace skippipe::bench
