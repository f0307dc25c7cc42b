#include "engine/run/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/checkpoint/model_files.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxExtent = int64_t{1} << 30;  // of samples, tokens and microbatches, as the sampler's

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

// Products of what files say.
__extension__ using Wide = unsigned __int128;

uint64_t checked_samples(Wide samples, const std::string& what) {
  if (samples > kMaxSamples) throw ConfigError("{}: more than {} samples of the data", what, kMaxSamples);
  return static_cast<uint64_t>(samples);
}

// So that no position overflows.
void check_samples(const TrainingRun& run) {
  const SamplerShape shape = run.sampler_shape();
  const Wide all = Wide{shape.first_sample} + Wide{static_cast<uint64_t>(run.file.iterations)} *
                                                  static_cast<Wide>(shape.microbatches) *
                                                  static_cast<Wide>(shape.batch);
  checked_samples(all, "run.iterations");
}

// Checkpoints from the iteration on that would be taken for the run's own.
void refuse_to_mix(const TrainingRun& run, uint32_t first_iteration, const StartChoice& choice) {
  const fs::path folder = checkpoints_folder(run.file.output);
  std::vector<uint32_t> newer = list_checkpoints(folder);
  std::erase_if(newer, [&](uint32_t iteration) { return iteration <= first_iteration; });
  for (auto iteration = newer.rbegin(); iteration != newer.rend(); ++iteration) {
    const fs::path checkpoint = folder / checkpoint_name(*iteration);
    if (!choice.resumes())
      throw ConfigError("{} is there: --resume goes on from it; to begin anew, remove it or change run.output",
                        checkpoint.string());
    if (!choice.resume_from.empty() && checkpoint_problems(checkpoint).empty())
      throw ConfigError("{} is newer than {}: remove it or change run.output", checkpoint.string(),
                        choice.resume_from.string());
  }
}

// A number of the run file that the checkpoint's run had, or else this one's.
int64_t number_before(const CheckpointManifest& manifest, const std::string& field, int64_t now,
                      const std::string& name) {
  const auto found = manifest.run.find(field);
  if (found == manifest.run.end()) return now;
  const std::string& text = found->second;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > kMaxExtent)
    throw FileError("{}: run: {}: found {}, expected an integer from 1 to {}", name, field, text, kMaxExtent);
  return number;
}

// Of the data, before the checkpoint's next iteration; samples of this run's length.
uint64_t samples_read(const CheckpointManifest& manifest, const TrainingRun& run, const std::string& name) {
  Wide samples = 0;
  if (manifest.samples) {
    samples = *manifest.samples;
  } else {
    const int64_t microbatches = manifest.microbatches > 0 ? manifest.microbatches : std::ssize(run.plan.microbatches);
    samples = Wide{manifest.iteration} * static_cast<Wide>(std::min(microbatches, kMaxExtent)) *
              static_cast<Wide>(number_before(manifest, "data.samples", run.file.samples, name));
  }
  checked_samples(samples, name);
  const int64_t tokens = number_before(manifest, "data.tokens", run.file.tokens, name);
  if (tokens != run.file.tokens) samples = samples * static_cast<Wide>(tokens) / static_cast<Wide>(run.file.tokens);
  return checked_samples(samples, name);
}

// What becomes of the data, where it is more than going on.
void tell_of_data(const CheckpointManifest& manifest, const TrainingRun& run, std::vector<std::string>& changes) {
  if (!manifest.samples)
    changes.push_back(fmt::format(
        "the checkpoint does not say how many samples it has read: {} are taken for read, iterations x "
        "microbatches x samples of {} run",
        run.first_sample, manifest.microbatches > 0 && manifest.run.contains("data.samples") ? "its" : "this"));
  const auto tell_if_changed = [&](const char* field, const std::string& what) {
    const auto before = manifest.run.find(field);
    if (before == manifest.run.end()) return;
    for (const auto& [name, value] : run_file_values(run.file))
      if (name == field && value != before->second) changes.push_back(fmt::format("{}: {}", field, what));
  };
  constexpr const char* kMixed = "of the present epoch, some samples come again and some not before the next";
  tell_if_changed("data.tokens",
                  fmt::format("the data are cut anew, and as many tokens taken for read as were: {}", kMixed));
  tell_if_changed("run.seed", fmt::format("the data are shuffled anew: {}", kMixed));
  tell_if_changed("data.train",
                  fmt::format("if this is another shard, it goes on with sample {}, too", run.first_sample));
}

std::string list_of(const std::vector<int>& numbers) { return fmt::format("{}", fmt::join(numbers, ",")); }

}  // namespace

void choose_start(TrainingRun& run, const StartChoice& choice,
                  const std::function<void(const fs::path&, const std::string& problem)>& on_broken) {
  const auto checkpoint = find_checkpoint(run, choice, on_broken);
  if (!checkpoint) {
    refuse_to_mix(run, 0, choice);
    if (!run.file.weights.empty() && !fs::exists(run.file.weights))
      throw ConfigError("model.weights: {}: no such file or folder", run.file.weights.string());
    return check_samples(run);
  }
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
  run.first_sample = samples_read(manifest, run, name);
  check_samples(run);
  run.file.run_id = mix_bits(run.file.run_id ^ mix_bits(manifest.iteration ^ mix_bits(run.first_sample)));
}

std::vector<std::string> changes_since(const CheckpointManifest& manifest, const TrainingRun& run) {
  std::vector<std::string> changes;
  const auto compare = [&](const std::string& what, const std::string& before, const std::string& now) {
    if (before != now) changes.push_back(fmt::format("{}: {} before, {} now", what, before, now));
  };
  const Plan& plan = run.plan;
  compare("layers per stage", list_of(manifest.layers_per_stage), list_of(plan.workload.stage_layers));
  tell_of_data(manifest, run, changes);
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
