#include "engine/files/sampler.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace skippipe {
namespace {

enum Stream : uint64_t { kOffset = 1, kOrder = 2 };

constexpr int kRounds = 6;

}  // namespace

Sampler::Sampler(const TokenShard& shard, const SamplerShape& shape, uint64_t seed)
    : shard_(&shard), shape_(shape), seed_(seed) {
  constexpr int64_t kMax = 1 << 30;
  for (const int64_t extent : {shape.batch, shape.sequence, shape.microbatches})
    if (extent < 1 || extent > kMax)
      throw ConfigError("batch {}, sequence {}, microbatches {}: expected 1 to {} of each", shape.batch, shape.sequence,
                        shape.microbatches, kMax);
  const uint64_t tokens = shard.info().tokens;
  const auto sequence = static_cast<uint64_t>(shape.sequence);
  if (tokens < sequence + 1)
    throw ConfigError("{}: {} tokens, a sequence of {} needs {}", shard.path().string(), tokens, sequence,
                      sequence + 1);
  windows_ = std::max<uint64_t>(1, (tokens - sequence) / sequence);
  offsets_ = std::min(sequence, tokens - windows_ * sequence);
  while (windows_ > uint64_t{1} << (2 * half_bits_)) ++half_bits_;
}

uint64_t Sampler::permute(uint64_t epoch, uint64_t index) const {
  Random keys(seed_, {kOrder, epoch});
  std::array<uint64_t, kRounds> round_keys{};
  for (uint64_t& key : round_keys) key = keys();
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = index >> half_bits_;
    uint64_t right = index & mask;
    for (const uint64_t key : round_keys) {
      const uint64_t mixed = left ^ (mix_bits(key ^ right) & mask);
      left = right;
      right = mixed;
    }
    index = left << half_bits_ | right;
  } while (index >= windows_);
  return index;
}

uint64_t Sampler::sample_begin(uint64_t sample) const {
  const uint64_t epoch = sample / windows_;
  const uint64_t offset = Random(seed_, {kOffset, epoch}).below(offsets_);
  return offset + permute(epoch, sample % windows_) * static_cast<uint64_t>(shape_.sequence);
}

void Sampler::fill(uint32_t iteration, uint32_t microbatch, std::span<int32_t> tokens,
                   std::span<int32_t> targets) const {
  const auto batch = static_cast<size_t>(shape_.batch);
  const auto sequence = static_cast<size_t>(shape_.sequence);
  if (tokens.size() != batch * sequence || targets.size() != tokens.size())
    throw ShapeError("sampler: {} tokens and {} targets, expected {} x {} of each", tokens.size(), targets.size(),
                     batch, sequence);
  SKP_CHECK(microbatch < shape_.microbatches, "microbatch {} of {}", microbatch, shape_.microbatches);
  SKP_CHECK(iteration >= shape_.first_iteration, "iteration {} before {}", iteration, shape_.first_iteration);
  const uint64_t first = shape_.samples_before(iteration) + microbatch * batch;
  for (size_t b = 0; b < batch; ++b) {
    const uint64_t begin = sample_begin(first + b);
    shard_->read(begin, tokens.subspan(b * sequence, sequence));
    shard_->read(begin + 1, targets.subspan(b * sequence, sequence));
  }
}

}  // namespace skippipe
