// Held-out samples: the same windows of a token shard each time.
#pragma once

#include <cstdint>
#include <span>

#include "engine/files/token_shards.h"

namespace skippipe {

// Windows of T tokens that do not overlap; each predicts its T next tokens from those before in the window, and
// together they predict every token of the shard but the first once. Of at most so many, spread evenly over the shard.
// A pure function of shard and numbers. Immutable; the shard must outlive it.
class ShardWindows {
 public:
  // B samples of T tokens to a batch. max_windows 0: all. The shard has at least 2 tokens.
  ShardWindows(const TokenShard& shard, int64_t samples, int64_t tokens, uint64_t max_windows);

  uint64_t batches() const { return (windows_ + samples_ - 1) / samples_; }
  // tokens, targets (B,T). What lies behind the shard's end, or behind the last window, is token 0, target -1. Throws
  // FileError: a token beyond the vocabulary.
  void fill(uint64_t batch, std::span<int32_t> tokens, std::span<int32_t> targets) const;

 private:
  const TokenShard* shard_;
  uint64_t samples_;
  uint64_t width_;
  uint64_t all_windows_ = 0;
  uint64_t windows_ = 0;
};

}  // namespace skippipe
