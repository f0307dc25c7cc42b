// The contract of kernels/runtime.h, on every backend's device.
#include "kernels/runtime.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <future>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "tests/kernels/sums.h"
#include "tests/kernels/test_device.h"
#include "tests/test_backend.h"
#include "tests/wait_until.h"

namespace skippipe::testing {
namespace {

constexpr int64_t kHuge = int64_t{1} << 55;

class RuntimeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string why_none;
    device_ = make_test_device(GetParam(), why_none);
    SKP_SKIP_WITHOUT(device_, why_none);
  }

  TestDevice& device() { return *device_; }
  Runtime& runtime() { return device_->backend().runtime(); }

 private:
  std::unique_ptr<TestDevice> device_;
};

std::vector<const char*> devices() {
  return {
#ifdef SKIPPIPE_HAS_CPU_BACKEND
      "cpu",
#endif
#ifdef SKIPPIPE_HAS_SIMT
      "simt",
#endif
      "cuda"};
}
INSTANTIATE_TEST_SUITE_P(Devices, RuntimeTest, ::testing::ValuesIn(devices()),
                         [](const auto& given) { return given.param; });

// Memory of a place, until the end.
class Piece {
 public:
  Piece(Runtime& runtime, Place place, int64_t bytes)
      : runtime_(runtime), place_(place), bytes_(bytes), memory_(runtime.allocate(place, bytes)) {}
  ~Piece() { runtime_.release(place_, memory_, bytes_); }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  void* get() const { return memory_; }

 private:
  Runtime& runtime_;
  Place place_;
  int64_t bytes_;
  void* memory_;
};

TEST_P(RuntimeTest, MemoryIsZeroedAndAligned) {
  const int64_t before = runtime().allocations();
  for (int again = 0; again < 2; ++again)
    for (const Place place : {Place::kDevice, Place::kHost})
      for (const int64_t bytes : {0, 1, 255, 256, 100'000}) {
        const Piece piece(runtime(), place, bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.get()) % 256, 0u) << bytes;
        std::vector<std::byte> got(static_cast<size_t>(bytes), std::byte{1});
        runtime().copy(nullptr, got.data(), piece.get(), bytes);
        runtime().finish(nullptr);
        EXPECT_EQ(got, std::vector<std::byte>(got.size())) << bytes;
        // What the next one to get this memory must not see.
        got.assign(got.size(), std::byte{2});
        runtime().copy(nullptr, piece.get(), got.data(), bytes);
        runtime().finish(nullptr);
      }
  EXPECT_EQ(runtime().allocations() - before, 20);
}

TEST_P(RuntimeTest, SaysWhatIsThereAndRefusesMore) {
  for (const Place place : {Place::kDevice, Place::kHost}) {
    const int64_t available = runtime().available_bytes(place);
    EXPECT_GT(available, 0);
    EXPECT_LT(available, kHuge);
    EXPECT_THROW(runtime().allocate(place, kHuge), MemoryError);
    const Piece piece(runtime(), place, 1000);  // it has not failed for that
  }
}

TEST_P(RuntimeTest, CopiesInAllDirections) {
  constexpr int64_t kBytes = 1000;
  std::vector<std::byte> given(kBytes);
  for (size_t i = 0; i < given.size(); ++i) given[i] = static_cast<std::byte>(i * 7);
  const OwnedStream own(runtime());
  for (const Stream stream : {own.get(), Stream{nullptr}}) {
    const Piece device(runtime(), Place::kDevice, kBytes), other_device(runtime(), Place::kDevice, kBytes);
    const Piece host(runtime(), Place::kHost, kBytes), other_host(runtime(), Place::kHost, kBytes);
    std::vector<std::byte> plain(kBytes), got(kBytes);
    const std::array<void*, 7> way{host.get(),         device.get(), other_device.get(), plain.data(),
                                   other_device.get(), host.get(),   other_host.get()};
    const void* from = given.data();
    for (void* const to : way) {
      // So that nothing is there from before.
      runtime().copy(stream, to, got.data(), kBytes);
      runtime().copy(stream, to, from, kBytes);
      from = to;
    }
    runtime().copy(stream, got.data(), from, kBytes);
    runtime().finish(stream);
    EXPECT_EQ(got, given);
  }
}

TEST_P(RuntimeTest, AStreamKeepsItsOrder) {
  Sums sums(device());
  const OwnedStream stream(runtime());
  for (int i = 0; i < Sums::kSteps; ++i) sums.step(stream.get());
  sums.expect_right(stream.get());
}

TEST_P(RuntimeTest, StreamsWaitForEachOther) {
  Sums sums(device());
  const OwnedStream first(runtime()), second(runtime());
  for (int i = 0; i < Sums::kSteps; ++i) {
    const OwnedStream& mine = i % 3 == 0 ? first : second;
    const OwnedStream& other = i % 3 == 0 ? second : first;
    runtime().wait_for(mine.get(), other.get());
    sums.step(mine.get());
  }
  runtime().wait_for(first.get(), second.get());
  sums.expect_right(first.get());
}

TEST_P(RuntimeTest, AStreamWaitsForItselfAndForTheDefaultStream) {
  Sums sums(device());
  const OwnedStream stream(runtime());
  for (int i = 0; i < Sums::kSteps; ++i) {
    runtime().wait_for(stream.get(), stream.get());
    runtime().wait_for(stream.get(), nullptr);
    sums.step(stream.get());
    runtime().wait_for(nullptr, stream.get());
    if (++i < Sums::kSteps) sums.step(nullptr);
  }
  runtime().wait_for(stream.get(), nullptr);
  sums.expect_right(stream.get());
}

TEST_P(RuntimeTest, CallsComeWhenWhatWasBeforeThemIsDone) {
  Sums sums(device());
  const OwnedStream stream(runtime());
  const Piece host(runtime(), Place::kHost, Sums::kBytes);
  for (int i = 0; i < Sums::kSteps; ++i) {
    sums.step(stream.get());
    sums.copy_to(stream.get(), host.get());
    std::promise<std::vector<float>> called;
    runtime().call(stream.get(), [&] {
      const auto* const got = static_cast<const float*>(host.get());
      called.set_value({got, got + Sums::kCount});
    });
    EXPECT_EQ(called.get_future().get(), sums.expected()) << i;
  }
  runtime().finish(stream.get());
}

TEST_P(RuntimeTest, TellsWhenAllIsDone) {
  Sums sums(device());
  const OwnedStream stream(runtime());
  const Piece host(runtime(), Place::kHost, Sums::kBytes);
  EXPECT_TRUE(runtime().finished(stream.get()));
  for (int i = 0; i < Sums::kSteps; ++i) sums.step(stream.get());
  sums.copy_to(stream.get(), host.get());
  ASSERT_TRUE(wait_until([&] { return runtime().finished(stream.get()); }));
  EXPECT_EQ(std::memcmp(host.get(), sums.expected().data(), Sums::kBytes), 0);
}

TEST_P(RuntimeTest, ThreadsHaveStreamsOfTheirOwn) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread)
    threads.emplace_back([this] {
      runtime().use_on_this_thread();
      Sums sums(device());
      const OwnedStream stream(runtime());
      for (int i = 0; i < Sums::kSteps; ++i) {
        sums.step(stream.get());
        if (i % 4 == 3) runtime().finish(stream.get());
      }
      sums.expect_right(stream.get());
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_P(RuntimeTest, TimesWhatIsDone) {
  Sums sums(device());
  const OwnedStream stream(runtime());
  for (const Stream on : {stream.get(), Stream{nullptr}}) EXPECT_GE(runtime().seconds(on, [&] { sums.step(on); }), 0);
  sums.expect_right(nullptr);
}

// A step of products, kernels and copies, whose result depends on how often it was done.
class Step {
 public:
  explicit Step(TestDevice& device) : device_(device), x_(allocate()), w_(allocate()), y_(allocate()) {
    std::vector<float> numbers(kSide * kSide);
    std::iota(numbers.begin(), numbers.end(), -2.0f);
    for (float& number : numbers) number /= 64;
    for (const DeviceMemory* memory : {&x_, &w_})
      device_.backend().runtime().copy(nullptr, memory->get(), numbers.data(), kBytes);
    device_.backend().runtime().finish(nullptr);
  }

  // y = x w^T, x += y, w = y
  void queue(Stream stream) {
    Context ctx{&device_.backend(), 1, {}, stream};
    linear_forward(ctx, tensor(y_), tensor(x_), tensor(w_));
    accumulate(ctx, tensor(x_), tensor(y_), 0.25f);
    device_.backend().runtime().copy(stream, w_.get(), y_.get(), kBytes);
  }
  std::vector<float> values() {
    std::vector<float> values(2 * kSide * kSide);
    device_.backend().runtime().copy(nullptr, values.data(), x_.get(), kBytes);
    device_.backend().runtime().copy(nullptr, &values[kSide * kSide], w_.get(), kBytes);
    device_.backend().runtime().finish(nullptr);
    return values;
  }

 private:
  static constexpr int64_t kSide = 8, kBytes = kSide * kSide * sizeof(float);

  DeviceMemory allocate() { return device_.allocate(kBytes); }
  Tensor tensor(const DeviceMemory& memory) {
    return {memory.get(), {kSide, kSide}, Dtype::kF32, device_.backend().device()};
  }

  TestDevice& device_;
  DeviceMemory x_, w_, y_;
};

TEST_P(RuntimeTest, GraphsGiveTheSameBits) {
  constexpr int kTimes = 3;
  Step plain(device()), recorded(device());
  const OwnedStream stream(runtime());
  for (int i = 0; i <= kTimes; ++i) plain.queue(stream.get());
  recorded.queue(stream.get());
  runtime().finish(stream.get());
  const std::vector<float> before = recorded.values();
  int recordings = 0;
  const std::unique_ptr<Graph> graph = runtime().capture(stream.get(), [&] {
    recorded.queue(stream.get());
    ++recordings;
  });
  if (device().backend().device() == Device::kCpu) {
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(recordings, 0);
    return;
  }
  EXPECT_EQ(recordings, 1);
  runtime().finish(stream.get());
  EXPECT_EQ(recorded.values(), before) << "recording did the work";
  for (int i = 0; i < kTimes; ++i) graph->replay(stream.get());
  runtime().finish(stream.get());
  EXPECT_EQ(recorded.values(), plain.values());
  EXPECT_NE(recorded.values(), before);
}

TEST_P(RuntimeTest, NothingWaitsInAGraph) {
  if (device().backend().device() == Device::kCpu) GTEST_SKIP() << "the CPU has no graphs";
  Sums sums(device());
  const OwnedStream stream(runtime());
  sums.step(stream.get());
  const std::vector<std::function<void()>> forbidden{
      [&] { runtime().finish(stream.get()); }, [&] { (void)runtime().finished(stream.get()); },
      [&] { runtime().call(stream.get(), [] {}); }, [&] { (void)runtime().allocate(Place::kDevice, 1); }};
  for (size_t i = 0; i < forbidden.size(); ++i) {
    const auto work = [&] {
      sums.step(stream.get());
      forbidden[i]();
    };
    EXPECT_THROW((void)runtime().capture(stream.get(), work), DeviceError) << i;
    sums.forget_step();
    sums.step(stream.get());  // the stream records no longer
  }
  sums.expect_right(stream.get());
}

}  // namespace
}  // namespace skippipe::testing
