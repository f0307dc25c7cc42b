// Metrics of a run as JSON lines, one per iteration.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/log.h"
#include "engine/files/sampler.h"
#include "engine/node/node.h"

namespace skippipe {

// A reader may follow: every line is in the file at once, or not at all. A line that can't be written (a full disk) is
// lost, which is told once: training goes on. One thread.
class MetricsWriter {
 public:
  // Of a run that reads its data so. Keeps the lines of the iterations before its first one; begins the file anew where
  // that is 0. Throws FileError.
  MetricsWriter(const std::filesystem::path& path, const SamplerShape& data, Logger logger);
  // {"iteration": 0, "iterations_done": 1, "loss": ..., "gradient_norm": ..., "learning_rate": ..., "seconds": ...,
  //  "tokens": ..., "tokens_per_s": ..., "busy_share": ..., "busy_s": [...], "samples": ...}
  // iteration is its index, as in traces; iterations_done counts the optimizer steps, as progress and checkpoints'
  // names do; busy_s is by node; samples are those that the run has read so far. Where a validation followed, also
  // "validation_loss", "validation_path_loss" (along the plan's paths, if these are not all stages in order) and
  // "validation_seconds", which are not in "seconds".
  void write(const IterationReport& report);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  SamplerShape data_;
  Logger logger_;
  bool told_ = false;
  uint64_t bytes_ = 0;  // of whole lines
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace skippipe
