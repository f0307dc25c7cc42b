// skippipe eval: perplexity with all stages, with a share of them left out at random, or without named ones.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "base/number_text.h"
#include "engine/checkpoint/model_files.h"
#include "engine/inference/evaluate.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/dtype_option.h"
#include "tools/verbs/model_options.h"
#include "tools/verbs/number_options.h"
#include "tools/verbs/progress.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

constexpr int64_t kMostTokens = 1 << 20;  // of a sample

struct Options {
  std::string model;
  std::string config;
  std::string data;
  std::string tokens;
  std::optional<std::string> sequence;  // given as before: the shard was --tokens, and this its samples' length
  BatchShape batch = {8, 0};
  uint64_t samples = 0;
  int stages = 0;
  std::vector<double> skip;
  int choices = 8;
  uint64_t seed = 1;
  std::vector<int> without;
  DeviceName device;
  int threads = 0;
  Dtype dtype = Dtype::kF32;
  std::string json;
};

// One line of the table: paths whose perplexities are averaged.
struct Group {
  std::string label;
  std::optional<double> share;
  std::vector<StagePath> paths;
  std::vector<LossSum> losses;
};

void take_lengths(Options& options) {
  if (options.sequence) {
    fmt::print(stderr, "note: --tokens FILE --sequence N is now --data FILE --tokens N\n");
    options.data = std::exchange(options.tokens, *options.sequence);
  }
  if (options.data.empty()) throw UsageError("eval: give --data, the token shard to predict");
  if (!parse_number(options.tokens, options.batch.tokens) || options.batch.tokens < 1 ||
      options.batch.tokens > kMostTokens)
    throw UsageError("--tokens: found '{}', expected a whole number from 1 to {}", options.tokens, kMostTokens);
}

// Where the figures go; empty: nowhere.
std::filesystem::path json_path(const Options& options, const ModelFiles& files) {
  // A run's output folder keeps them: it is not the folder of the model, which is one of its checkpoints.
  if (!options.json.empty() || std::filesystem::equivalent(options.model, files.folder())) return options.json;
  return std::filesystem::path(options.model) / "evaluation.json";
}

std::vector<Group> groups_of(int stages, const Options& options) {
  std::vector<Group> groups = {
      {stages > 1 ? fmt::format("all {} stages", stages) : "the whole model", {}, {path_without(stages, {})}, {}}};
  for (const double share : options.skip) {
    auto paths = random_paths(stages, share, options.choices, options.seed);
    const size_t left_out = static_cast<size_t>(stages) - paths.front().size();
    groups.push_back({fmt::format("{} of {} left out at random", left_out, stages), share, std::move(paths), {}});
  }
  if (!options.without.empty())
    groups.push_back(
        {fmt::format("without {}", fmt::join(options.without, ", ")), {}, {path_without(stages, options.without)}, {}});
  return groups;
}

void evaluate_groups(LocalModel& model, const EvaluationData& data, std::vector<Group>& groups) {
  std::vector<StagePath> paths;
  for (const Group& group : groups) paths.insert(paths.end(), group.paths.begin(), group.paths.end());
  std::unique_ptr<Progress> progress;
  const auto losses = evaluate(model, data, paths, [&](uint64_t done, uint64_t batches) {
    if (!progress) progress = std::make_unique<Progress>("evaluating", batches, "batches");
    progress->update(done);
  });
  auto next = losses.begin();
  for (Group& group : groups) {
    group.losses.assign(next, next + static_cast<std::ptrdiff_t>(group.paths.size()));
    next += static_cast<std::ptrdiff_t>(group.paths.size());
  }
}

void require_finite(const std::vector<Group>& groups) {
  for (const Group& group : groups)
    for (const LossSum& loss : group.losses)
      if (!std::isfinite(loss.mean()))
        throw RunError("{}: the loss is {}, expected a finite number: the model's values grow too large", group.label,
                       number_text(loss.mean()));
}

std::vector<double> perplexities_of(const Group& group) {
  std::vector<double> values;
  for (const LossSum& loss : group.losses) values.push_back(perplexity(loss));
  return values;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

void print_table(const std::vector<Group>& groups) {
  fmt::print("{:<32} {:>8} {:>12} {:>12} {:>12}\n", "stages", "choices", "perplexity", "lowest", "highest");
  for (const Group& group : groups) {
    const auto values = perplexities_of(group);
    fmt::print("{:<32} {:>8} {:>12.3f}", group.label, values.size(), mean(values));
    if (values.size() > 1) fmt::print(" {:>12.3f} {:>12.3f}", std::ranges::min(values), std::ranges::max(values));
    fmt::print("\n");
  }
}

nlohmann::ordered_json report_of(const std::vector<Group>& groups, const std::vector<int>& layers_per_stage,
                                 const std::optional<CheckpointManifest>& manifest, const Options& options) {
  nlohmann::ordered_json report;
  report["format"] = "skippipe-evaluation";
  report["version"] = 1;
  if (manifest) report["iteration"] = manifest->iteration;
  report["layers_per_stage"] = layers_per_stage;
  report["tokens_per_sample"] = options.batch.tokens;
  report["predicted_tokens"] = groups.front().losses.front().tokens;
  for (const Group& group : groups) {
    nlohmann::ordered_json result;
    result["label"] = group.label;
    if (group.share) result["skip"] = *group.share;
    result["perplexity"] = mean(perplexities_of(group));
    for (size_t i = 0; i < group.paths.size(); ++i) {
      const LossSum& loss = group.losses[i];
      result["choices"].push_back(
          {{"stages", group.paths[i]}, {"loss", loss.mean()}, {"perplexity", perplexity(loss)}});
    }
    report["results"].push_back(std::move(result));
  }
  return report;
}

void run(Options options) {
  take_lengths(options);
  const ModelFiles files(options.model, options.config);
  if (options.batch.tokens > files.config().max_positions)
    throw ConfigError("--tokens: found {}, expected at most the max_position_embeddings of {}, which is {}",
                      options.batch.tokens, options.model, files.config().max_positions);
  const std::filesystem::path json = json_path(options, files);
  if (!json.empty()) require_writable_file(json);
  const TokenShard shard{std::filesystem::path(options.data)};
  if (!options.skip.empty() || !options.without.empty()) require_cut(files, options.stages);
  const std::vector<int> layers_per_stage = cut_of(files, options.stages);
  std::vector<Group> groups = groups_of(static_cast<int>(layers_per_stage.size()), options);
  const ComputeChoice choice{options.device, "--threads", threads_or_all(options.threads), options.dtype};
  LocalModel model(make_backend(options.device), files.config(), layers_per_stage, options.batch,
                   usable_threads(choice), StagePurpose::kEvaluation, options.dtype);
  print_cpu_remarks(choice);
  for (int i = 0; i < model.stages(); ++i) {
    files.load(model.stage(i).parameters(), model.stage(i).context());
    model.stage(i).refresh_weights();
  }
  evaluate_groups(model, {&shard, options.samples}, groups);
  require_finite(groups);
  print_table(groups);
  fmt::print("over {} predicted tokens of {}, {} at a time\n", groups.front().losses.front().tokens, options.data,
             options.batch.tokens);
  if (!json.empty())
    write_file_atomically(json, report_of(groups, layers_per_stage, files.manifest(), options).dump(2) + "\n");
}

}  // namespace

void add_eval_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("eval", "Perplexity with all stages, and with some left out");
  auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "A run's output folder, a checkpoint, or a Hugging Face model's folder")
      ->required();
  verb->add_option("--config", options->config, "The model's config.json, if not in its folder");
  verb->add_option("--data", options->data, "The token shard to predict");
  verb->add_option("--tokens", options->tokens, "Tokens of a sample")->required();
  verb->add_option("--sequence", options->sequence)->group("");
  verb->add_option("--batch", options->batch.samples, "Samples at once")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb->add_option("--samples", options->samples, "At most so many samples, spread over the shard; 0: all")
      ->capture_default_str();
  verb->add_option("--stages", options->stages,
                   "Cut the model into so many stages (default: as the run did, or in one piece)")
      ->check(CLI::Range(1, 1 << 16));
  verb->add_option("--skip", options->skip,
                   "Shares of the stages to leave out at random, such as 0.33,0.5; stage 0 stays")
      ->delimiter(',');
  verb->add_option("--choices", options->choices, "Random choices for each share")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb->add_option("--seed", options->seed, "Of the random choices")->capture_default_str();
  verb->add_option("--without", options->without, "Stages to leave out, such as 2,4")->delimiter(',');
  add_dtype_option(*verb, options->dtype, "Of activations and what is multiplied");
  add_device_option(*verb, options->device);
  verb->add_option("--threads", options->threads, "Default: one per core")->check(CLI::Range(1, 1024));
  verb->add_option("--json", options->json,
                   "Write the figures to this file (default: evaluation.json in the run's folder)");
  verb->footer("Example: skippipe eval --model run --data tokens/validation.tokens --tokens 128 --skip 0.33,0.5");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
