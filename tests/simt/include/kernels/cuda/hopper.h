// The second implementation of kernels/cuda/hopper.h (contracts there), over tests/simt/hopper.h.
#pragma once

#include <limits>
#include <vector>

#include "kernels/cuda/hardware.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/simt/hopper.h"

#define SKP_GRID_CONSTANT

namespace skippipe::simt {

using cuda::kPanel;

inline constexpr bool kCompilesForHopper = true;
inline constexpr int kTileAlignment = 1024;

// ---------------------------------------------------------------------------------------------------- barriers

class MemoryBarriers {
 public:
  explicit MemoryBarriers(Shared<uint64_t> words) : words_(words) {}

  void init(int i, int arrivals) const { Hopper::current().init(at(i), arrivals); }
  static void publish() { Hopper::current().publish(); }
  void arrive(int i) const { Hopper::current().arrive(at(i), 0); }
  void arrive_and_expect(int i, int bytes) const { Hopper::current().arrive(at(i), bytes); }
  void wait(int i, int parity) const { Hopper::current().wait(at(i), parity); }
  const void* at(int i) const { return words_.within(i, 1); }

 private:
  Shared<uint64_t> words_;
};

inline void barrier_arrive(int barrier, int threads) {
  if (barrier == 0) Block::current().fail("names barrier 0, which is block_sync's");
  Block::current().barrier_arrive(barrier, threads);
}
inline void fence_for_async() { Hopper::current().fence_for_async(); }

// ---------------------------------------------------------------------------------------------------- bulk copies

struct TensorMap {
  Global<const Bf16> data;
  cuda::TensorMapShape shape;
};

// Refuses what the driver refuses.
inline TensorMap make_tensor_map(const Bf16* data, int64_t count, const cuda::TensorMapShape& shape) {
  const auto fits = [](int64_t extent, int64_t stride) {
    return extent >= 1 && extent <= int64_t{1} << 32 &&
           (extent == 1 || (stride > 0 && stride % 8 == 0 && stride < int64_t{1} << 39));
  };
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || shape.head_dim < 1 || shape.head_dim % 8 != 0 ||
      !fits(shape.heads, shape.head_stride) || !fits(shape.tokens, shape.token_stride) ||
      !fits(shape.batch, shape.batch_stride) || shape.box_tokens < 1 || shape.box_tokens > 256)
    throw KernelError("no tensor map can be made of that");
  return {{data, count}, shape};
}

struct BoxOrigin {
  int batch, token, head, column;
};
inline void copy_box(Shared<Bf16> panel, const TensorMap& from, const BoxOrigin& at, const MemoryBarriers& barriers,
                     int i) {
  constexpr int kAtOnce = 8;
  const cuda::TensorMapShape& shape = from.shape;
  Block& block = Block::current();
  auto* const first = reinterpret_cast<std::byte*>(panel.within(0, shape.box_tokens * kPanel));
  const auto offset = static_cast<size_t>(first - block.shared());
  if (offset % kTileAlignment != 0) block.fail("copies a box to where no tile begins");
  std::vector<Hopper::Piece> pieces;
  for (int row = 0; row < shape.box_tokens; ++row)
    for (int column = 0; column < kPanel; column += kAtOnce) {
      Hopper::Piece piece{block.shared() + Hopper::swizzled(offset + static_cast<size_t>(row * kPanel + column) * 2),
                          {}};
      const int64_t token = at.token + row, d = at.column + column;
      if (at.batch >= 0 && at.batch < shape.batch && at.head >= 0 && at.head < shape.heads && token >= 0 &&
          token < shape.tokens && d >= 0 && d < shape.head_dim)
        std::memcpy(
            piece.bytes.data(),
            from.data.at(at.batch * shape.batch_stride + at.head * shape.head_stride + token * shape.token_stride + d,
                         kAtOnce, Block::Access::kRead),
            sizeof(piece.bytes));
      pieces.push_back(piece);
    }
  Hopper::current().copy(std::move(pieces), barriers.at(i));
}
inline void prefetch(const TensorMap&) {}

// ---------------------------------------------------------------------------------------------------- registers

template <int kRegisters>
void give_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}

// ---------------------------------------------------------------------------------------------------- products

template <typename... Registers>
void warpgroup_fence(Registers&... registers) {
  Hopper::current().fence({{&registers, sizeof(registers)}...});
}
inline void warpgroup_commit() { Hopper::current().commit(); }
template <int kPending, typename... Registers>
void warpgroup_wait(Registers&... registers) {
  Hopper::current().wait_products(kPending, {{&registers, sizeof(registers)}...});
}

class MatrixDescriptor {
 public:
  static MatrixDescriptor rows(Shared<Bf16> tile, int at) { return {tile, at, 1}; }
  static MatrixDescriptor columns(Shared<Bf16> tile, int at, int panel_elements) {
    return {tile, at, panel_elements / 8};
  }
  uint64_t bits() const { return bits_; }

 private:
  MatrixDescriptor(Shared<Bf16> tile, int at, int leading) {
    constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
    constexpr uint64_t kEightRows = 8 * kPanel / 8;
    Block& block = Block::current();
    const auto address = static_cast<uint64_t>(reinterpret_cast<std::byte*>(tile.within(at, 8)) - block.shared());
    if (address % 16 != 0 || address / 128 % 8 != 0)
      block.fail("takes an operand from where no 8 rows of a tile begin");
    bits_ = address / 16 | static_cast<uint64_t>(leading) << 16 | kEightRows << 32 | kSwizzle128;
  }
  uint64_t bits_;
};

template <int kColumnTiles>
void warpgroup_multiply_rows(float (&d)[kColumnTiles][4], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  static_assert(kColumnTiles == 8 || kColumnTiles == 16);
  Hopper::current().multiply({8 * kColumnTiles, &d[0][0], a.bits(), b.bits(), nullptr, add});
}
template <int kColumnTiles>
void warpgroup_multiply(float (&d)[kColumnTiles][4], const uint32_t (&a)[4], MatrixDescriptor b, bool add) {
  static_assert(kColumnTiles == 8 || kColumnTiles == 16);
  Hopper::current().multiply({8 * kColumnTiles, &d[0][0], 0, b.bits(), &a[0], add});
}

}  // namespace skippipe::simt
