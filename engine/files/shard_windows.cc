#include "engine/files/shard_windows.h"

#include <algorithm>

namespace skippipe {

ShardWindows::ShardWindows(const TokenShard& shard, int64_t samples, int64_t tokens, uint64_t max_windows)
    : shard_(&shard), samples_(static_cast<uint64_t>(samples)), width_(static_cast<uint64_t>(tokens)) {
  const uint64_t targets = shard.info().tokens - 1;
  all_windows_ = (targets + width_ - 1) / width_;
  windows_ = max_windows == 0 ? all_windows_ : std::min(max_windows, all_windows_);
}

void ShardWindows::fill(uint64_t batch, std::span<int32_t> tokens, std::span<int32_t> targets) const {
  std::ranges::fill(tokens, 0);
  std::ranges::fill(targets, -1);
  for (uint64_t i = 0; i < samples_; ++i) {
    const uint64_t window = batch * samples_ + i;
    if (window >= windows_) break;
    // In 128 bits, as both factors may be large.
    const auto spread = static_cast<uint64_t>(static_cast<unsigned __int128>(window) * all_windows_ / windows_);
    const uint64_t begin = spread * width_;
    const uint64_t count = std::min(width_, shard_->info().tokens - 1 - begin);
    shard_->read(begin, tokens.subspan(i * width_, count));
    shard_->read(begin + 1, targets.subspan(i * width_, count));
  }
}

}  // namespace skippipe
