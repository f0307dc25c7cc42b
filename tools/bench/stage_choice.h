// Which stage is measured, with what microbatch: what the user said, and otherwise what fits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/model/stage.h"
#include "tools/bench/model_shapes.h"

namespace skippipe {

// A model to measure a part of.
struct BenchModel {
  std::string name;  // empty: of no table
  ModelConfig config;
};
BenchModel bench_model(const ModelShape& shape);

// How a stage computes.
struct ComputeWay {
  Dtype dtype = Dtype::kF32;
  Recompute recompute = Recompute::kNone;
};
std::string way_name(const StageSpec& spec);  // "f32", "bf16, recompute block"

struct StageWish {
  BatchShape batch = {};              // samples 0: as many as fit
  std::optional<int> layers = {};     // none: all of the model's, or as many as fit
  int index = 0;                      // of the stage: 0 has embedding and head, others don't
  std::vector<ComputeWay> ways = {};  // in each of which a stage is there at the same time
  int64_t limit_bytes = 0;            // of the device, for all of them
};

// One spec for each way, with one slot and a config of just those layers. The samples that fit are a power of two, on
// the CPU with at most 4,096 tokens and on a GPU with at most 65,536: more are not faster. Layers are left out only
// where not all fit with one sample; then there are as many as fit with eight, or if none does with fewer. Where
// nothing fits, the specs are of the least. Throws ConfigError as Stage::plan_memory does.
std::vector<StageSpec> choose_stage(const BenchModel& model, const StageWish& wish, const Context& context);

// The memory of a stage for training.
MemoryPlan stage_plan(const StageSpec& spec, const Context& context);
// Throws MemoryError, with the numbers, if the context's device or the host now have less.
void check_fits(const MemoryPlan& plan, const Context& context);

}  // namespace skippipe
