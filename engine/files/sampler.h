// Which tokens a microbatch holds: a pure function of seed, iteration, microbatch and where in the data the present
// plan began, so that any data node can take over any microbatch and a resumed run sees the data that an uninterrupted
// one would have seen, also with other numbers of microbatches and samples from there on.
#pragma once

#include <cstdint>
#include <span>

#include "engine/files/token_shards.h"

namespace skippipe {

struct SamplerShape {
  int64_t batch = 0;         // B, samples of a microbatch
  int64_t sequence = 0;      // T, tokens of a sample
  int64_t microbatches = 0;  // M, of an iteration
  // Where a run with this shape begins: the first iteration, and the sample of the run that is its first.
  uint32_t first_iteration = 0;
  uint64_t first_sample = 0;

  // Samples of the run before an iteration, of those from the first one on.
  uint64_t samples_before(uint32_t iteration) const {
    return first_sample +
           uint64_t{iteration - first_iteration} * static_cast<uint64_t>(microbatches) * static_cast<uint64_t>(batch);
  }
};

// The most samples that a run may read.
inline constexpr uint64_t kMaxSamples = uint64_t{1} << 62;

// The shard is cut into windows of T tokens that do not overlap, from an offset in [0, T) that every epoch draws anew.
// An epoch visits its windows in a pseudo-random order, each once; sample n of the run is window n mod W of epoch n / W
// with W windows in an epoch. Documents are packed, as is usual in pretraining: a window may cross from one document
// into the next, attention and targets do too, and the EOS between them is a target like any other.
//
// The order is a permutation computed in place, not stored: a Feistel network over the next power of 4 whose results
// beyond W are encrypted again until they fall within (cycle walking; Black & Rogaway 2002).
//
// Immutable, so any thread may use it. The shard must outlive it.
class Sampler {
 public:
  // Throws ConfigError if the shard has not T + 1 tokens or the shape is not positive.
  Sampler(const TokenShard& shard, const SamplerShape& shape, uint64_t seed);

  // tokens, targets (B,T): targets[b,t] is the token behind tokens[b,t]. iteration from the first one on, microbatch in
  // [0, M).
  // Throws ShapeError, FileError (a token beyond the vocabulary).
  void fill(uint32_t iteration, uint32_t microbatch, std::span<int32_t> tokens, std::span<int32_t> targets) const;

  // The position of the first token of sample n of the run.
  uint64_t sample_begin(uint64_t sample) const;
  // W, samples of an epoch.
  uint64_t windows() const { return windows_; }

 private:
  uint64_t permute(uint64_t epoch, uint64_t index) const;

  const TokenShard* shard_;
  SamplerShape shape_;
  uint64_t seed_;
  uint64_t windows_ = 0;
  uint64_t offsets_ = 0;  // the offset of an epoch is in [0, offsets_)
  int half_bits_ = 0;     // of the Feistel network: 4^half_bits_ >= windows_
};

}  // namespace skippipe
