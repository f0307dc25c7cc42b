#include "engine/inference/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace skippipe {
namespace {

void check_shard(const TokenShard& shard, const ModelConfig& config) {
  if (shard.info().vocabulary > config.vocabulary)
    throw ConfigError("{}: a vocabulary of {}, the model has {}", shard.path().string(), shard.info().vocabulary,
                      config.vocabulary);
  if (shard.info().tokens < 2)
    throw ConfigError("{}: {} tokens, expected at least 2", shard.path().string(), shard.info().tokens);
}

// How many ways there are to leave out `left_out` of `stages`, or limit if there are more.
uint64_t ways(uint64_t stages, uint64_t left_out, uint64_t limit) {
  double result = 1;
  for (uint64_t i = 0; i < left_out; ++i)
    result = result * static_cast<double>(stages - i) / static_cast<double>(i + 1);
  return result >= static_cast<double>(limit) ? limit : static_cast<uint64_t>(std::llround(result));
}

}  // namespace

StagePath path_without(int stages, std::span<const int> without) {
  std::set<int> left_out;
  for (const int stage : without) {
    if (stages == 1) throw ConfigError("--without: stage {} cannot be left out: the model has stage 0 alone", stage);
    if (stage < 1 || stage >= stages)
      throw ConfigError("--without: stage {} cannot be left out, expected 1 to {}", stage, stages - 1);
    if (!left_out.insert(stage).second) throw ConfigError("--without: stage {} is named twice", stage);
  }
  StagePath path;
  for (int stage = 0; stage < stages; ++stage)
    if (!left_out.contains(stage)) path.push_back(stage);
  return path;
}

std::vector<StagePath> random_paths(int stages, double share, int choices, uint64_t seed) {
  if (!(share >= 0 && share < 1))
    throw ConfigError("--skip: a share of {} of the stages, expected 0 to below 1", share);
  if (choices < 1) throw ConfigError("{} choices, expected at least 1", choices);
  const auto left_out = static_cast<int>(std::lround(share * stages));
  if (left_out >= stages)
    throw ConfigError("--skip: {} of {} stages cannot be left out: stage 0 stays", left_out, stages);
  const uint64_t wanted =
      ways(static_cast<uint64_t>(stages - 1), static_cast<uint64_t>(left_out), static_cast<uint64_t>(choices));
  std::set<StagePath> seen;
  std::vector<StagePath> paths;
  Random random(seed, {static_cast<uint64_t>(stages), static_cast<uint64_t>(left_out)});
  while (paths.size() < wanted) {
    std::vector<int> candidates(static_cast<size_t>(stages - 1));
    std::iota(candidates.begin(), candidates.end(), 1);
    random.shuffle(candidates);
    StagePath path = path_without(stages, std::span(candidates).first(static_cast<size_t>(left_out)));
    if (seen.insert(path).second) paths.push_back(std::move(path));
  }
  return paths;
}

std::vector<LossSum> evaluate(LocalModel& model, const EvaluationData& data, std::span<const StagePath> paths,
                              const std::function<void(uint64_t done, uint64_t batches)>& progress) {
  Stage& first = model.stage(0);
  check_shard(*data.shard, first.config());
  const ShardWindows windows(*data.shard, first.batch().samples, first.batch().tokens, data.max_samples);
  std::vector<LossSum> losses(paths.size());
  std::vector<int32_t> tokens(static_cast<size_t>(first.batch().samples * first.batch().tokens)),
      targets(tokens.size());
  for (uint64_t batch = 0; batch < windows.batches(); ++batch) {
    windows.fill(batch, tokens, targets);
    first.set_batch(0, tokens, targets);
    first.forward(0);  // once for all paths
    for (size_t i = 0; i < paths.size(); ++i) {
      const LossSum loss = first.evaluate_loss(0, model.forward_from_first(paths[i]));
      losses[i].sum += loss.sum;
      losses[i].tokens += loss.tokens;
    }
    if (progress) progress(batch + 1, windows.batches());
  }
  return losses;
}

double perplexity(const LossSum& loss) { return std::exp(loss.mean()); }

}  // namespace skippipe
