// Small matrix products on tiles that lie in cache: what attention is made of.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"

namespace skippipe::cpu {

// The left operand, read one element at a time: element (row, k) is data[row * row_stride + k * k_stride].
struct LeftTile {
  const float* data;
  int64_t row_stride, k_stride;
};

// A row-major tile whose rows are read or written as vectors.
template <typename Element>
struct RowTile {
  Element* data;
  int64_t stride;
};

enum class Store { kOverwrite, kAdd };

// Rows and vectors of the block of C that stays in registers: 16 accumulators and 5 operands of AVX-512's 32
// registers, 8 and 3 of the 16 that AVX2 and SSE have.
inline constexpr int kBlockRows = 4;
inline constexpr int kBlockVecs = kLanes == 16 ? 4 : 2;

template <int kVecs, Store kStore>
inline void product_block(RowTile<float> c, LeftTile a, RowTile<const float> b, int64_t depth) {
  Vec sum[kBlockRows][kVecs] = {};
  if constexpr (kStore == Store::kAdd)
    for (int r = 0; r < kBlockRows; ++r)
      for (int v = 0; v < kVecs; ++v) sum[r][v] = load(c.data + r * c.stride + v * kLanes);
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      right[v] = load(b.data + k * b.stride + v * kLanes);
      keep(right[v]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kBlockRows; ++r) {
      const Vec left = splat(a.data[r * a.row_stride + k * a.k_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < kBlockRows; ++r)
    for (int v = 0; v < kVecs; ++v) store(c.data + r * c.stride + v * kLanes, sum[r][v]);
}

// C (rows x columns) = or += A (rows x depth) B (depth x columns); rows a multiple of kBlockRows, columns of kLanes.
template <Store kStore>
void tile_product(RowTile<float> c, LeftTile a, RowTile<const float> b, int64_t rows, int64_t columns, int64_t depth) {
  for (int64_t row = 0; row < rows; row += kBlockRows) {
    const LeftTile left{a.data + row * a.row_stride, a.row_stride, a.k_stride};
    float* out = c.data + row * c.stride;
    int64_t column = 0;
    for (; column + kBlockVecs * kLanes <= columns; column += kBlockVecs * kLanes)
      product_block<kBlockVecs, kStore>({out + column, c.stride}, left, {b.data + column, b.stride}, depth);
    const RowTile<float> c_rest{out + column, c.stride};
    const RowTile<const float> b_rest{b.data + column, b.stride};
    switch ((columns - column) / kLanes) {  // 0 to kBlockVecs - 1
      case 1:
        product_block<1, kStore>(c_rest, left, b_rest, depth);
        break;
      case 2:
        product_block<2, kStore>(c_rest, left, b_rest, depth);
        break;
      case 3:
        product_block<3, kStore>(c_rest, left, b_rest, depth);
        break;
    }
  }
}

}  // namespace skippipe::cpu
