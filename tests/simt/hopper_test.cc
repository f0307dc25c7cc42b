// What the execution of kernels for Hopper on the CPU must notice, and what it computes.
#include "kernels/cuda/hopper.h"

#include "base/random.h"
#include "tests/simt/planted_fault.h"

namespace skippipe::simt {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr char kRace[] = "race: ";
constexpr int kRows = 64;
constexpr int kTile = kRows * kPanel;
constexpr int kTileBytes = kTile * static_cast<int>(sizeof(Bf16));
const Size kBlock{2 * kWarpgroup, {}, 8 * 1024 + 2 * kTileBytes};

// Element (row, column) of a tile of kRows.
int place(int row, int column) {
  return column / kPanel * kTile + row * kPanel + (column % kPanel / 8 ^ row % 8) * 8 + column % 8;
}

struct Memory {
  SharedMemory all;
  MemoryBarriers barriers{all.take<uint64_t>(kTileAlignment / 8)};
  Shared<Bf16> tile = all.take<Bf16>(2 * kTile);

  // Barrier 0 is for one arrival, 1 for one per warp of the first warpgroup.
  void init(bool publish = true) const {
    if (thread_index() == 0) {
      barriers.init(0, 1);
      barriers.init(1, kWarpgroup / kWarp);
      if (publish) MemoryBarriers::publish();
    }
    block_sync();
  }
};

// Thread 128 copies, threads 0 to 127 use.
bool copies() { return thread_index() == kWarpgroup; }
bool uses() { return thread_index() < kWarpgroup; }

class HopperTest : public ::testing::Test {
 protected:
  HopperTest() {
    Random random(7);
    values_.resize(2 * kTile);
    for (Bf16& x : values_) x = Bf16(static_cast<float>(random.uniform(-4, 4)));
  }
  // 60 tokens of 2 heads of 32.
  TensorMap map() const {
    return make_tensor_map(values_.data(), kTile,
                           {.batch = 1,
                            .tokens = 60,
                            .heads = 2,
                            .head_dim = 32,
                            .batch_stride = 1 << 20,
                            .token_stride = 64,
                            .head_stride = 32,
                            .box_tokens = kRows});
  }
  void copy(const Memory& memory, int bytes = kTileBytes) const {
    memory.barriers.arrive_and_expect(0, bytes);
    copy_box(memory.tile, map_, {0, 0, 1, 0}, memory.barriers, 0);
  }

  std::vector<Bf16> values_;
  TensorMap map_ = {};
};

TEST_F(HopperTest, CopyReadsZerosBehindTheEnd) {
  map_ = map();
  std::vector<float> got(kTile);
  expect_sound(kBlock, [&] {
    const Memory memory;
    memory.init();
    if (copies()) copy(memory);
    if (!uses()) return;
    memory.barriers.wait(0, 0);
    for (int i = thread_index(); i < kTile; i += kWarpgroup)
      got[static_cast<size_t>(i)] = to_float(memory.tile.load(place(i / kPanel, i % kPanel)));
  });
  for (int i = 0; i < kTile; ++i) {
    const int token = i / kPanel, d = i % kPanel;
    const float expected = token < 60 && d < 32 ? to_float(values_[static_cast<size_t>(token * 64 + 32 + d)]) : 0.0f;
    EXPECT_EQ(got[static_cast<size_t>(i)], expected) << token << ", " << d;
  }
}

TEST_F(HopperTest, CopyIsReadBeforeItsEnd) {
  map_ = map();
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (copies()) copy(memory);
    // A barrier that is new passes parity 1.
    if (uses()) memory.barriers.wait(0, sound ? 0 : 1);
    block_sync();
    if (!sound || uses()) memory.tile.load(thread_index());
  });
}

TEST_F(HopperTest, CopiesBytesThatNobodyExpects) {
  map_ = map();
  for (const int wrong : {kTileBytes / 2, 2 * kTileBytes})
    expect_fault("wait for ever", kBlock, [&](bool sound) {
      const Memory memory;
      memory.init();
      if (copies()) copy(memory, sound ? kTileBytes : wrong);
      if (uses()) memory.barriers.wait(0, 0);
    });
}

TEST_F(HopperTest, BarrierIsNotPublished) {
  map_ = map();
  expect_fault("was not published", kBlock, [&](bool sound) {
    const Memory memory;
    memory.init(sound);
    if (copies()) copy(memory);
    if (uses()) memory.barriers.wait(0, 0);
  });
}

TEST_F(HopperTest, CopyOverwritesWhatIsRead) {
  map_ = map();
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (uses()) {
      memory.tile.load(thread_index());
      warp_sync();
      if (lane_index() == 0) memory.barriers.arrive(1);
      memory.barriers.wait(0, 0);
    } else if (copies()) {
      memory.barriers.wait(1, sound ? 0 : 1);
      copy(memory);
    }
  });
}

TEST_F(HopperTest, CopyOverwritesWhatWasWrittenWithoutAFence) {
  map_ = map();
  expect_fault("no fence_for_async", kBlock, [&](bool sound) {
    const Memory memory;
    memory.tile.store(thread_index(), Bf16(1.0f));
    if (sound) fence_for_async();
    memory.init();
    if (copies()) copy(memory);
    if (uses()) memory.barriers.wait(0, 0);
  });
}

TEST_F(HopperTest, ArrivalOrdersMemory) {
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (copies()) {
      if (sound) memory.tile.store(0, Bf16(1.0f));
      memory.barriers.arrive(0);
      if (!sound) memory.tile.store(0, Bf16(1.0f));
    }
    if (!uses()) return;
    memory.barriers.wait(0, 0);
    memory.tile.load(0);
  });
}

TEST_F(HopperTest, OneArrivalTooMany) {
  expect_fault("is the arrival after", kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (copies()) {
      memory.barriers.arrive_and_expect(0, 16);  // which do not come
      if (!sound) memory.barriers.arrive(0);
    }
  });
}

TEST_F(HopperTest, BarrierArrivesWithoutWaiting) {
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    if (uses()) {
      barrier_sync(1, 2 * kWarpgroup);
      memory.tile.load(kWarpgroup + thread_index());
    } else {
      if (sound) memory.tile.store(thread_index(), Bf16(1.0f));
      barrier_arrive(1, 2 * kWarpgroup);
      if (!sound) memory.tile.store(thread_index(), Bf16(1.0f));
    }
  });
}

// ---------------------------------------------------------------------------------------------------- products

// Writes values to a tile of two panels, by the first warpgroup.
void fill(const Memory& memory, const std::vector<Bf16>& values, bool fence = true) {
  for (int i = thread_index(); i < 2 * kTile; i += kWarpgroup)
    memory.tile.store(place(i / (2 * kPanel), i % (2 * kPanel)), values[static_cast<size_t>(i)]);
  if (fence) fence_for_async();
  barrier_sync(1, kWarpgroup);
}

struct Registers {
  float sums[8][4] = {};
  uint32_t a[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
};

class ProductTest : public HopperTest {
 protected:
  float at(int row, int column) const { return to_float(values_[static_cast<size_t>(row * 2 * kPanel + column)]); }
  // The thread's place in sums.
  static int row(int e) { return warp_index() * 16 + lane_index() / 4 + e / 2 * 8; }
  static int column(int n, int e) { return 8 * n + 2 * (lane_index() % 4) + e % 2; }

  // A warpgroup with its tile, before a product.
  void with_tile(const std::function<void(const Memory&)>& body) const {
    if (!uses()) return;
    const Memory memory;
    fill(memory, values_);
    body(memory);
  }
  static void begin(Registers& r, const Memory& memory) {
    warpgroup_multiply(r.sums, r.a, MatrixDescriptor::columns(memory.tile, 0, kTile), true);
    warpgroup_commit();
  }
};

// Columns 80 to 95 of all rows by themselves, behind what was in the sums.
TEST_F(ProductTest, OfRows) {
  std::vector<float> got(kRows * kRows);
  expect_sound(kBlock, [&] {
    with_tile([&](const Memory& memory) {
      float sums[8][4];
      for (auto& four : sums)
        for (float& x : four) x = 1;
      for (const bool add : {true, false, true}) {
        warpgroup_fence(sums);
        const auto all = MatrixDescriptor::rows(memory.tile, kTile + 16);
        warpgroup_multiply_rows(sums, all, all, add);
        warpgroup_commit();
        warpgroup_wait<0>(sums);
      }
      for (int n = 0; n < 8; ++n)
        for (int e = 0; e < 4; ++e) got[static_cast<size_t>(row(e) * kRows + column(n, e))] = sums[n][e];
    });
  });
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kRows; ++j) {
      float expected = 0;
      for (int k = 80; k < 96; ++k) expected += 2 * at(i, k) * at(j, k);
      EXPECT_NEAR(got[static_cast<size_t>(i * kRows + j)], expected, 1e-3) << i << ", " << j;
    }
}

// a (i, k) = i - 2 k, times rows 32 to 47 of all columns.
TEST_F(ProductTest, OfColumns) {
  std::vector<float> got(kRows * 2 * kPanel);
  const auto left = [](int i, int k) { return static_cast<float>(i - 2 * k); };
  expect_sound(kBlock, [&] {
    with_tile([&](const Memory& memory) {
      float sums[16][4] = {};
      uint32_t a[4];
      for (int i = 0; i < 4; ++i) {
        const int k = 2 * (lane_index() % 4) + i / 2 * 8;
        a[i] = pack_bf16(left(row(i % 2 * 2), k), left(row(i % 2 * 2), k + 1));
      }
      warpgroup_fence(sums, a);
      warpgroup_multiply(sums, a, MatrixDescriptor::columns(memory.tile, 32 * kPanel, kTile), false);
      warpgroup_commit();
      warpgroup_wait<0>(sums, a);
      for (int n = 0; n < 16; ++n)
        for (int e = 0; e < 4; ++e) got[static_cast<size_t>(row(e) * 2 * kPanel + column(n, e))] = sums[n][e];
    });
  });
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 2 * kPanel; ++j) {
      float expected = 0;
      for (int k = 0; k < 16; ++k) expected += left(i, k) * at(32 + k, j);
      EXPECT_NEAR(got[static_cast<size_t>(i * 2 * kPanel + j)], expected, 1e-2) << i << ", " << j;
    }
}

TEST_F(ProductTest, ReadsWhatWasWrittenWithoutAFence) {
  expect_fault("no fence_for_async", kBlock, [&](bool sound) {
    if (!uses()) return;
    const Memory memory;
    fill(memory, values_, sound);
    Registers r;
    warpgroup_fence(r.sums, r.a);
    begin(r, memory);
    warpgroup_wait<0>(r.sums, r.a);
  });
}

TEST_F(ProductTest, ReadsWhatIsBeingCopied) {
  map_ = map();
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (copies()) copy(memory);
    if (!uses()) return;
    Registers r;
    if (sound) memory.barriers.wait(0, 0);
    warpgroup_fence(r.sums, r.a);
    begin(r, memory);
    if (!sound) memory.barriers.wait(0, 0);
    warpgroup_wait<0>(r.sums, r.a);
  });
}

TEST_F(ProductTest, TileIsReleasedBeforeItsEnd) {
  map_ = map();
  expect_fault(kRace, kBlock, [&](bool sound) {
    const Memory memory;
    memory.init();
    if (copies()) {
      memory.barriers.wait(1, 0);
      copy(memory);
    }
    if (!uses()) return;
    Registers r;
    warpgroup_fence(r.sums, r.a);
    begin(r, memory);
    if (sound) warpgroup_wait<0>(r.sums, r.a);
    if (lane_index() == 0) memory.barriers.arrive(1);
    memory.barriers.wait(0, 0);
    if (!sound) warpgroup_wait<0>(r.sums, r.a);
  });
}

TEST_F(ProductTest, RegistersWithoutAFence) {
  expect_fault("that no fence has named", kBlock, [&](bool sound) {
    with_tile([&](const Memory& memory) {
      Registers r;
      for (int i = 0; i < 2; ++i) {
        if (sound || i == 0) warpgroup_fence(r.sums, r.a);
        begin(r, memory);
        warpgroup_wait<0>(r.sums, r.a);
      }
    });
  });
}

TEST_F(ProductTest, RegistersWrittenBehindTheFence) {
  for (const bool sums : {false, true})
    expect_fault("written after the fence", kBlock, [&](bool sound) {
      with_tile([&](const Memory& memory) {
        Registers r;
        warpgroup_fence(r.sums, r.a);
        if (!sound && sums) r.sums[3][1] = 5;
        if (!sound && !sums) r.a[2] = 7;
        begin(r, memory);
        warpgroup_wait<0>(r.sums, r.a);
      });
    });
}

TEST_F(ProductTest, LeftOperandIsWrittenBeforeTheEnd) {
  expect_fault("a product under way reads", kBlock, [&](bool sound) {
    with_tile([&](const Memory& memory) {
      Registers r;
      warpgroup_fence(r.sums, r.a);
      begin(r, memory);
      if (!sound) r.a[1] = 9;
      warpgroup_wait<0>(r.sums, r.a);
    });
  });
}

TEST_F(ProductTest, WaitsForTooFew) {
  expect_fault("waits for registers that", kBlock, [&](bool sound) {
    with_tile([&](const Memory& memory) {
      Registers first, second;
      warpgroup_fence(first.sums, first.a, second.sums, second.a);
      begin(first, memory);
      begin(second, memory);
      if (sound)
        warpgroup_wait<1>(first.sums, first.a);
      else
        warpgroup_wait<2>(first.sums, first.a);
      warpgroup_wait<0>(second.sums, second.a);
    });
  });
}

TEST_F(ProductTest, SumsAreNotThereBeforeTheWait) {
  std::vector<float> early(kWarpgroup);
  expect_sound(kBlock, [&] {
    with_tile([&](const Memory& memory) {
      Registers r;
      warpgroup_fence(r.sums, r.a);
      begin(r, memory);
      early[static_cast<size_t>(thread_index())] = r.sums[0][0];
      warpgroup_wait<0>(r.sums, r.a);
    });
  });
  EXPECT_THAT(early, Each(::testing::IsNan()));
}

TEST_F(ProductTest, ThreadEndsTooEarly) {
  expect_fault("ends while its products are under way", kBlock, [&](bool sound) {
    with_tile([&](const Memory& memory) {
      Registers r;
      warpgroup_fence(r.sums, r.a);
      begin(r, memory);
      if (sound) warpgroup_wait<0>(r.sums, r.a);
    });
  });
}

TEST_F(ProductTest, WarpsMultiplyOtherOperands) {
  expect_fault("than the rest of its warpgroup", kBlock, [&](bool sound) {
    with_tile([&](const Memory& memory) {
      Registers r;
      warpgroup_fence(r.sums, r.a);
      const int at = !sound && warp_index() == 2 ? 16 * kPanel : 0;
      warpgroup_multiply(r.sums, r.a, MatrixDescriptor::columns(memory.tile, at, kTile), true);
      warpgroup_commit();
      warpgroup_wait<0>(r.sums, r.a);
    });
  });
}

TEST_F(HopperTest, SharedMemoryOfOtherDevices) {
  EXPECT_THAT(error_of({32, {}, kMostSharedBytes + 1}, [] {}), HasSubstr("bytes of shared memory"));
  EXPECT_EQ(error_of({32, {}, kMostHopperSharedBytes}, [] { fence_for_async(); }), "");
}

}  // namespace
}  // namespace skippipe::simt
