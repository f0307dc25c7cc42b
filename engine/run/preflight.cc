#include "engine/run/preflight.h"

#include <algorithm>

#include "base/error.h"
#include "base/file_writer.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {
namespace {

// What is wrong with a file is told with the field that names it.
template <typename Open>
void open_for(const char* field, const Open& open) {
  try {
    open();
  } catch (const Error& error) {
    throw ConfigError("{}: {}", field, error.what());
  }
}

void open_tokens(const TrainingRun& run) {
  const TokenShard shard = open_training_tokens(run);
  const Sampler sampler(shard, run.sampler_shape(), static_cast<uint64_t>(run.file.seed));
}

void open_weights_to_begin_with(const TrainingRun& run, bool with_companions) {
  if (run.file.weights.empty() || !run.resumed_from.empty()) return;
  const ModelFiles files = open_weights(run, run.file.weights);
  if (!files.manifest()) files.require_whole();  // of a checkpoint, other machines may have parts
  if (with_companions) read_companions(files.folder());
}

void open_tokenizer(const TrainingRun& run) {
  if (run.file.tokenizer.empty()) return;
  const CompanionFiles files = with_tokenizer({}, run.file.tokenizer);
  const auto file = files.find(kSentencePieceFile);
  if (file == files.end() || files.contains("tokenizer.json")) return;  // else it has to do alone
  const std::string name = file->second.source.string();
  const Tokenizer tokenizer(file->second.content, name);
  if (tokenizer.vocabulary_size() > run.model.vocabulary)
    throw ConfigError("{}: a vocabulary of {}, but {} has {}", name, tokenizer.vocabulary_size(),
                      run.file.model_config.string(), run.model.vocabulary);
}

void open_place_of_checkpoints(const TrainingRun& run) {
  for (const auto& folder : {run.file.output, checkpoints_folder(run.file.output)}) require_writable_folder(folder);
}

void open_places_of_metrics(const TrainingRun& run) {
  require_writable_folder(run.file.output);
  if (!std::filesystem::exists(run.file.output)) return;
  for (const char* file : {"run.json", "metrics.jsonl"}) require_writable_file(run.file.output / file);
}

}  // namespace

void preflight(const TrainingRun& run, std::span<const int> nodes) {
  const auto any = [&](bool (*is)(const TrainingRun&, int)) {
    return std::ranges::any_of(nodes, [&](int node) { return is(run, node); });
  };
  const bool writes = any(writes_checkpoints);
  if (any(is_data_node)) {
    open_for("data.train", [&] { open_tokens(run); });
    if (!run.file.validation_tokens.empty()) open_for("data.validation", [&] { open_validation_tokens(run); });
  }
  open_for("model.weights", [&] { open_weights_to_begin_with(run, writes); });
  if (writes) open_for("data.tokenizer", [&] { open_tokenizer(run); });
  if (writes) open_for("run.output", [&] { open_place_of_checkpoints(run); });
  if (any(tells_of_run)) open_for("run.output", [&] { open_places_of_metrics(run); });
}

}  // namespace skippipe
