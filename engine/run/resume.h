// How a run begins: anew, or from a checkpoint of its own or of another run with the same model.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/run/run.h"

namespace skippipe {

struct StartChoice {
  bool resume = false;                // from the newest whole checkpoint in the run's output folder
  std::filesystem::path resume_from;  // from this one; empty: none is named
  bool is_whole = false;              // a launch has chosen it, and read all of it: its nodes need not do so again

  bool resumes() const { return resume || !resume_from.empty(); }
};

// Sets run.resumed_from, run.first_iteration, run.first_sample and a run id that nodes with another start do not share.
// The plan, the numbers of stages and replicas and every field of the run file may differ from those of the run that
// wrote the checkpoint: the data go on with the next sample, whatever a microbatch and an iteration now have of them.
// With another data.tokens, which cuts the data anew, as many tokens are taken for read as were; of another shard, or
// one that another run.seed shuffles, as many samples. `on_broken` is told of checkpoints that are passed over.
// Throws ConfigError: nothing to resume or to begin with, checkpoints that a new start or an older one would mix with,
// another model, no iterations left; FileError: the checkpoint named is not whole.
void choose_start(TrainingRun& run, const StartChoice& choice,
                  const std::function<void(const std::filesystem::path&, const std::string& problem)>& on_broken = {});

// What is not as it was when the checkpoint was written, a line each; also what that means for the data.
std::vector<std::string> changes_since(const CheckpointManifest& manifest, const TrainingRun& run);

}  // namespace skippipe
