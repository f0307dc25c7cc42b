// What the execution of kernels on the CPU (block.h) must notice, and what it must not take for a fault. A planted
// fault (planted_fault.h) is a kernel that can do without it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/hardware.h"
#include "tests/simt/planted_fault.h"

namespace skippipe::simt {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsNan;
using ::testing::UnorderedElementsAreArray;

// ---------------------------------------------------------------------------------------------------- order

constexpr char kRace[] = "race: ";

TEST(SimtTest, WritesThenAnotherWarpReads) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<float>(1);
    if (thread_index() == 0) x.store(0, 1);
    if (sound) block_sync();
    if (thread_index() == 32) x.load(0);
  });
}

TEST(SimtTest, ReadsThenAnotherWarpWrites) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<float>(1);
    if (thread_index() == 40) x.store(0, 1);
    block_sync();
    if (thread_index() < 32) x.load(0);
    if (sound) block_sync();
    if (thread_index() == 32) x.store(0, 2);
  });
}

TEST(SimtTest, TwoWarpsWrite) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<float>(2);
    if (lane_index() == 0) x.store(sound ? warp_index() : 0, 1);
  });
}

TEST(SimtTest, OneLaneWritesAndAnotherReads) {
  expect_fault(kRace, {32}, [](bool sound) {
    const auto x = shared<float>(32);
    x.store(lane_index(), 1);
    if (sound)
      warp_sync();
    else
      shuffle_xor(0, 1);  // makes lanes meet, but orders no memory
    x.load(lane_index() ^ 1);
  });
}

TEST(SimtTest, OneLaneReadsAndAnotherWrites) {
  expect_fault(kRace, {32}, [](bool sound) {
    const auto x = shared<float>(32);
    x.store(lane_index(), 1);
    warp_sync();
    x.load(lane_index() ^ 1);
    if (sound) warp_sync();
    x.store(lane_index(), 2);
  });
}

TEST(SimtTest, LanesAreNotOtherWarps) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<float>(64);
    x.store(thread_index(), 1);
    warp_sync();
    x.load(thread_index() ^ (sound ? 1 : 32));
  });
}

TEST(SimtTest, VectorOverlapsWhatAnotherLaneWrote) {
  expect_fault(kRace, {32}, [](bool sound) {
    const auto x = shared<Bf16>(8);
    if (lane_index() == 0) x.store_vec(0, Vec<Bf16, 8>{});
    if (sound) warp_sync();
    if (lane_index() == 1) x.load(7);
  });
}

TEST(SimtTest, BarrierOrdersWhatWasBeforeIt) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<float>(1);
    if (sound && thread_index() == 0) x.store(0, 1);
    block_sync();
    if (!sound && thread_index() == 0) x.store(0, 1);
    if (thread_index() == 32) x.load(0);
  });
}

TEST(SimtTest, SharedMemoryIsTheBlocksOwn) {
  const auto kernel = [] {
    if (thread_index() == (block_x() + block_y() + block_z()) % 2 * 32) shared<float>(1).store(0, 1);
  };
  expect_sound({64, {5, 3, 2}}, kernel);
}

TEST(SimtTest, MessageNamesKernelBlockThreadAndPlace) {
  const auto kernel = [] {
    if (block_x() == 2 && block_y() == 1 && block_z() == 1 && lane_index() > 20 && lane_index() < 23)
      shared<float>(32).store(5, 1);
  };
  EXPECT_THAT(error_of({32, {3, 2, 2}}, kernel), AllOf(HasSubstr("tested: block (2, 1, 1), thread 2"),
                                                       HasSubstr("written by thread 2"), HasSubstr("byte 20")));
}

TEST(SimtTest, DeviceMemoryIsInOrderAfterABarrier) {
  Buffer<int> buffer(64);
  for (const int other : {1, 32})
    expect_fault(kRace, {64}, [x = buffer.global(), other](bool sound) {
      x.store(thread_index(), 1);
      if (sound) block_sync();
      x.load(thread_index() ^ other);
    });
}

TEST(SimtTest, DeviceMemoryIsNotSharedBetweenBlocks) {
  Buffer<int> buffer(8);
  expect_fault("another block", {32, {8}}, [x = buffer.global()](bool sound) {
    if (lane_index() == 0) x.store(sound ? block_x() : 0, 1);
  });
  expect_fault("another block", {32, {8}}, [x = buffer.global()](bool sound) {
    if (lane_index() > 0) return;
    if (block_x() == 0)
      x.store(0, 1);
    else
      x.load(sound ? 1 : 0);
  });
}

// ---------------------------------------------------------------------------------------------------- barriers

// Pairs of warps (0, 1) and (2, 3).
void sync_pair() { barrier_sync(1 + warp_index() / 2, 64); }

TEST(SimtTest, NamedBarrierOrdersItsWarpsOnly) {
  expect_fault(kRace, {128}, [](bool sound) {
    const auto x = shared<float>(4);
    if (lane_index() == 0) x.store(warp_index(), 1);
    sync_pair();
    x.load(sound ? warp_index() ^ 1 : warp_index() ^ 2);
  });
}

TEST(SimtTest, OrderGoesThroughOtherWarps) {
  expect_fault(kRace, {96}, [](bool sound) {
    const auto x = shared<float>(1);
    if (thread_index() == 0) x.store(0, 1);
    if (warp_index() == (sound ? 0 : 2)) barrier_sync(1, 64);
    if (warp_index() == 1) {
      barrier_sync(1, 64);
      barrier_sync(2, 64);
    }
    if (warp_index() == (sound ? 2 : 0)) barrier_sync(2, 64);
    if (thread_index() == 64) x.load(0);
  });
}

TEST(SimtTest, BarriersThatCannotBe) {
  const auto error_at = [](int barrier, int count) { return error_of({64}, [=] { barrier_sync(barrier, count); }); };
  EXPECT_EQ(error_at(15, 64), "");
  for (const auto& [barrier, count] : {std::pair(16, 64), {0, 64}, {-1, 64}, {1, 96}, {1, 48}, {1, 0}})
    EXPECT_THAT(error_at(barrier, count), HasSubstr("names barrier")) << barrier << ", " << count;
  expect_fault("threads at barrier 1, others", {64},
               [](bool sound) { barrier_sync(1, sound || lane_index() < 16 ? 64 : 32); });
}

TEST(SimtTest, HalvesOfWarpsAtABarrier) {
  expect_fault("only some lanes", {64}, [](bool sound) {
    if (sound ? warp_index() == 0 : lane_index() < 16) barrier_sync(1, 32);
  });
}

// ---------------------------------------------------------------------------------------------------- meeting

constexpr char kForEver[] = "the others wait for ever";

TEST(SimtTest, BarrierThatSomeThreadNeverReaches) {
  expect_fault(kForEver, {64}, [](bool sound) {
    if (sound || thread_index() != 17) block_sync();
  });
  expect_fault(kForEver, {64}, [](bool sound) {
    if (sound || warp_index() == 1) block_sync();
  });
}

TEST(SimtTest, ExitBeforeAShuffle) {
  expect_fault(kForEver, {32}, [](bool sound) {
    if (!sound && lane_index() == 31) return;
    shuffle_xor(1.0f, 16);
  });
}

TEST(SimtTest, LanesAtDifferentCollectives) {
  expect_fault("while other lanes of its warp are at", {32}, [](bool sound) {
    const bool other_way = !sound && lane_index() == 3;
    if (other_way) ballot(true);
    shuffle_xor(1.0f, 16);
    if (!other_way) ballot(true);
  });
}

TEST(SimtTest, OneLaneAtABarrierTheOthersAtAShuffle) {
  expect_fault(kForEver, {32}, [](bool sound) {
    if (sound || lane_index() != 3) shuffle_xor(1.0f, 16);
    block_sync();
  });
}

TEST(SimtTest, DeviceCodeOutsideOfAKernel) { EXPECT_THROW(thread_index(), KernelError); }

TEST(SimtTest, LaunchesThatCannotBe) {
  const auto nothing = [] {};
  EXPECT_EQ(error_of({1024, {}, kMostSharedBytes}, nothing), "");
  for (const int threads : {0, -32, 33, 1056})
    EXPECT_THAT(error_of({threads}, nothing), HasSubstr("threads per block")) << threads;
  for (const Grid& grid : {Grid{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {int64_t{1} << 31, 1, 1}, {1, 65536, 1}, {1, 1, 65536}})
    EXPECT_THAT(error_of({32, grid}, nothing), HasSubstr("no grid"));
  EXPECT_THAT(error_of({32, {}, kMostSharedBytes + 1}, nothing), HasSubstr("bytes of shared memory"));
}

// ---------------------------------------------------------------------------------------------------- bounds

TEST(SimtTest, BesideDeviceMemory) {
  Buffer<float> buffer(32);
  for (const int64_t outside : {-1, 32}) {
    expect_fault("of a buffer of 32", {32},
                 [x = buffer.global(), outside](bool sound) { x.load(sound ? 31 : outside); });
    expect_fault("of a buffer of 32", {32}, [x = buffer.global(), outside](bool sound) {
      if (thread_index() == 0) x.store(sound ? 0 : outside, 1);
    });
    // It stays where it is for those who point elsewhere.
    expect_fault("of a buffer of 32", {32}, [x = buffer.global(), outside](bool sound) {
      (x + (sound ? 40 : 50)).load((sound ? 31 - 40 : outside - 50));
    });
  }
  EXPECT_THAT(error_of({32}, [] { Global<float>().load(0); }), HasSubstr("of a buffer of 0"));
}

TEST(SimtTest, VectorsBesideDeviceMemory) {
  Buffer<float> buffer(30);  // ends within a vector
  constexpr char kBeside[] = "elements 28 to 32 of a buffer of 30";
  expect_fault(kBeside, {32}, [x = buffer.global()](bool sound) { x.load_vec<4>(sound ? 24 : 28); });
  expect_fault(kBeside, {32}, [x = buffer.global()](bool sound) {
    if (thread_index() == 0) x.store_vec(sound ? 24 : 28, Vec<float, 4>{});
  });
  expect_fault(kBeside, {32}, [x = buffer.constant()](bool sound) {
    copy_async(shared<float>(128) + thread_index() * 4, x + 28, !sound);  // nothing is read where it is not valid
  });
}

TEST(SimtTest, BesideAPieceOfSharedMemory) {
  for (const int outside : {-1, 32}) {
    const auto kernel = [outside](bool sound, const auto& touch) {
      SharedMemory memory;
      memory.take<float>(32);
      const auto middle = memory.take<float>(32);
      memory.take<float>(32);
      if (thread_index() == 0) touch(middle, sound ? 31 : outside);
    };
    constexpr char kBeside[] = "of a piece of 32 in shared memory";
    expect_fault(kBeside, {32}, [&](bool sound) { kernel(sound, [](auto x, int i) { x.load(i); }); });
    expect_fault(kBeside, {32}, [&](bool sound) { kernel(sound, [](auto x, int i) { x.store(i, 0); }); });
  }
  Buffer<float> from(4);
  expect_fault("elements 28 to 32 of a piece of 30", {32}, [x = from.constant()](bool sound) {
    if (thread_index() == 0) copy_async(shared<float>(30) + (sound ? 24 : 28), x, true);
  });
}

TEST(SimtTest, BehindTheSharedMemoryOfTheLaunch) {
  const auto kernel = [] { shared<float>(64).store(32 + lane_index(), 1); };
  EXPECT_EQ(error_of({32, {}, 256}, kernel), "");
  EXPECT_THAT(error_of({32, {}, 128}, kernel), HasSubstr("of 128 bytes of shared memory"));
}

TEST(SimtTest, Misaligned) {
  Buffer<float> buffer(32);
  constexpr char kMisaligned[] = "device memory that is not aligned";
  expect_fault(kMisaligned, {32}, [x = buffer.global()](bool sound) { x.load_vec<4>(sound ? 4 : 2); });
  expect_fault(kMisaligned, {32}, [x = buffer.global()](bool sound) { (x + 1).load_vec<2>(sound ? 3 : 0); });
  expect_fault(kMisaligned, {32}, [x = buffer.constant()](bool sound) {
    copy_async(shared<float>(128) + thread_index() * 4, x + (sound ? 4 : 5), false);
  });
  expect_fault("of shared memory at byte 8: not aligned", {32}, [](bool sound) {
    if (thread_index() == 0) shared<Bf16>(32).store_vec(sound ? 8 : 4, Vec<Bf16, 8>{});
  });
}

TEST(SimtTest, UninitializedSharedMemoryIsNan) {
  Buffer<float> out(96);
  expect_sound({32, {3}}, [y = out.global()] {
    SharedMemory memory;
    const auto floats = memory.take<float>(32);
    const auto halves = memory.take<Bf16>(32);
    const int i = thread_index();
    y.store(block_x() * 32 + i, i % 2 == 0 ? floats.load(i) : to_float(halves.load(i)));
    floats.store(i, 1);  // which the next block does not see
    halves.store(i, Bf16(1.0f));
  });
  EXPECT_THAT(out.get(), Each(IsNan()));
}

// ---------------------------------------------------------------------------------------------------- copies

constexpr char kUnderWay[] = "asynchronous copy is under way";

TEST(SimtTest, ReadsWithNoBarrierBehindACopy) {
  Buffer<float> from(256);
  for (const int other : {1, 32})  // in the same warp, in another one
    expect_fault(kRace, {64}, [x = from.constant(), other](bool sound) {
      const auto to = shared<float>(256);
      copy_async(to + thread_index() * 4, x + thread_index() * 4, true);
      copy_async_commit();
      copy_async_wait<0>();
      if (sound)
        block_sync();
      else
        ballot(true);  // makes lanes meet, but orders no memory
      to.load((thread_index() ^ other) * 4);
    });
}

TEST(SimtTest, TouchesWhatACopyIsUnderWayTo) {
  Buffer<float> from(4);
  for (const bool valid : {true, false}) {
    const auto kernel = [x = from.constant(), valid](bool sound, const auto& touch) {
      const auto to = shared<float>(128) + thread_index() * 4;
      copy_async(to, x, valid);
      copy_async_commit();
      if (sound) copy_async_wait<0>();
      touch(to);
    };
    expect_fault(kUnderWay, {32}, [&](bool sound) { kernel(sound, [](auto x) { x.load(3); }); });
    expect_fault(kUnderWay, {32}, [&](bool sound) { kernel(sound, [](auto x) { x.store(0, 1); }); });
  }
}

TEST(SimtTest, BarrierDoesNotWaitForCopies) {
  Buffer<float> from(4);
  expect_fault(kUnderWay, {64}, [x = from.constant()](bool sound) {
    const auto to = shared<float>(4);
    if (thread_index() == 0) copy_async(to, x, true);
    copy_async_commit();
    if (sound) copy_async_wait<0>();
    block_sync();
    to.load(0);
  });
}

TEST(SimtTest, CopyInNoGroup) {
  Buffer<float> from(4);
  expect_fault(kUnderWay, {32}, [x = from.constant()](bool sound) {
    const auto to = shared<float>(128) + thread_index() * 4;
    copy_async(to, x, true);
    if (sound) copy_async_commit();
    copy_async_wait<0>();
    to.load(0);
  });
}

TEST(SimtTest, CopiesOverWhatOthersStillRead) {
  Buffer<float> from(4);
  expect_fault(kRace, {64}, [x = from.constant()](bool sound) {
    const auto to = shared<float>(4);
    if (thread_index() == 0) to.store(0, 1);
    block_sync();
    to.load(0);
    if (sound) block_sync();
    if (thread_index() == 0) copy_async(to, x, true);
  });
}

// Three groups, the middle one of zeros; the newest are under way while older ones are read.
TEST(SimtTest, GroupsOfCopiesEndInOrder) {
  Buffer<float> from(12), out(12);
  expect_fault(kRace, {64}, [x = from.constant(), y = out.global()](bool sound) {
    const auto to = shared<float>(12);
    for (int group = 0; group < 3; ++group) {
      if (thread_index() == 0) copy_async(to + group * 4, x + group * 4, group != 1);
      copy_async_commit();
    }
    copy_async_wait<2>();
    block_sync();
    if (thread_index() == 33) y.store_vec(0, to.load_vec<4>(0));
    copy_async_wait<1>();
    block_sync();
    if (thread_index() == 1) y.store_vec(4, to.load_vec<4>(sound ? 4 : 8));
    copy_async_wait<0>();
    block_sync();
    if (thread_index() == 33) y.store_vec(8, to.load_vec<4>(8));
  });
  EXPECT_THAT(out.get(), ElementsAre(0, 1, 2, 3, 0, 0, 0, 0, 8, 9, 10, 11));
}

// ---------------------------------------------------------------------------------------------------- atomics

TEST(SimtTest, AtomicsOnOneWord) {
  Buffer<uint32_t> total(1), shared_got(96), device_got(3 * 96);
  const auto kernel = [&, count = total.global()] {
    const auto x = shared<uint32_t>(1);
    if (thread_index() == 50) x.store(0, 1000);
    block_sync();
    const uint32_t before = atomic_add(x, 0, 1);
    if (block_x() == 0) shared_got.global().store(thread_index(), before);
    device_got.global().store(block_x() * 96 + thread_index(), atomic_add(count, 0, 2));
    block_sync();
    if (x.load(0) != 1096) Block::current().fail("wrong sum");
  };
  EXPECT_EQ(error_of({96, {3}}, kernel), "");
  std::vector<uint32_t> expected(96);
  std::iota(expected.begin(), expected.end(), 1000);
  EXPECT_THAT(shared_got.get(), UnorderedElementsAreArray(expected));
  expected.resize(3 * 96);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<uint32_t>(2 * i);
  EXPECT_THAT(device_got.get(), UnorderedElementsAreArray(expected));
  EXPECT_THAT(total.get(), ElementsAre(2 * 3 * 96));
}

TEST(SimtTest, WritesThenAnotherWarpAdds) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<uint32_t>(1);
    if (thread_index() == 0) x.store(0, 0);
    if (sound) block_sync();
    if (warp_index() == 1) atomic_add(x, 0, 1);
  });
}

TEST(SimtTest, AddsThenAnotherWarpReads) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<uint32_t>(1);
    if (warp_index() == 1) atomic_add(x, 0, 1);
    if (sound) block_sync();
    if (thread_index() == 0) x.load(0);
  });
}

// Whoever was last to add has the others to wait for.
TEST(SimtTest, AddsWithOtherLanesThenReads) {
  expect_fault(kRace, {32}, [](bool sound) {
    const auto x = shared<uint32_t>(1);
    if (lane_index() == 0) x.store(0, 0);
    warp_sync();
    const uint32_t before = atomic_add(x, 0, 1);
    if (sound) warp_sync();
    if (before == 31) x.load(0);
  });
}

TEST(SimtTest, ReadsBehindOneOfTwoWarpsThatAdd) {
  expect_fault(kRace, {96}, [](bool sound) {
    const auto x = shared<uint32_t>(1);
    if (warp_index() < 2) atomic_add(x, 0, 1);
    if (sound)
      block_sync();
    else if (warp_index() > 0)
      barrier_sync(1, 64);
    if (thread_index() == 64) x.load(0);
  });
}

// Two warps add, of which one is not behind the reader.
TEST(SimtTest, AddsToWhatAnotherWarpReads) {
  expect_fault(kRace, {96}, [](bool sound) {
    const auto x = shared<uint32_t>(1);
    if (thread_index() == 0) x.load(0);
    if (sound)
      block_sync();
    else if (warp_index() < 2)
      barrier_sync(1, 64);
    if (warp_index() > 0) atomic_add(x, 0, 1);
  });
}

// ---------------------------------------------------------------------------------------------------- warps

TEST(SimtTest, Shuffles) {
  Buffer<int> out(64 * 6);
  expect_sound({64}, [y = out.global()] {
    const int t = thread_index(), lane = lane_index();
    y.store(t, shuffle_xor(t, 5));
    y.store(64 + t, shuffle(t, 9));
    y.store(128 + t, shuffle(t, lane + 3));
    y.store(192 + t, shuffle(t, lane - 1));
    y.store(256 + t, shuffle_up(t, 4));
    y.store(320 + t, static_cast<int>(shuffle_xor(t * 0.5, 16) * 2));
  });
  const std::vector<int> got = out.get();
  for (int t = 0; t < 64; ++t) {
    const auto row = [&](int i) { return got[static_cast<size_t>(i * 64 + t)]; };
    const int lane = t % kWarp, first = t - lane;
    EXPECT_EQ(row(0), first + (lane ^ 5));
    EXPECT_EQ(row(1), first + 9);
    EXPECT_EQ(row(2), first + (lane + 3) % kWarp);
    EXPECT_EQ(row(3), first + (lane + kWarp - 1) % kWarp);
    EXPECT_EQ(row(4), lane < 4 ? t : t - 4);
    EXPECT_EQ(row(5), first + (lane ^ 16));
  }
}

TEST(SimtTest, Ballot) {
  Buffer<uint32_t> out(64);
  expect_sound({64}, [y = out.global()] { y.store(thread_index(), ballot(thread_index() % 3 == 0)); });
  for (size_t t = 0; t < 64; ++t) {
    uint32_t expected = 0;
    for (size_t lane = 0; lane < 32; ++lane) expected |= ((t / 32 * 32 + lane) % 3 == 0 ? 1u : 0u) << lane;
    EXPECT_EQ(out.get()[t], expected);
  }
}

// ---------------------------------------------------------------------------------------------------- matrices

// Lanes name the rows of 32 rows of eight in an order of chance.
TEST(SimtTest, LoadsMatrices) {
  std::array<int, kWarp> rows{};
  std::iota(rows.begin(), rows.end(), 0);
  Random(7).shuffle(rows);
  Buffer<uint32_t> plain(4 * kWarp), transposed(4 * kWarp);
  expect_sound({32}, [&] {
    const auto x = shared<Bf16>(kWarp * 8);
    const int lane = lane_index(), row = rows[static_cast<size_t>(lane)];
    for (int j = 0; j < 8; ++j) x.store(lane * 8 + j, Bf16(static_cast<float>(lane * 8 + j)));
    warp_sync();
    uint32_t r[4];
    load_matrix_x4(r, x, row * 8);
    for (int m = 0; m < 4; ++m) plain.global().store(lane * 4 + m, r[m]);
    load_matrix_x4_transposed(r, x, row * 8);
    for (int m = 0; m < 4; ++m) transposed.global().store(lane * 4 + m, r[m]);
  });
  const std::vector<uint32_t> got = plain.get(), got_transposed = transposed.get();
  const auto element = [&](size_t matrix, size_t i, size_t j) {
    return Bf16(static_cast<float>(rows[matrix * 8 + i] * 8 + static_cast<int>(j))).bits;
  };
  for (size_t lane = 0; lane < kWarp; ++lane)
    for (size_t m = 0; m < 4; ++m)
      for (size_t half = 0; half < 2; ++half) {
        const size_t i = lane / 4, j = 2 * (lane % 4) + half;
        EXPECT_EQ(got[lane * 4 + m] >> 16 * half & 0xffff, element(m, i, j));
        EXPECT_EQ(got_transposed[lane * 4 + m] >> 16 * half & 0xffff, element(m, j, i));
      }
}

TEST(SimtTest, LoadsMatricesInOrder) {
  expect_fault(kRace, {64}, [](bool sound) {
    const auto x = shared<Bf16>(64 * 8);
    x.store_vec(thread_index() * 8, Vec<Bf16, 8>{});
    if (sound) block_sync();
    uint32_t r[4];
    load_matrix_x4(r, x, (thread_index() ^ 32) * 8);
  });
  expect_fault("not aligned", {32}, [](bool sound) {
    uint32_t r[4];
    load_matrix_x4(r, shared<Bf16>(64 * 8), lane_index() * (sound ? 8 : 9));
  });
}

TEST(SimtTest, MultipliesMatrices) {
  Random random(8);
  const auto small = [&] { return static_cast<float>(random.below(15)) - 7; };
  float a[16][16], b[16][8], d[16][8];
  for (auto& row : a) std::ranges::generate(row, small);
  for (auto& row : b) std::ranges::generate(row, small);
  for (auto& row : d) std::ranges::generate(row, small);
  float got[16][8];
  expect_sound({32}, [&] {
    const int g = lane_index() / 4, p = 2 * (lane_index() % 4);
    const uint32_t left[4] = {pack_bf16(a[g][p], a[g][p + 1]), pack_bf16(a[g + 8][p], a[g + 8][p + 1]),
                              pack_bf16(a[g][p + 8], a[g][p + 9]), pack_bf16(a[g + 8][p + 8], a[g + 8][p + 9])};
    float sums[4] = {d[g][p], d[g][p + 1], d[g + 8][p], d[g + 8][p + 1]};
    multiply_matrices(sums, left, pack_bf16(b[p][g], b[p + 1][g]), pack_bf16(b[p + 8][g], b[p + 9][g]));
    for (int i = 0; i < 4; ++i) got[g + i / 2 * 8][p + i % 2] = sums[i];
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float expected = d[i][j];
      for (int k = 0; k < 16; ++k) expected += a[i][k] * b[k][j];
      EXPECT_EQ(got[i][j], expected) << i << ", " << j;
    }
}

// ---------------------------------------------------------------------------------------------------- numbers

TEST(SimtTest, Numbers) {
  EXPECT_EQ(to_float(from_float<Bf16>(1 + 0x1p-8f)), 1);  // ties go to even
  EXPECT_EQ(to_float(from_float<Bf16>(1 + 0x3p-8f)), 1 + 0x1p-6f);
  EXPECT_EQ(pack_bf16(1, -2), 0xc0003f80u);
  EXPECT_EQ(fast_exp2(-3), 0.125f);
  EXPECT_EQ(fast_exp2(-127), 0);
  EXPECT_EQ(fast_exp2(-std::numeric_limits<float>::infinity()), 0);
  EXPECT_THAT(fast_exp2(NAN), IsNan());
}

// ---------------------------------------------------------------------------------------------------- launches

TEST(SimtTest, Grids) {
  const int64_t x = 6;
  const int y = 3, z = 2, threads = 64;
  Buffer<int> out(x * y * z * threads);
  const auto kernel = [=, result = out.global()] {
    const int64_t block = (int64_t{block_z()} * y + block_y()) * grid_x() + block_x();
    const int64_t at = block * block_threads() + warp_index() * kWarp + lane_index();
    result.store(at, result.load(at) + thread_index());
  };
  EXPECT_EQ(error_of({threads, {x, y, z}}, kernel), "");
  const std::vector<int> got = out.get();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], static_cast<int>(i + i % threads));
}

void scale(Global<float> y, Global<const float> x, float factor, int64_t count) {
  if (thread_index() < count) y.store(thread_index(), x.load(thread_index()) * factor);
}

TEST(SimtTest, LaunchConvertsArguments) {
  Buffer<float> from(20), to(20);
  launch(Launch(Context{}, "scale", {}, 32), scale, to.global(), from.global(), 2, 20);
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(to.get()[i], 2 * from.get()[i]);
}

}  // namespace
}  // namespace skippipe::simt
