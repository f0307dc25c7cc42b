// A set of small integers that finds its lowest member fast; sized once, then allocation-free.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace skippipe {

class BitSet {
 public:
  // Makes the set hold none, or all, of [0, size).
  void reset(int32_t size, bool full) {
    words_.assign(static_cast<size_t>((size + 63) / 64), full ? ~uint64_t{0} : 0);
    if (full && size % 64 != 0) words_.back() = (uint64_t{1} << (size % 64)) - 1;
  }
  void insert(int32_t i) { words_[static_cast<size_t>(i) / 64] |= uint64_t{1} << (i % 64); }
  void erase(int32_t i) { words_[static_cast<size_t>(i) / 64] &= ~(uint64_t{1} << (i % 64)); }

  bool contains(int32_t i) const { return (words_[static_cast<size_t>(i) / 64] >> (i % 64) & 1) != 0; }

  // The lowest member, -1 if there is none.
  int32_t first() const {
    for (size_t w = 0; w < words_.size(); ++w)
      if (words_[w] != 0) return static_cast<int32_t>(w) * 64 + std::countr_zero(words_[w]);
    return -1;
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace skippipe
