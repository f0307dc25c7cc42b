// What the attention kernels for Hopper are made of: one warpgroup keeps bulk copies under way, the others multiply
// what has arrived. After Shah et al. 2024, arXiv:2407.08608 (FlashAttention-3).
#pragma once

#include <algorithm>

#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/hopper.h"

namespace skippipe::SKP_GPU {

inline constexpr int kWarpgroupRows = 64;
inline constexpr int kWarpgroupWarps = kWarpgroup / kWarp;

// Bulk copies address all heads of a tensor (B,T,H,D), which has rows of whole vectors.
template <typename Void>
TensorMap map_of(const BasicTensor<Void>& x, int box_tokens) {
  return make_tensor_map(x.template as<Bf16>(), span_elements(x),
                         {.batch = x.dim(0),
                          .tokens = x.dim(1),
                          .heads = x.dim(2),
                          .head_dim = x.dim(3),
                          .batch_stride = x.stride(0),
                          .token_stride = x.stride(1),
                          .head_stride = x.stride(2),
                          .box_tokens = box_tokens});
}

// ---------------------------------------------------------------------------------------------------- work

// The blocks of rows of all heads, in an order for blocks that take every grid_x-th: as head_grid has them.
class HeadBlocks {
 public:
  HeadBlocks(const Grid& grid, int64_t heads)
      : at_once_(static_cast<int>(grid.x)),
        blocks_(grid.y),
        count_(static_cast<int>(grid.x) * grid.y * grid.z),
        heads_(static_cast<int>(heads)) {}

  int64_t count() const { return count_; }
  // body(head of all in all batches, block) for those of this block of threads; block 0 comes last.
  template <typename Body>
  SKP_DEVICE void for_each(const Body& body) const {
    for (int i = static_cast<int>(block_x()); i < count_; i += static_cast<int>(grid_x())) {
      const int row = at_once_.quotient(i), z = blocks_.quotient(row);
      const int head = z * at_once_.value() + i - row * at_once_.value();
      if (head < heads_) body(head, blocks_.value() - 1 - (row - z * blocks_.value()));
    }
  }

 private:
  Divisor at_once_, blocks_;
  int count_, heads_;
};

// ---------------------------------------------------------------------------------------------------- rings

// The tile whose turn it is in a ring of kSlots, and the parity of its barriers' phases.
template <int kSlots>
struct RingPosition {
  int slot = 0, parity = 0;

  SKP_DEVICE void next() {
    if (++slot < kSlots) return;
    slot = 0;
    parity ^= 1;
  }
};

// What a kernel's barriers take of shared memory, before its tiles, which they must not move off their alignment.
inline constexpr int kBarrierWords = kTileAlignment / sizeof(uint64_t);

// Tiles of kRows x kWidth that one thread fills and kReaders warps read, kSlots of them by turns.
template <int kRowsIs, int kWidthIs, int kSlotsIs, int kReaders>
class TileRing {
 public:
  static constexpr int kRows = kRowsIs, kWidth = kWidthIs, kSlots = kSlotsIs;
  static constexpr int kTile = kRows * kWidth;
  static constexpr int64_t kShared = shared_bytes<Bf16>(kSlots * kTile);
  static constexpr int kBarriers = 2 * kSlots;
  using Position = RingPosition<kSlots>;
  static_assert(kTile * sizeof(Bf16) % kTileAlignment == 0);

  // first_barrier: of kBarriers.
  SKP_DEVICE TileRing(SharedMemory& memory, const MemoryBarriers& barriers, int first_barrier)
      : tiles_(memory.take<Bf16>(kSlots * kTile)), barriers_(barriers), first_(first_barrier) {}

  SKP_DEVICE void init() const {
    for (int slot = 0; slot < kSlots; ++slot) {
      barriers_.init(full(slot), 1);
      barriers_.init(empty(slot), kReaders);
    }
  }
  // Fills the slot with tokens of a head once it is free.
  SKP_DEVICE void load(const Position& at, const TensorMap& from, int batch, int head, int token) const {
    barriers_.wait(empty(at.slot), at.parity ^ 1);
    barriers_.arrive_and_expect(full(at.slot), kTile * static_cast<int>(sizeof(Bf16)));
    SKP_UNROLL
    for (int panel = 0; panel < kWidth / kPanel; ++panel)
      copy_box(tile(at) + panel * kRows * kPanel, from, {batch, token, head, panel * kPanel}, barriers_, full(at.slot));
  }
  SKP_DEVICE void wait(const Position& at) const { barriers_.wait(full(at.slot), at.parity); }
  // By all warps that read it, after their last use.
  SKP_DEVICE void release(const Position& at) const {
    if (lane_index() == 0) barriers_.arrive(empty(at.slot));
  }
  SKP_DEVICE Shared<Bf16> tile(const Position& at) const { return tiles_ + at.slot * kTile; }

 private:
  SKP_DEVICE int full(int slot) const { return first_ + slot; }
  SKP_DEVICE int empty(int slot) const { return first_ + kSlots + slot; }

  Shared<Bf16> tiles_;
  MemoryBarriers barriers_;
  int first_;
};

// ---------------------------------------------------------------------------------------------------- products

// Begins sums = a b^T over kWidth columns. a: 64 rows from `a_row` on of a tile of kARows; b: all rows of a tile.
template <int kWidth, int kARows, int kColumnTiles>
SKP_DEVICE void begin_rows_product(float (&sums)[1][kColumnTiles][4], Shared<Bf16> a, int a_row, Shared<Bf16> b) {
  constexpr int kBRows = 8 * kColumnTiles;
  SKP_UNROLL
  for (int column = 0; column < kWidth; column += 16) {
    const int panel = column / kPanel, within = column % kPanel;
    warpgroup_multiply_rows(sums[0], MatrixDescriptor::rows(a, (panel * kARows + a_row) * kPanel + within),
                            MatrixDescriptor::rows(b, panel * kBRows * kPanel + within), column > 0);
  }
}

// Begins sums += a b; a in registers, 16 columns per step, b: all 16 * kSteps rows of a tile.
template <int kColumnTiles, int kSteps>
SKP_DEVICE void begin_add_product(float (&sums)[1][kColumnTiles][4], const uint32_t (&a)[kSteps][1][4],
                                  Shared<Bf16> b) {
  SKP_UNROLL
  for (int step = 0; step < kSteps; ++step)
    warpgroup_multiply(sums[0], a[step][0], MatrixDescriptor::columns(b, step * 16 * kPanel, kSteps * 16 * kPanel),
                       true);
}

}  // namespace skippipe::SKP_GPU
