#include "engine/model/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "kernels/cpu_backend.h"

namespace skippipe {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

MemoryPlan small_plan() {
  MemoryPlan plan;
  plan.add(Region::kCommunication, "replica sum", 100);
  plan.add(Region::kWeights, "weights", 1000, "f32");
  plan.add(Region::kActivations, "slots", 5000, "4 of 1.22 KiB");
  plan.add(Region::kOptimizer, "first moments", 1000);
  plan.add(Region::kOptimizer, "second moments", 1000);
  return plan;
}

TEST(MemoryPlan, KeepsTheOrderOfRegionsAndRoundsSizesUp) {
  const MemoryPlan plan = small_plan();
  std::vector<std::string> names;
  for (const auto& block : plan.blocks()) {
    names.push_back(block.name);
    EXPECT_EQ(block.bytes % kBlockAlignment, 0);
  }
  EXPECT_THAT(names, testing::ElementsAre("weights", "first moments", "second moments", "slots", "replica sum"));
  EXPECT_EQ(plan.bytes(Region::kOptimizer), 2048);
  EXPECT_EQ(plan.bytes(Region::kWorkspace), 0);
  EXPECT_EQ(plan.total_bytes(), 1024 + 2048 + 5120 + 256);
}

TEST(MemoryPlan, TableNamesEveryBlockAndTheTotal) {
  EXPECT_EQ(small_plan().table(),
            "weights        weights            1.00 KiB  f32\n"
            "optimizer      first moments      1.00 KiB\n"
            "               second moments     1.00 KiB\n"
            "activations    slots              5.00 KiB  4 of 1.22 KiB\n"
            "communication  replica sum           256 B\n"
            "total                             8.25 KiB  8448 bytes\n");
}

TEST(MemoryPlan, AGpuLeavesWhatTheNetworkAndFilesTakeToTheHost) {
  MemoryPlan plan(Device::kCuda);
  plan.add(Region::kWeights, "weights", 1024);
  plan.add(Region::kCommunication, "messages", 512);
  plan.add(Region::kCheckpoint, "snapshot", 256);
  EXPECT_EQ(plan.bytes(Place::kDevice), 1024);
  EXPECT_EQ(plan.bytes(Place::kHost), 768);
  EXPECT_THAT(plan.table(), testing::EndsWith("on the GPU                  1.00 KiB  1024 bytes\n"
                                              "on the host                    768 B  768 bytes\n"));
  EXPECT_NO_THROW(plan.check_fits({{1024, ""}, {768, ""}}, "cuda"));
  EXPECT_THAT(
      [&] {
        plan.check_fits({{1023, "x"}, {768, ""}}, "cuda");
      },
      ThrowsMessage<MemoryError>(HasSubstr("needs 1.00 KiB (weights 1.00 KiB), but only 1023 B")));
  EXPECT_THAT(
      [&] {
        plan.check_fits({{1024, ""}, {767, "y"}}, "cuda");
      },
      ThrowsMessage<MemoryError>(HasSubstr("needs 768 B of pinned memory on the host (communication 512 B")));
}

TEST(MemoryPlan, SaysWithNumbersWhatDoesNotFit) {
  EXPECT_NO_THROW(small_plan().check_fits({{8448, ""}, {}}, "cpu"));
  EXPECT_THAT(
      [] {
        small_plan().check_fits({{8447, "z"}, {}}, "cpu");
      },
      ThrowsMessage<MemoryError>(testing::AllOf(HasSubstr("cpu"), HasSubstr("needs 8.25 KiB"),
                                                HasSubstr("activations 5.00 KiB"),
                                                HasSubstr("but only 8.25 KiB are there (z)"))));
}

TEST(MemoryLimits, LeaveRoomForTheProcessesThemselves) {
  const AvailableMemory two = without_processes({100 << 20, "a limit"}, 2);
  EXPECT_EQ(two.bytes, (100 << 20) - 2 * kProcessBytes);
  EXPECT_EQ(two.bound, "a limit, less 48.00 MiB for the processes themselves");
  EXPECT_EQ(without_processes({1000, ""}, 1).bytes, 0);
  const auto cpu = make_cpu_backend();
  EXPECT_THAT(MemoryLimits::of(*cpu).device.bound, HasSubstr("for the process itself"));
}

TEST(MemoryPlan, RefusesNegativeAndOverflowingSizes) {
  MemoryPlan plan = small_plan();
  EXPECT_THROW(plan.add(Region::kWorkspace, "a", -1), MemoryError);
  EXPECT_THROW(plan.add(Region::kWorkspace, "a", kHuge), MemoryError);
  EXPECT_THROW(plan.add(Region::kWorkspace, "a", kHuge - 1000), MemoryError);
  EXPECT_EQ(plan.total_bytes(), 8448);  // a refused block leaves nothing behind
  EXPECT_EQ(plan.blocks().size(), 5u);
  EXPECT_THROW(plan.add(Region::kWeights, "weights", 1), InternalError);
}

TEST(Slab, HandsOutDisjointZeroedBlocksOnce) {
  const MemoryPlan plan = small_plan();
  const auto backend = make_cpu_backend();
  Slab slab(plan, *backend);
  EXPECT_EQ(slab.bytes(), plan.total_bytes());
  EXPECT_EQ(backend->runtime().allocations(), 1);
  const std::byte* end = nullptr;
  for (const auto& block : plan.blocks()) {
    const std::span<std::byte> bytes = slab.take(block.region, block.name).bytes;
    EXPECT_EQ(static_cast<int64_t>(bytes.size()), block.bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % static_cast<uintptr_t>(kBlockAlignment), 0u);
    EXPECT_TRUE(end == nullptr || bytes.data() == end);
    EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }));
    end = bytes.data() + bytes.size();
  }
  EXPECT_THROW(slab.take(Region::kWeights, "weights"), InternalError);
  EXPECT_THROW(slab.take(Region::kWeights, "slots"), InternalError);
}

TEST(Slab, SaysWhatTheHostRefused) {
  MemoryPlan plan;
  plan.add(Region::kWeights, "weights", int64_t{1} << 60);
  const auto backend = make_cpu_backend();
  EXPECT_THAT([&] { Slab slab(plan, *backend); }, ThrowsMessage<MemoryError>(HasSubstr("1152921504606846976 bytes")));
}

TEST(Arena, MeasuresWhatItThenHandsOut) {
  const auto carve = [](Arena& arena) {
    arena.take({3, 5}, Dtype::kF32);
    return arena.take({7}, Dtype::kBf16);
  };
  Arena measure;
  EXPECT_TRUE(carve(measure).empty());
  EXPECT_EQ(measure.used_bytes(), 512);

  alignas(256) std::array<std::byte, 512> block;
  Arena arena({block, Device::kCpu});
  EXPECT_EQ(carve(arena).data(), block.data() + 256);
  EXPECT_EQ(arena.used_bytes(), 512);
  EXPECT_THROW(arena.take({1}, Dtype::kF32), InternalError);
  EXPECT_THROW(measure.take({kHuge, 2}, Dtype::kF32), ShapeError);
  EXPECT_THROW(measure.take({kHuge / 2}, Dtype::kF32), MemoryError);
}

}  // namespace
}  // namespace skippipe
