// What the execution of kernels on the CPU must let pass, and what it must not.
#include "tests/simt/block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "kernels/cuda/hardware.h"

namespace skippipe::simt {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kThreads = 96;

// Whether a thread of the kernel under execution did not find what it expected.
thread_local bool surprised = false;
void expect_equal(uint32_t value, uint32_t expected) { surprised = surprised || value != expected; }

// What the execution says of a kernel, "" if nothing.
std::string complaint(const std::function<void()>& kernel, Grid grid = {}, int threads = kThreads,
                      int64_t shared = 1024) {
  surprised = false;
  try {
    Block::run_grid(Launch(Context{}, "kernel", grid, threads, shared), kernel);
  } catch (const KernelError& error) {
    return error.what();
  }
  return surprised ? "wrong value" : "";
}

Shared<int> shared_ints() { return SharedMemory().take<int>(kThreads); }
int next_thread() { return (thread_index() + 1) % block_threads(); }
int next_lane() { return warp_index() * kWarp + (lane_index() + 1) % kWarp; }

TEST(SharedMemory, IsInOrderAfterABarrier) {
  const auto kernel = [](const auto& wait, const auto& other) {
    return [=] {
      const auto ints = shared_ints();
      ints.store(thread_index(), thread_index());
      wait();
      expect_equal(ints.load(other()), other());
    };
  };
  EXPECT_THAT(complaint(kernel([] {}, thread_index)), IsEmpty());
  EXPECT_THAT(complaint(kernel([] {}, next_lane)), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(warp_sync, next_lane)), IsEmpty());
  EXPECT_THAT(complaint(kernel([] { shuffle_xor(1, 1); }, next_lane)), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(warp_sync, next_thread)), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(block_sync, next_thread)), IsEmpty());
  EXPECT_THAT(complaint(kernel([] { barrier_sync(3, kThreads); }, next_thread)), IsEmpty());
  EXPECT_THAT(complaint(kernel([] { barrier_sync(1 + warp_index(), kWarp); }, next_lane)), IsEmpty());
  EXPECT_THAT(complaint(kernel([] { barrier_sync(1 + warp_index(), kWarp); }, next_thread)), HasSubstr("race"));
}

TEST(SharedMemory, IsNotWrittenWhereItMayStillBeRead) {
  const auto kernel = [](const auto& wait) {
    return [=] {
      const auto ints = shared_ints();
      ints.store(thread_index(), 1);
      block_sync();
      ints.load(next_thread());
      wait();
      ints.store(thread_index(), 2);
    };
  };
  EXPECT_THAT(complaint(kernel([] {})), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(block_sync)), IsEmpty());
}

TEST(SharedMemory, AtomicsNeedNoOrderAmongThemselves) {
  const auto kernel = [](const auto& wait) {
    return [=] {
      const auto count = SharedMemory().take<uint32_t>(1);
      if (thread_index() == 0) count.store(0, 0);
      block_sync();
      atomic_add(count, 0, 1);
      wait();
      expect_equal(count.load(0), kThreads);
    };
  };
  EXPECT_THAT(complaint(kernel(block_sync)), IsEmpty());
  EXPECT_THAT(complaint(kernel(warp_sync)), HasSubstr("race"));
}

TEST(SharedMemory, HasBoundsAndAlignment) {
  EXPECT_THAT(complaint([] { shared_ints().load(256 + thread_index()); }), HasSubstr("of 1024 bytes"));
  EXPECT_THAT(complaint([] { (SharedMemory().take<float>(96) + 1).load_vec<4>(0); }), HasSubstr("not aligned"));
}

TEST(AsynchronousCopies, AreThereAfterAWait) {
  std::vector<int> source(4 * kThreads);
  std::iota(source.begin(), source.end(), 0);
  const Global<const int> from(source.data(), 4 * kThreads);
  const auto kernel = [&](const auto& wait, const auto& other, bool valid) {
    return [=] {
      const auto ints = SharedMemory().take<int>(4 * kThreads);
      copy_async(ints + 4 * thread_index(), from + (valid ? 4 * thread_index() : 1 << 20), valid);
      copy_async_commit();
      copy_async_commit();
      wait();
      expect_equal(ints.load(4 * other() + 3), valid ? 4 * other() + 3 : 0);
    };
  };
  const auto say = [&](const auto& wait, const auto& other, bool valid = true) {
    return complaint(kernel(wait, other, valid), {}, kThreads, 4 * kThreads * 4);
  };
  EXPECT_THAT(say([] {}, thread_index), HasSubstr("under way"));
  EXPECT_THAT(say(copy_async_wait<2>, thread_index), HasSubstr("under way"));
  EXPECT_THAT(say(copy_async_wait<1>, thread_index), IsEmpty());
  EXPECT_THAT(say(copy_async_wait<0>, thread_index, false), IsEmpty());
  EXPECT_THAT(say(copy_async_wait<0>, next_lane), HasSubstr("race"));
  EXPECT_THAT(say(block_sync, next_thread), HasSubstr("under way"));
  const auto wait_and_sync = [] {
    copy_async_wait<0>();
    block_sync();
  };
  EXPECT_THAT(say(wait_and_sync, next_thread), IsEmpty());
}

TEST(AsynchronousCopies, AreAlignedAlsoWhereTheyReadNothing) {
  alignas(16) int source[8] = {};
  const Global<const int> from(source, 8);
  EXPECT_THAT(complaint([=] { copy_async(shared_ints(), from + 1, false); }, {}, kWarp), HasSubstr("not aligned"));
}

TEST(DeviceMemory, IsNotSharedBetweenBlocks) {
  std::vector<int> data(8);
  const Global<int> ints(data.data(), 8);
  const auto first_thread = [](const auto& body) {
    return [=] {
      if (thread_index() == 0) body();
    };
  };
  EXPECT_THAT(complaint(first_thread([=] { ints.store(block_x(), 1); }), {8}), IsEmpty());
  EXPECT_THAT(complaint(first_thread([=] { ints.load(7 - block_x()); }), {8}), IsEmpty());
  EXPECT_THAT(complaint(first_thread([=] { ints.store(0, 1); }), {8}), HasSubstr("another block"));
  EXPECT_THAT(complaint(first_thread([=] { block_x() == 0 ? ints.store(0, 1) : (void)ints.load(0); }), {8}),
              HasSubstr("another block"));
}

TEST(DeviceMemory, IsInOrderAfterABarrier) {
  std::vector<int> data(kThreads);
  const Global<int> ints(data.data(), kThreads);
  const auto kernel = [=](const auto& wait) {
    return [=] {
      ints.store(thread_index(), 1);
      wait();
      ints.load(next_thread());
    };
  };
  EXPECT_THAT(complaint(kernel([] {})), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(warp_sync)), HasSubstr("race"));
  EXPECT_THAT(complaint(kernel(block_sync)), IsEmpty());
}

TEST(DeviceMemory, IsCountedInByAllBlocks) {
  uint32_t count = 0;
  const Global<uint32_t> counter(&count, 1);
  EXPECT_THAT(complaint([=] { atomic_add(counter, 0, 1); }, {8}), IsEmpty());
  EXPECT_EQ(count, 8u * kThreads);
}

TEST(DeviceMemory, HasBoundsAndAlignment) {
  alignas(16) float data[8] = {};
  const Global<float> floats(data, 8);
  EXPECT_THAT(complaint([=] { floats.load(8); }, {}, kWarp), HasSubstr("buffer of 8"));
  EXPECT_THAT(complaint([=] { (floats + 4).load(-5); }, {}, kWarp), HasSubstr("buffer of 8"));
  EXPECT_THAT(complaint([=] { floats.load_vec<4>(2); }, {}, kWarp), HasSubstr("not aligned"));
}

TEST(Barriers, AreReachedByWholeWarps) {
  EXPECT_THAT(complaint([] {
                if (warp_index() < 2) block_sync();
              }),
              HasSubstr("wait for ever"));
  EXPECT_THAT(complaint([] {
                if (warp_index() < 2 && lane_index() < 16) barrier_sync(1, kWarp);
              }),
              HasSubstr("only some lanes"));
  EXPECT_THAT(complaint([] { barrier_sync(0, kThreads); }), HasSubstr("barrier 0"));
  EXPECT_THAT(complaint([] { barrier_sync(1, warp_index() == 0 ? 64 : 96); }), HasSubstr("expects"));
}

TEST(Collectives, AreReachedByAllLanes) {
  EXPECT_THAT(complaint([] {
                if (lane_index() > 0) shuffle(1, 0);
              }),
              HasSubstr("wait for ever"));
  EXPECT_THAT(complaint([] { lane_index() > 0 ? (void)shuffle(1, 0) : warp_sync(); }), HasSubstr("other lanes"));
}

TEST(Launches, HaveLimits) {
  const auto nothing = [] {};
  EXPECT_THAT(complaint(nothing), IsEmpty());
  EXPECT_THAT(complaint(nothing, {0}), HasSubstr("no grid"));
  EXPECT_THAT(complaint(nothing, {1, 65536}), HasSubstr("no grid"));
  EXPECT_THAT(complaint(nothing, {}, 48), HasSubstr("threads per block"));
  EXPECT_THAT(complaint(nothing, {}, 1056), HasSubstr("threads per block"));
  EXPECT_THAT(complaint(nothing, {}, 32, kMostSharedBytes + 1), HasSubstr("shared memory"));
}

}  // namespace
}  // namespace skippipe::simt
