// A whole model in one process, cut into stages, for what needs no network: evaluation and measurements.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "kernels/backend.h"

namespace skippipe {

// Owns backend, memory and stages, one slot each, all on one device. One thread.
class LocalModel {
 public:
  // Weights begin as zeros; dtype: StageSpec's. Throws ConfigError, MemoryError.
  LocalModel(std::unique_ptr<Backend> backend, const ModelConfig& config, std::span<const int> layers_per_stage,
             const BatchShape& batch, int threads, StagePurpose purpose, Dtype dtype = Dtype::kF32);

  int stages() const { return static_cast<int>(stages_.size()); }
  Stage& stage(int index) { return *stages_.at(static_cast<size_t>(index)); }

  // Runs the stages of a path but the first, whose forward ran before, and which may be used again; returns the hidden
  // state (B,T,C) of the last, valid until the next run.
  ConstTensor forward_from_first(std::span<const int> path);

  // Waits for what the stages have queued, all on one stream.
  void finish();

 private:
  std::unique_ptr<Backend> backend_;
  OwnedStream stream_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace skippipe
