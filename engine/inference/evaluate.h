// Perplexity of a model on a token shard, with all of its stages or without some of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/files/shard_windows.h"
#include "engine/inference/local_model.h"

namespace skippipe {

// The stages of a model that stay, in order, stage 0 first.
using StagePath = std::vector<int>;

// All stages but those named. Throws ConfigError unless they are in [1, stages) and differ.
StagePath path_without(int stages, std::span<const int> without);

// Up to `choices` different paths without round(share * stages) random stages, never stage 0: a pure function of the
// arguments. Fewer where there are not so many. Throws ConfigError unless share is in [0, 1) and some stage can stay.
std::vector<StagePath> random_paths(int stages, double share, int choices, uint64_t seed);

struct EvaluationData {
  const TokenShard* shard = nullptr;
  uint64_t max_samples = 0;  // windows of T tokens, as ShardWindows chooses them; 0: all
};

// The loss of each path over the same samples; T and the batch are the model's. Calls progress with batches done and in
// all. Throws FileError (a token beyond the vocabulary), ConfigError (a shard of another vocabulary, or of less than 2
// tokens).
std::vector<LossSum> evaluate(LocalModel& model, const EvaluationData& data, std::span<const StagePath> paths,
                              const std::function<void(uint64_t done, uint64_t batches)>& progress = {});

// exp of the mean loss: infinity where that is too large.
double perplexity(const LossSum& loss);

}  // namespace skippipe
