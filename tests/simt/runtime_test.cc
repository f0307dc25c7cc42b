// What the device that tests simulate (simt_runtime.h) must refuse and must bring to light, beyond the contract that it
// keeps as the others do (tests/kernels/runtime_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/hardware.h"
#include "tests/expect_error.h"
#include "tests/kernels/sums.h"
#include "tests/kernels/test_device.h"
#include "tests/simt/simt_backend.h"

namespace skippipe::simt {
namespace {

using ::testing::Contains;
using testing::DeviceMemory;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::Sums;
using testing::TestDevice;

constexpr int kSeeds = 16;

std::unique_ptr<TestDevice> make_device(const SimtOptions& options = {}) {
  return std::make_unique<TestDevice>(make_simt_backend(options));
}

class SimtRuntimeTest : public ::testing::Test {
 protected:
  TestDevice& device() { return *device_; }
  Runtime& runtime() { return device_->backend().runtime(); }

 private:
  std::unique_ptr<TestDevice> device_ = make_device();
};

// Does what no kernel may.
void go_wrong(int) { Block::current().fail("goes wrong"); }
void launch_fault(Stream stream) {
  const Context context{nullptr, 1, {}, stream};
  launch(Launch(context, "faulty", {}, 32), go_wrong, 0);
}

// ---------------------------------------------------------------------------------------------------- memory

using SimtRuntimeDeathTest = SimtRuntimeTest;

TEST_F(SimtRuntimeDeathTest, HostTouchesDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const DeviceMemory memory = device().allocate(10'000);
  for (const size_t at : {0, 9'999}) {
    EXPECT_DEATH(std::memset(memory.get() + at, 1, 1), "");
    EXPECT_DEATH(std::exit(static_cast<int>(memory.get()[at])), "");
  }
}

TEST_F(SimtRuntimeTest, PromisesNoMoreThanAGpu) {
  for (int i = 0; i < 3; ++i) EXPECT_EQ(reinterpret_cast<uintptr_t>(device().allocate(1).get()) % 512, 256u);
}

TEST_F(SimtRuntimeTest, BesideAPieceOfDeviceMemory) {
  const DeviceMemory memory = device().allocate(100);
  const auto numbers = [&](int64_t first) { return reinterpret_cast<float*>(memory.get()) + first; };
  EXPECT_NO_THROW(Global<float>(numbers(0), 25));
  EXPECT_NO_THROW(Global<float>(numbers(25), 0));
  EXPECT_THROW(Global<float>(numbers(0), 26), KernelError);
  EXPECT_THROW(Global<float>(numbers(24), 2), KernelError);
  float host = 0;
  EXPECT_THROW(runtime().copy(nullptr, &host, memory.get() + 97, 4), KernelError);
}

TEST(SimtMemoryTest, IsLimited) {
  const auto device = make_device({.memory_bytes = 1000});
  Runtime& runtime = device->backend().runtime();
  {
    const DeviceMemory first = device->allocate(600);
    EXPECT_EQ(runtime.available_bytes(Place::kDevice), 400);
    SKP_EXPECT_ERROR((void)device->allocate(401), MemoryError, "refused 401 bytes of its memory: 400 of 1000 are free");
    const DeviceMemory second = device->allocate(400);
    EXPECT_EQ(runtime.available_bytes(Place::kDevice), 0);
    EXPECT_THROW(device->allocate(0), MemoryError);
    runtime.release(Place::kHost, runtime.allocate(Place::kHost, 5000), 5000);
  }
  EXPECT_EQ(runtime.available_bytes(Place::kDevice), 1000);
}

// ---------------------------------------------------------------------------------------------------- order

// Two streams take turns; whether the sums come out right.
bool take_turns(uint64_t seed, bool with_waits) {
  const auto device = make_device({.seed = seed});
  Runtime& runtime = device->backend().runtime();
  Sums sums(*device);
  const OwnedStream first(runtime), second(runtime);
  for (int i = 0; i < Sums::kSteps; ++i) {
    const OwnedStream& mine = i % 2 == 0 ? first : second;
    if (with_waits) runtime.wait_for(mine.get(), (i % 2 == 0 ? second : first).get());
    sums.step(mine.get());
  }
  runtime.finish(first.get());
  return sums.is_right(second.get());
}

// The host changes what a copy reads before the copy is known to be done; whether that is what the device got.
bool copies_late(uint64_t seed) {
  const auto device = make_device({.seed = seed});
  Runtime& runtime = device->backend().runtime();
  const DeviceMemory memory = device->allocate(1);
  const OwnedStream stream(runtime);
  char given = 1, got = 0;
  runtime.copy(stream.get(), memory.get(), &given, 1);
  given = 2;
  runtime.copy(stream.get(), &got, memory.get(), 1);
  runtime.finish(stream.get());
  return got == 2;
}

// Whether the host sees a result that it did not wait for.
bool is_there_at_once(uint64_t seed) {
  const auto device = make_device({.seed = seed});
  Runtime& runtime = device->backend().runtime();
  const OwnedStream stream(runtime);
  const char given = 1;
  char got = 0;
  runtime.copy(stream.get(), &got, &given, 1);
  const bool result = got == 1;
  runtime.finish(stream.get());
  return result;
}

std::vector<bool> by_seed(const std::function<bool(uint64_t)>& body) {
  std::vector<bool> results;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) results.push_back(body(seed));
  return results;
}

TEST(SimtOrderTest, StreamsThatDoNotWaitAreSeen) {
  EXPECT_THAT(by_seed([](uint64_t seed) { return take_turns(seed, true); }), Each(true));
  EXPECT_THAT(by_seed([](uint64_t seed) { return take_turns(seed, false); }), Contains(false));
}

TEST(SimtOrderTest, TheDeviceIsQuickOrSlow) {
  for (const auto& body : {copies_late, is_there_at_once}) {
    EXPECT_THAT(by_seed(body), Contains(false));
    EXPECT_THAT(by_seed(body), Contains(true));
  }
}

// The order in which the device does the pieces that three streams have, the first of them piece 0, 3, ...
std::vector<int> order_of_pieces(uint64_t seed) {
  std::vector<int> done;
  const auto runtime = make_simt_runtime({.seed = seed});
  const OwnedStream streams[]{OwnedStream(*runtime), OwnedStream(*runtime), OwnedStream(*runtime)};
  for (int i = 0; i < 60; ++i) {
    queue_work(streams[i % 3].get(), [&, i] { done.push_back(i); });
    if (i % 20 == 19) runtime->finish(streams[1].get());
  }
  for (const OwnedStream& stream : streams) runtime->finish(stream.get());
  return done;
}

TEST(SimtOrderTest, StreamsTakeTurnsByTheSeed) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) EXPECT_EQ(order_of_pieces(seed), order_of_pieces(seed));
  const auto begins_with_the_first = by_seed([](uint64_t seed) { return order_of_pieces(seed).front() == 0; });
  EXPECT_THAT(begins_with_the_first, Contains(true));
  EXPECT_THAT(begins_with_the_first, Contains(false));
}

TEST_F(SimtRuntimeTest, WhatIsQueuedIsDoneWithoutItsStream) {
  Sums sums(device());
  {
    const OwnedStream stream(runtime()), other(runtime());
    std::unique_ptr<Graph> graph = runtime().capture(stream.get(), [&] { sums.step(stream.get()); });
    graph->replay(stream.get());
    graph.reset();
    runtime().wait_for(other.get(), stream.get());
    sums.step(other.get());
  }
  runtime().release(Place::kDevice, runtime().allocate(Place::kDevice, 1), 1);  // which waits for all
  sums.expect_right(nullptr);
}

TEST(SimtOrderTest, WhatIsQueuedIsDoneBeforeTheRuntimeEnds) {
  int done = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto runtime = make_simt_runtime({.seed = seed});
    const OwnedStream stream(*runtime);
    for (int i = 0; i < 10; ++i) queue_work(stream.get(), [&] { ++done; });
  }
  EXPECT_EQ(done, 10 * kSeeds);
}

// ---------------------------------------------------------------------------------------------------- errors

TEST_F(SimtRuntimeTest, FailuresStay) {
  const DeviceMemory memory = device().allocate(100);
  bool called = false;
  {
    const OwnedStream stream(runtime()), other(runtime());
    int done = 0;
    queue_work(stream.get(), [&] { ++done; });
    const auto graph = runtime().capture(stream.get(), [] {});
    launch_fault(stream.get());
    // The device may be quick, and then these are refused.
    const auto held = std::make_shared<int>(0);
    try {
      queue_work(stream.get(), [&, held] { ++done; });
      runtime().wait_for(other.get(), stream.get());
      queue_work(other.get(), [&, held] { ++done; });
      runtime().call(other.get(), [&] { called = true; });
    } catch (const DeviceError&) {
    }
    char byte = 0;
    const std::vector<std::function<void()>> calls{[&] { runtime().finish(stream.get()); },
                                                   [&] { runtime().finish(other.get()); },
                                                   [&] { (void)runtime().finished(other.get()); },
                                                   [&] { runtime().copy(other.get(), memory.get(), &byte, 1); },
                                                   [&] { runtime().copy(nullptr, memory.get(), &byte, 1); },
                                                   [&] { runtime().wait_for(stream.get(), other.get()); },
                                                   [&] { runtime().call(other.get(), [] {}); },
                                                   [&] { (void)runtime().seconds(stream.get(), [] {}); },
                                                   [&] { (void)runtime().capture(stream.get(), [] {}); },
                                                   [&] { graph->replay(stream.get()); },
                                                   [&] { launch_fault(other.get()); },
                                                   [&] { (void)runtime().make_stream(); },
                                                   [&] { (void)runtime().available_bytes(Place::kDevice); },
                                                   [&] { (void)runtime().allocate(Place::kDevice, 1); }};
    for (const auto& call : calls) SKP_EXPECT_ERROR(call(), DeviceError, "faulty: block (0, 0, 0), thread");
    EXPECT_EQ(done, 1);
    EXPECT_EQ(held.use_count(), 1) << "what is never done is kept";
  }
  EXPECT_FALSE(called);
}

TEST_F(SimtRuntimeTest, ThreadsMakeTheDeviceTheirOwn) {
  const OwnedStream stream(runtime());
  const DeviceMemory memory = device().allocate(1);
  const std::vector<std::pair<std::string, std::function<void()>>> calls{
      {"finish", [&] { runtime().finish(stream.get()); }},
      {"finish", [&] { runtime().finish(nullptr); }},
      {"finished", [&] { (void)runtime().finished(stream.get()); }},
      {"copy", [&] { runtime().copy(nullptr, memory.get(), memory.get(), 1); }},
      {"allocate", [&] { (void)runtime().allocate(Place::kHost, 1); }},
      {"make_stream", [&] { (void)runtime().make_stream(); }},
      {"capture", [&] { (void)runtime().capture(stream.get(), [] {}); }},
      {"an operation", [&] { queue_work(stream.get(), [] {}); }}};
  std::thread([&] {
    const auto another = make_simt_runtime();  // is not this one
    for (const auto& [name, call] : calls)
      SKP_EXPECT_ERROR(call(), InternalError, name + " was called on a thread that did not call use_on_this_thread");
    runtime().use_on_this_thread();
    runtime().finish(stream.get());
  }).join();
}

TEST_F(SimtRuntimeTest, StreamsOfAnotherDevice) {
  const auto another = make_simt_runtime();
  const OwnedStream stream(*another);
  EXPECT_THROW(runtime().finish(stream.get()), InternalError);
  EXPECT_THROW(runtime().wait_for(nullptr, stream.get()), InternalError);
}

TEST_F(SimtRuntimeTest, CallsUseNothingOfTheRuntime) {
  const OwnedStream stream(runtime());
  std::promise<std::string> said;
  runtime().call(stream.get(), [&] {
    try {
      runtime().finish(nullptr);
      said.set_value("");
    } catch (const InternalError& error) {
      said.set_value(error.what());
    }
  });
  EXPECT_THAT(said.get_future().get(), HasSubstr("finish was called on a thread of the device's"));
}

// ---------------------------------------------------------------------------------------------------- graphs

TEST_F(SimtRuntimeTest, OnlyTheStreamsOwnWorkIsRecorded) {
  Sums sums(device());
  const OwnedStream stream(runtime()), other(runtime());
  const std::vector<std::function<void()>> forbidden{[&] { sums.step(other.get()); },
                                                     [&] { runtime().copy(nullptr, nullptr, nullptr, 0); },
                                                     [&] { runtime().wait_for(stream.get(), other.get()); },
                                                     [&] { runtime().wait_for(other.get(), stream.get()); },
                                                     [&] { (void)runtime().capture(other.get(), [] {}); },
                                                     [&] { (void)runtime().make_stream(); }};
  for (size_t i = 0; i < forbidden.size(); ++i)
    EXPECT_THROW((void)runtime().capture(stream.get(), forbidden[i]), DeviceError) << i;
  EXPECT_THROW((void)runtime().capture(nullptr, [] {}), DeviceError);
}

TEST_F(SimtRuntimeTest, AnotherThreadUsesAStreamThatRecords) {
  const OwnedStream stream(runtime());
  (void)runtime().capture(stream.get(), [&] {
    std::thread([&] {
      runtime().use_on_this_thread();
      EXPECT_THROW(queue_work(stream.get(), [] {}), DeviceError);
      const OwnedStream own(runtime());  // which is free
      runtime().finish(own.get());
    }).join();
  });
}

TEST_F(SimtRuntimeTest, FaultsOfRecordedWorkComeWithTheReplay) {
  const OwnedStream stream(runtime());
  const auto graph = runtime().capture(stream.get(), [&] { launch_fault(stream.get()); });
  runtime().finish(stream.get());
  graph->replay(stream.get());
  EXPECT_THROW(runtime().finish(stream.get()), KernelError);
}

}  // namespace
}  // namespace skippipe::simt
