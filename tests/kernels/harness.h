// What every test of an operation needs: tensors with canaries around and between their elements, a context with
// exactly the scratch memory that the contract asks for, and one way to verify outputs.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/kernels/test_device.h"
#include "tests/reference/operations.h"

namespace skippipe::testing {

using reference::Array;
using reference::Ids;

// A tensor in memory of its own on a device. Storage that is no element (around it, and in the gaps of a strided one)
// holds a pattern that `guards_intact` looks for; elements start as NaN. Where the number of elements leaves a
// remainder of 1 when divided by 4, the first lies where no vector of 16 bytes may.
class TestTensor {
 public:
  TestTensor(TestDevice& device, const Dims& shape, Dtype dtype)
      : TestTensor(device, shape, contiguous_strides(shape), dtype) {}
  TestTensor(TestDevice& device, const Dims& shape, const Dims& strides, Dtype dtype);

  Tensor view() { return {memory_.get() + first_, shape_, strides_, dtype_, device_->backend().device()}; }
  void fill_nan();
  // Rounded to the dtype.
  void set(const Array& values);
  void set(const Ids& values);
  void set_f32_bits(const std::vector<uint32_t>& bits);
  Array get();
  bool guards_intact();

 private:
  void upload() { device_->upload(memory_, bytes_); }
  void download() { device_->download(bytes_, memory_); }
  // Calls body(offset in bytes_) for each element in row-major order.
  void for_each(const std::function<void(size_t)>& body) const;
  double read(size_t offset) const;
  void write(size_t offset, double value);

  TestDevice* device_;
  Dims shape_, strides_;
  Dtype dtype_;
  std::vector<std::byte> bytes_;  // a copy on the host
  DeviceMemory memory_;
  size_t first_ = 0;
};

// Strides of a view whose rows lie `gap` elements apart: (N,C) rows, or the (B,T) rows of (B,T,H,D).
Dims strides_with_gap(const Dims& shape, int64_t gap);

// Which backend in which dtype on how many threads.
struct Case {
  const char* backend;
  Dtype dtype;
  int threads;
};
void PrintTo(const Case& c, std::ostream* out);
std::string case_name(const ::testing::TestParamInfo<Case>& info);
// Every backend in every dtype: the CPU, our GPU kernels as tests execute them on the CPU ("simt"), and a GPU ("cuda").
std::vector<Case> all_cases();
// Those in f32, for operations that know nothing else.
std::vector<Case> f32_cases();

struct Output {
  const char* name;
  TestTensor* tensor;
  Array expected;
  Array before = {};     // what the operation adds to; empty: NaN
  double term_size = 0;  // of the terms whose sum this is, where they cancel by design
};

// Without a GPU the cases of "cuda" are skipped; with SKP_REQUIRE_CUDA=1 in the environment they fail instead.
class KernelTest : public ::testing::TestWithParam<Case> {
 protected:
  KernelTest();
  void SetUp() override;

  Dtype dtype() const { return GetParam().dtype; }
  Context& context() { return ctx_; }
  TestDevice& device() { return *device_; }
  // Exactly this many bytes of scratch memory, 64-byte aligned, guarded.
  void use_workspace(int64_t bytes);

  // Random values that the dtype can hold exactly.
  Array random(int64_t count, double low = -1, double high = 1);
  Ids random_ids(int64_t count, int64_t bound);
  // A tensor of the case's dtype that holds `values`, its rows `gap` elements apart.
  TestTensor real(const Dims& shape, const Array& values, int64_t gap = 0);
  TestTensor f32(const Dims& shape, const Array& values);
  TestTensor ids(const Ids& values);
  TestTensor real_output(const Dims& shape, int64_t gap = 0);
  TestTensor f32_output(const Dims& shape) { return output(shape, Dtype::kF32); }
  TestTensor output(const Dims& shape, Dtype dtype) { return {*device_, shape, dtype}; }

  // Runs twice. Each output must be what is expected, the same bits both times, and nothing around it touched. With
  // several threads it runs once more where OpenMP gives fewer, and outputs must be what is expected. Where
  // the backend does not compute in the case's dtype, the run must throw a DtypeError instead.
  void verify(const std::vector<Output>& outputs, const std::function<void(Context&)>& run);
  // For tests that check outputs without `verify`.
  void note_verified();

 private:
  void poison_workspace();
  bool workspace_guards_intact();

  std::unique_ptr<TestDevice> device_;  // null: there is none
  Context ctx_;
  std::vector<std::byte> workspace_;  // a copy on the host
  DeviceMemory workspace_memory_;
  Random random_;
};

// Each element within tolerance(dtype) of the expected one, relative to its size and to the root mean square of all (or
// to term_size, if that is greater).
void expect_close(const char* name, const Array& actual, const Array& expected, Dtype dtype, double term_size = 0);

#define SKP_INSTANTIATE_KERNEL_TEST(Suite, cases) \
  using Suite = KernelTest;                       \
  INSTANTIATE_TEST_SUITE_P(Backends, Suite, ::testing::ValuesIn(cases), case_name)

}  // namespace skippipe::testing
