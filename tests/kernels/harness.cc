#include "tests/kernels/harness.h"

#ifdef SKIPPIPE_HAS_CPU_BACKEND
#include <omp.h>
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "tests/kernels/tolerance.h"
#include "tests/test_backend.h"

namespace skippipe::testing {
namespace {

constexpr std::byte kGuard{0xA5};
constexpr std::ptrdiff_t kGuardBytes = 256;
constexpr uint64_t kSeed = 20250219;

uint16_t bf16_bits(double value) {
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double rounded(double value, Dtype dtype) {
  if (dtype == Dtype::kBf16) return std::bit_cast<float>(static_cast<uint32_t>(bf16_bits(value)) << 16);
  return static_cast<float>(value);
}

// Remembers which suites instantiated which backends and which of them verified an output, and fails at the end of the
// program when a suite that ran tests never did so with a backend that it names.
class Coverage : public ::testing::Environment {
 public:
  void named(const std::string& suite, const std::string& backend) { named_.insert({suite, backend}); }
  void verified(const std::string& suite, const std::string& backend) { verified_.insert({suite, backend}); }
  void TearDown() override {
    for (const auto& entry : named_)
      EXPECT_TRUE(verified_.contains(entry)) << entry.first << " never verified an output of backend " << entry.second;
  }

 private:
  std::set<std::pair<std::string, std::string>> named_, verified_;
};

Coverage& coverage() {
  static auto* environment =
      static_cast<Coverage*>(::testing::AddGlobalTestEnvironment(new Coverage));  // owned by GoogleTest
  return *environment;
}

// Has OpenMP give one thread, however many are asked for, until the end.
class SmallTeam {
 public:
#ifdef SKIPPIPE_HAS_CPU_BACKEND
  SmallTeam() : before_(omp_get_max_active_levels()) { omp_set_max_active_levels(0); }
  ~SmallTeam() { omp_set_max_active_levels(before_); }
#else
  SmallTeam() = default;
#endif
  SmallTeam(const SmallTeam&) = delete;
  SmallTeam& operator=(const SmallTeam&) = delete;

 private:
  [[maybe_unused]] int before_ = 0;
};

std::string current_suite() { return ::testing::UnitTest::GetInstance()->current_test_info()->test_suite_name(); }

}  // namespace

TestTensor::TestTensor(TestDevice& device, const Dims& shape, const Dims& strides, Dtype dtype)
    : device_(&device), shape_(shape), strides_(strides), dtype_(dtype) {
  int64_t last = 0;
  for (int i = 0; i < shape.rank(); ++i) last += (shape[i] - 1) * strides[i];
  const int64_t count = element_count(shape);
  const size_t span = count == 0 ? 0 : static_cast<size_t>((last + 1) * dtype_bytes(dtype));
  first_ = kGuardBytes + static_cast<size_t>(count % 4 == 1 ? dtype_bytes(dtype) : 0);
  bytes_.assign(first_ + span + kGuardBytes, kGuard);
  memory_ = device.allocate(bytes_.size());
  fill_nan();
}

void TestTensor::for_each(const std::function<void(size_t)>& body) const {
  const int64_t count = element_count(shape_);
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i, offset = 0;
    for (int d = shape_.rank() - 1; d >= 0; --d) {
      offset += rest % shape_[d] * strides_[d];
      rest /= shape_[d];
    }
    body(first_ + static_cast<size_t>(offset * dtype_bytes(dtype_)));
  }
}

double TestTensor::read(size_t offset) const {
  uint32_t bits = 0;
  std::memcpy(&bits, &bytes_[offset], static_cast<size_t>(dtype_bytes(dtype_)));
  if (dtype_ == Dtype::kI32) return static_cast<int32_t>(bits);
  return std::bit_cast<float>(dtype_ == Dtype::kBf16 ? bits << 16 : bits);
}

void TestTensor::write(size_t offset, double value) {
  uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  if (dtype_ == Dtype::kBf16) bits = std::isnan(value) ? 0x7fc0 : bf16_bits(value);
  if (dtype_ == Dtype::kI32) bits = static_cast<uint32_t>(static_cast<int32_t>(value));
  std::memcpy(&bytes_[offset], &bits, static_cast<size_t>(dtype_bytes(dtype_)));
}

void TestTensor::fill_nan() {
  const double start = dtype_ == Dtype::kI32 ? INT32_MIN : std::numeric_limits<double>::quiet_NaN();
  for_each([&](size_t offset) { write(offset, start); });
  upload();
}

void TestTensor::set(const Array& values) {
  SKP_CHECK(static_cast<int64_t>(values.size()) == element_count(shape_));
  size_t i = 0;
  for_each([&](size_t offset) { write(offset, values[i++]); });
  upload();
}

void TestTensor::set(const Ids& values) { set(Array(values.begin(), values.end())); }

void TestTensor::set_f32_bits(const std::vector<uint32_t>& bits) {
  SKP_CHECK(static_cast<int64_t>(bits.size()) == element_count(shape_) && dtype_ == Dtype::kF32);
  size_t i = 0;
  for_each([&](size_t offset) { std::memcpy(&bytes_[offset], &bits[i++], sizeof(uint32_t)); });
  upload();
}

Array TestTensor::get() {
  download();
  Array values;
  for_each([&](size_t offset) { values.push_back(read(offset)); });
  return values;
}

bool TestTensor::guards_intact() {
  download();
  std::vector<bool> element(bytes_.size(), false);
  for_each([&](size_t offset) {
    for (int64_t i = 0; i < dtype_bytes(dtype_); ++i) element[offset + static_cast<size_t>(i)] = true;
  });
  for (size_t i = 0; i < bytes_.size(); ++i)
    if (!element[i] && bytes_[i] != kGuard) return false;
  return true;
}

Dims strides_with_gap(const Dims& shape, int64_t gap) {
  Dims strides = contiguous_strides(shape);
  if (shape.rank() == 2) strides[0] = shape[1] + gap;
  if (shape.rank() == 4) {
    strides[1] = shape[2] * shape[3] + gap;
    strides[0] = shape[1] * strides[1];
  }
  return strides;
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return format("{}_{}_{}_threads", info.param.backend, dtype_name(info.param.dtype), info.param.threads);
}

std::vector<Case> f32_cases() {
  std::vector<Case> cases = all_cases();
  std::erase_if(cases, [](const Case& c) { return c.dtype != Dtype::kF32; });
  return cases;
}

void PrintTo(const Case& c, std::ostream* out) {
  *out << format("{} {} with {} threads", c.backend, dtype_name(c.dtype), c.threads);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* backend, std::initializer_list<int> threads) {
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
      for (const int count : threads) cases.push_back({backend, dtype, count});
  };
#ifdef SKIPPIPE_HAS_CPU_BACKEND
  add("cpu", {1, 2});
#endif
#ifdef SKIPPIPE_HAS_SIMT_CASES
  add("simt", {1});
#endif
  add("cuda", {1});
  return cases;
}

KernelTest::KernelTest() : ctx_{nullptr, GetParam().threads, {}, nullptr}, random_(kSeed) {
  RecordProperty("seed", std::to_string(kSeed));
}

void KernelTest::SetUp() {
  std::string why_none;
  device_ = make_test_device(GetParam().backend, why_none);
  SKP_SKIP_WITHOUT(device_, why_none);
  ctx_.backend = &device_->backend();
  coverage().named(current_suite(), GetParam().backend);
}

void KernelTest::use_workspace(int64_t bytes) {
  workspace_.assign(static_cast<size_t>(bytes) + 2 * kGuardBytes, kGuard);
  workspace_memory_ = device_->allocate(workspace_.size());
  ctx_.workspace = {workspace_memory_.get() + kGuardBytes, static_cast<size_t>(bytes)};
  poison_workspace();
}

// Every float a NaN.
void KernelTest::poison_workspace() {
  if (workspace_.empty()) return;
  std::fill(workspace_.begin() + kGuardBytes, workspace_.end() - kGuardBytes, std::byte{0xff});
  device_->upload(workspace_memory_, workspace_);
}

Array KernelTest::random(int64_t count, double low, double high) {
  Array values(static_cast<size_t>(count));
  for (double& value : values) value = rounded(random_.uniform(low, high), dtype());
  return values;
}

Ids KernelTest::random_ids(int64_t count, int64_t bound) {
  Ids values(static_cast<size_t>(count));
  for (int32_t& value : values) value = static_cast<int32_t>(random_.below(static_cast<uint64_t>(bound)));
  return values;
}

TestTensor KernelTest::real(const Dims& shape, const Array& values, int64_t gap) {
  TestTensor tensor(*device_, shape, strides_with_gap(shape, gap), dtype());
  tensor.set(values);
  return tensor;
}

TestTensor KernelTest::f32(const Dims& shape, const Array& values) {
  TestTensor tensor = f32_output(shape);
  tensor.set(values);
  return tensor;
}

TestTensor KernelTest::ids(const Ids& values) {
  TestTensor tensor = output({static_cast<int64_t>(values.size())}, Dtype::kI32);
  tensor.set(values);
  return tensor;
}

TestTensor KernelTest::real_output(const Dims& shape, int64_t gap) {
  return {*device_, shape, strides_with_gap(shape, gap), dtype()};
}

void KernelTest::verify(const std::vector<Output>& outputs, const std::function<void(Context&)>& run) {
  const auto reset = [&] {
    for (const Output& output : outputs)
      if (output.before.empty())
        output.tensor->fill_nan();
      else
        output.tensor->set(output.before);
    poison_workspace();
  };
  reset();
  if (!ctx_.backend->computes_in(dtype())) {
    EXPECT_THROW(run(ctx_), DtypeError);
    return;
  }
  run(ctx_);
  std::vector<Array> first;
  for (const Output& output : outputs) {
    first.push_back(output.tensor->get());
    expect_close(output.name, first.back(), output.expected, dtype(), output.term_size);
    EXPECT_TRUE(output.tensor->guards_intact()) << output.name << ": memory beside it was written";
  }
  reset();
  run(ctx_);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Array again = outputs[i].tensor->get();
    EXPECT_EQ(0, std::memcmp(again.data(), first[i].data(), again.size() * sizeof(double)))
        << outputs[i].name << " differs between two runs";
  }
  if (ctx_.threads > 1) {
    const SmallTeam fewer_than_asked;
    reset();
    run(ctx_);
    for (const Output& output : outputs)
      expect_close(output.name, output.tensor->get(), output.expected, dtype(), output.term_size);
  }
  EXPECT_TRUE(workspace_guards_intact()) << "memory beside the workspace was written";
  note_verified();
}

void KernelTest::note_verified() { coverage().verified(current_suite(), GetParam().backend); }

bool KernelTest::workspace_guards_intact() {
  if (workspace_.empty()) return true;
  device_->download(workspace_, workspace_memory_);
  const auto is_guard = [](std::byte byte) { return byte == kGuard; };
  return std::all_of(workspace_.begin(), workspace_.begin() + kGuardBytes, is_guard) &&
         std::all_of(workspace_.end() - kGuardBytes, workspace_.end(), is_guard);
}

void expect_close(const char* name, const Array& actual, const Array& expected, Dtype dtype, double term_size) {
  ASSERT_EQ(actual.size(), expected.size()) << name;
  const auto [worst, at] = largest_difference(actual, expected, term_size);
  EXPECT_LE(worst, tolerance(dtype)) << name << "[" << at << "] is " << actual[at] << ", expected " << expected[at];
}

}  // namespace skippipe::testing
