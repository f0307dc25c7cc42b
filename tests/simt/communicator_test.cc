// Sums between devices: kernels/cuda/nccl_communicator.cc with a simulated NCCL, between simulated devices.
#include "kernels/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cuda/nccl_communicator.h"
#include "tests/expect_error.h"
#include "tests/simt/block.h"
#include "tests/simt/simt_runtime.h"
#include "tests/simt/simulated_nccl.h"
#include "tests/wait_until.h"

namespace skippipe::simt {
namespace {

using ::testing::HasSubstr;
using State = Communicator::State;
constexpr auto kLimit = std::chrono::seconds(60);  // of every wait; a test that needs it has failed

// Wakes the test, from any thread.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  [[nodiscard]] bool wait_until(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kLimit, condition);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

// A device with floats in its memory.
class Member {
 public:
  Member(uint64_t seed, size_t count)
      : runtime(make_simt_runtime({.seed = seed, .nccl = nccl})),
        library(runtime->load_communicators()),
        count_(count),
        memory_(static_cast<float*>(runtime->allocate(Place::kDevice, bytes()))) {}
  ~Member() {
    communicator.reset();
    runtime->release(Place::kDevice, memory_, bytes());
  }

  void set(const std::vector<float>& values) { runtime->copy(nullptr, memory_, values.data(), bytes()); }
  std::vector<float> get() {
    std::vector<float> values(count_);
    runtime->copy(nullptr, values.data(), memory_, bytes());
    return values;
  }
  void sum() { communicator->sum(memory_, static_cast<int64_t>(count_)); }

  const std::shared_ptr<SimulatedNccl> nccl = std::make_shared<SimulatedNccl>();
  const std::unique_ptr<Runtime> runtime;
  const std::unique_ptr<CommunicatorLibrary> library;
  std::unique_ptr<Communicator> communicator;

 private:
  int64_t bytes() const { return static_cast<int64_t>(count_ * sizeof(float)); }

  const size_t count_;
  float* const memory_;
};

class CommunicatorTest : public ::testing::Test {
 protected:
  void make(int ranks, size_t count, uint64_t seed = 7) {
    for (int rank = 0; rank < ranks; ++rank)
      members_.push_back(std::make_unique<Member>(seed + static_cast<uint64_t>(rank), count));
  }
  void connect() {
    const std::vector<std::byte> id = members_[0]->library->make_id();
    for (size_t rank = 0; rank < members_.size(); ++rank)
      members_[rank]->communicator = members_[rank]->library->connect(
          id, static_cast<int>(rank), static_cast<int>(members_.size()), [this] { bell_.ring(); });
  }
  [[nodiscard]] bool all_become(State state) {
    return bell_.wait_until([&] {
      return std::ranges::all_of(members_, [&](const auto& member) { return member->communicator->state() == state; });
    });
  }
  [[nodiscard]] bool becomes(size_t rank, State state) {
    return bell_.wait_until([&] { return members_[rank]->communicator->state() == state; });
  }

  Bell bell_;
  std::vector<std::unique_ptr<Member>> members_;
};

TEST_F(CommunicatorTest, SumsAreThereAndEqual) {
  for (const int ranks : {2, 3, 5}) {
    SCOPED_TRACE(ranks);
    members_.clear();
    make(ranks, 1000);
    EXPECT_EQ(members_[0]->library->name(), "NCCL 2.28.9");
    connect();
    ASSERT_TRUE(all_become(State::kReady));
    for (uint64_t iteration = 0; iteration < 3; ++iteration) {
      std::vector<double> expected(1000);
      for (size_t rank = 0; rank < members_.size(); ++rank) {
        Random random(iteration, {rank});
        std::vector<float> values(1000);
        for (size_t i = 0; i < values.size(); ++i) expected[i] += values[i] = static_cast<float>(random.normal());
        members_[rank]->set(values);
        members_[rank]->sum();
      }
      ASSERT_TRUE(all_become(State::kReady));
      const std::vector<float> sum = members_[0]->get();
      for (size_t i = 0; i < sum.size(); ++i) ASSERT_NEAR(sum[i], expected[i], 1e-5);
      for (const auto& member : members_) EXPECT_EQ(member->get(), sum);
    }
    for (const auto& member : members_) {
      EXPECT_EQ(member->nccl->sums, 3);
      member->communicator.reset();
      EXPECT_EQ(member->nccl->aborts, 1);
    }
  }
}

TEST_F(CommunicatorTest, BadCallsAreRefused) {
  make(1, 1);
  SKP_EXPECT_ERROR(members_[0]->library->connect({}, 0, 1, [] {}), DeviceError, "0 bytes are no id of NCCL 2.28.9's");
  members_[0]->nccl->fault = NcclFault::kNoId;
  SKP_EXPECT_ERROR(members_[0]->library->make_id(), DeviceError,
                   "ncclGetUniqueId: unhandled system error (no network at all)");
  members_[0]->nccl->fault = NcclFault::kNone;
  connect();
  ASSERT_TRUE(all_become(State::kReady));
  members_[0]->nccl->fault = NcclFault::kSumHangs;
  members_[0]->sum();
  EXPECT_THROW(members_[0]->sum(), InternalError);
}

TEST_F(CommunicatorTest, WhoCannotConnectSaysWhy) {
  make(2, 1);
  members_[1]->nccl->fault = NcclFault::kConnectFails;
  connect();
  ASSERT_TRUE(becomes(1, State::kFailed));
  EXPECT_EQ(members_[1]->communicator->status().code(), StatusCode::kCancelled);
  EXPECT_EQ(members_[1]->communicator->status().message(),
            "ncclCommInitRankConfig: unhandled cuda error (this GPU reaches no other)");
  EXPECT_EQ(members_[1]->nccl->aborts, 1);
}

TEST_F(CommunicatorTest, WhatHangsEndsByAbort) {
  make(2, 8);
  members_[1]->nccl->fault = NcclFault::kConnectHangs;
  connect();
  EXPECT_EQ(members_[0]->communicator->state(), State::kBusy);
  for (const auto& member : members_) member->communicator->abort();
  ASSERT_TRUE(all_become(State::kFailed));

  members_[1]->nccl->fault = NcclFault::kNone;
  connect();
  ASSERT_TRUE(all_become(State::kReady));
  // One that does not come at all, and one that hangs on its device.
  members_[0]->sum();
  members_[0]->communicator->abort();
  ASSERT_TRUE(becomes(0, State::kFailed));
  EXPECT_EQ(members_[0]->communicator->status().message(), "the sum between GPUs was given up");
  members_[1]->sum();
  members_[1]->communicator.reset();
  for (const auto& member : members_) EXPECT_EQ(member->nccl->aborts, 2);
}

TEST_F(CommunicatorTest, AFailureInMidSumIsToldAndBlamedOnThePeer) {
  make(2, 8);
  connect();
  ASSERT_TRUE(all_become(State::kReady));
  members_[0]->sum();
  members_[0]->nccl->fault = NcclFault::kSumFails;
  ASSERT_TRUE(becomes(0, State::kFailed));
  EXPECT_EQ(members_[0]->communicator->status().code(), StatusCode::kPeerGone);
  EXPECT_THAT(members_[0]->communicator->status().message(),
              HasSubstr("remote process exited or there was a network error (connection closed by a peer)"));
}

TEST_F(CommunicatorTest, ADeviceThatFailedEndsTheSum) {
  make(2, 8);
  connect();
  ASSERT_TRUE(all_become(State::kReady));
  members_[0]->sum();
  const Stream stream = members_[1]->runtime->make_stream();
  queue_work(stream, [] { throw KernelError("goes wrong"); });
  EXPECT_THROW(members_[1]->runtime->finish(stream), KernelError);
  members_[1]->runtime->destroy_stream(stream);
  members_[1]->sum();
  ASSERT_TRUE(becomes(1, State::kFailed));
  EXPECT_EQ(members_[1]->communicator->status().code(), StatusCode::kCancelled);
  EXPECT_THAT(members_[1]->communicator->status().message(), HasSubstr("goes wrong"));
}

// What hangs in NCCL itself is left behind, and so is its device here, which wants its stream back.
TEST(Communicator, AnAbortThatHangsHoldsUpNobody) {
  static Runtime* left_behind = nullptr;
  const auto nccl = std::make_shared<SimulatedNccl>();
  left_behind = make_simt_runtime({.nccl = nccl}).release();
  const auto library = load_nccl(*left_behind, std::chrono::milliseconds(10));
  auto communicator = library->connect(library->make_id(), 0, 2, [] {});
  nccl->fault = NcclFault::kAbortHangs;
  communicator.reset();
  EXPECT_EQ(nccl->aborts, 0);
  nccl->fault = NcclFault::kNone;
  EXPECT_TRUE(testing::wait_until([&] { return nccl->aborts == 1; }));
}

}  // namespace
}  // namespace skippipe::simt
