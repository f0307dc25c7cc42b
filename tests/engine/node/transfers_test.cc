#include "engine/node/transfers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "tests/simt/block.h"
#include "tests/simt/simt_backend.h"
#include "tests/wait_until.h"

namespace skippipe {
namespace {

constexpr int64_t kElements = 1000;

// A simulated GPU with a buffer on it and two in pinned memory, and transfers between them.
class Gpu {
 public:
  explicit Gpu(uint64_t seed)
      : backend_(simt::make_simt_backend({.seed = seed})),
        device_(take(Place::kDevice)),
        sent_(take(Place::kHost)),
        received_(take(Place::kHost)),
        stream_(backend_->runtime()) {
    context_.backend = backend_.get();
    context_.stream = stream_.get();
    transfers_.emplace(runtime(), [this] { ++wakes_; });
    fill(sent_, 1);
    copy(context_, device_, sent_);
    finish(context_);
  }
  ~Gpu() {
    transfers_.reset();
    for (const auto& [place, tensor] :
         {std::pair{Place::kDevice, device_}, {Place::kHost, sent_}, {Place::kHost, received_}})
      runtime().release(place, tensor.data(), tensor.bytes());
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  Runtime& runtime() { return backend_->runtime(); }
  Context& context() { return context_; }
  Transfers& transfers() { return *transfers_; }
  const Tensor& device() const { return device_; }
  const Tensor& sent() const { return sent_; }
  const Tensor& received() const { return received_; }
  int wakes() const { return wakes_; }

  static void fill(const Tensor& tensor, float value) { std::fill_n(tensor.as<float>(), tensor.elements(), value); }
  static bool holds(const Tensor& tensor, float value) {
    return std::all_of(tensor.as<float>(), tensor.as<float>() + tensor.elements(), [=](float x) { return x == value; });
  }
  // Polls until so many copies are told of.
  void wait_for(const int& told, int count) {
    ASSERT_TRUE(testing::wait_until([&] {
      transfers_->poll();
      return told >= count;
    }));
    ASSERT_EQ(told, count);
  }

 private:
  Tensor take(Place place) {
    return {backend_->runtime().allocate(place, kElements * 4),
            {kElements},
            Dtype::kF32,
            place == Place::kDevice ? Device::kCuda : Device::kCpu};
  }

  std::unique_ptr<Backend> backend_;
  Tensor device_, sent_, received_;
  OwnedStream stream_;
  Context context_;
  std::atomic<int> wakes_{0};
  std::optional<Transfers> transfers_;
};

TEST(Transfers, CopyBothWaysAndTellOnThePollingThread) {
  Gpu gpu(1);
  int told = 0;
  gpu.transfers().download(gpu.received(), gpu.device(), [&] { ++told; });
  gpu.wait_for(told, 1);
  EXPECT_TRUE(Gpu::holds(gpu.received(), 1));
  Gpu::fill(gpu.sent(), 2);
  gpu.transfers().upload(gpu.device(), gpu.sent(), [&] { ++told; });
  gpu.wait_for(told, 2);
  EXPECT_EQ(gpu.wakes(), 2);
  EXPECT_FALSE(gpu.transfers().poll());
  copy(gpu.context(), gpu.received(), gpu.device());
  finish(gpu.context());
  EXPECT_TRUE(Gpu::holds(gpu.received(), 2));
}

// Whether what is downloaded is what was there before a task that comes next wrote there. The device does nothing
// until both are queued: the seed says which of them it does first, not how quick this thread is.
bool download_is_first(uint64_t seed, bool hold_back) {
  Gpu gpu(seed);
  std::latch both_queued(1);
  gpu.runtime().call(gpu.context().stream, [&] { both_queued.wait(); });
  int told = 0;
  gpu.transfers().download(gpu.received(), gpu.device(), [&] { ++told; });
  if (hold_back) gpu.transfers().hold_back(gpu.context().stream);
  fill_zero(gpu.context(), gpu.device());
  both_queued.count_down();
  finish(gpu.context());
  gpu.wait_for(told, 1);
  return Gpu::holds(gpu.received(), 1);
}

TEST(Transfers, TasksThatAreHeldBackLeaveWhatIsOnItsWay) {
  int unordered = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    EXPECT_TRUE(download_is_first(seed, true)) << "seed " << seed;
    unordered += !download_is_first(seed, false);
  }
  EXPECT_GT(unordered, 0) << "no seed shows what holding back is for";
}

TEST(Transfers, UploadsLeaveWhatIsOnItsWay) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Gpu gpu(seed);
    int told = 0;
    Gpu::fill(gpu.sent(), 5);
    gpu.transfers().download(gpu.received(), gpu.device(), [&] { ++told; });
    gpu.transfers().upload(gpu.device(), gpu.sent(), [&] { ++told; });
    gpu.wait_for(told, 2);
    EXPECT_TRUE(Gpu::holds(gpu.received(), 1)) << "seed " << seed;
  }
}

// A device that has failed makes no calls: whoever polls hears of it, and does not wait for ever.
TEST(Transfers, PollingTellsOfAFailedDevice) {
  int heard = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Gpu gpu(seed);
    bool told = false, queued = false;
    const auto fail_in_mid_transfer = [&] {
      simt::queue_work(gpu.context().stream, [] { throw simt::KernelError("a kernel that fails"); });
      gpu.transfers().download(gpu.received(), gpu.device(), [&] { told = true; });
      queued = true;
      EXPECT_TRUE(testing::wait_until([&] { return gpu.transfers().poll() || told; }))
          << "polling never told of the failure";
      finish(gpu.context());
    };
    EXPECT_THROW(fail_in_mid_transfer(), DeviceError);
    heard += queued && !told;
  }
  EXPECT_GT(heard, 0) << "no seed fails before the copy is over";
}

}  // namespace
}  // namespace skippipe
