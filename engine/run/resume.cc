#include "engine/run/resume.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/checkpoint/model_files.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> find_checkpoint(const TrainingRun& run, const StartChoice& choice,
                                        const std::function<void(const fs::path&, const std::string&)>& on_broken) {
  if (choice.resume_from.empty()) {
    if (!choice.resume) return std::nullopt;
    const auto newest = newest_whole_checkpoint(run.file.output, on_broken);
    if (!newest)
      throw ConfigError("{}: no whole checkpoint to resume from", checkpoints_folder(run.file.output).string());
    return newest;
  }
  if (choice.is_whole) return choice.resume_from;
  if (const auto problems = checkpoint_problems(choice.resume_from); !problems.empty())
    throw FileError("{}: not a whole checkpoint: {}", choice.resume_from.string(), problems.front());
  return choice.resume_from;
}

// Checkpoints from the iteration on that would be taken for the run's own.
void refuse_to_mix(const TrainingRun& run, uint32_t first_iteration, const StartChoice& choice) {
  const fs::path folder = checkpoints_folder(run.file.output);
  std::vector<uint32_t> newer = list_checkpoints(folder);
  std::erase_if(newer, [&](uint32_t iteration) { return iteration <= first_iteration; });
  for (auto iteration = newer.rbegin(); iteration != newer.rend(); ++iteration) {
    const fs::path checkpoint = folder / checkpoint_name(*iteration);
    if (!choice.resume && choice.resume_from.empty())
      throw ConfigError("{} is there: --resume goes on from it; to begin anew, remove it or change run.output",
                        checkpoint.string());
    if (!choice.resume_from.empty() && checkpoint_problems(checkpoint).empty())
      throw ConfigError("{} is newer than {}: remove it or change run.output", checkpoint.string(),
                        choice.resume_from.string());
  }
}

std::string list_of(const std::vector<int>& numbers) { return fmt::format("{}", fmt::join(numbers, ",")); }

}  // namespace

void choose_start(TrainingRun& run, const StartChoice& choice,
                  const std::function<void(const fs::path&, const std::string& problem)>& on_broken) {
  const auto checkpoint = find_checkpoint(run, choice, on_broken);
  if (!checkpoint) return refuse_to_mix(run, 0, choice);
  const CheckpointManifest manifest = load_checkpoint_manifest(*checkpoint);
  const std::string name = checkpoint->string();
  if (!manifest.optimizer)
    throw ConfigError("{}: has no optimizer state to resume with; model.weights begins a new run with its weights",
                      name);
  if (manifest.iteration >= static_cast<uint64_t>(run.file.iterations))
    throw ConfigError("{}: has {} iterations, and run.iterations is {}: nothing is left to do", name,
                      manifest.iteration, run.file.iterations);
  if (!choice.is_whole) refuse_to_mix(run, manifest.iteration, choice);
  run.resumed_from = *checkpoint;
  run.first_iteration = manifest.iteration;
  run.file.run_id = mix_bits(run.file.run_id ^ mix_bits(manifest.iteration));
}

std::vector<std::string> changes_since(const CheckpointManifest& manifest, const TrainingRun& run) {
  std::vector<std::string> changes;
  const auto compare = [&](const std::string& what, const std::string& before, const std::string& now) {
    if (before != now) changes.push_back(fmt::format("{}: {} before, {} now", what, before, now));
  };
  const Plan& plan = run.plan;
  compare("layers per stage", list_of(manifest.layers_per_stage), list_of(plan.workload.stage_layers));
  if (manifest.run.empty()) return changes;
  compare("nodes per stage", list_of(manifest.replicas), list_of(replicas_per_stage(plan)));
  compare("microbatches", fmt::format("{}", manifest.microbatches), fmt::format("{}", plan.microbatches.size()));
  for (const auto& [field, value] : run_file_values(run.file)) {
    const auto before = manifest.run.find(field);
    compare(field, before == manifest.run.end() ? "nothing" : before->second, value);
    const auto content = manifest.contents.find(field), now = run.file.contents.find(field);
    if (content != manifest.contents.end() && now != run.file.contents.end() && content->second != now->second)
      changes.push_back(fmt::format("{}: another content than before", field));
  }
  return changes;
}

}  // namespace skippipe
