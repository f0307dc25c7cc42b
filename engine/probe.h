// What this device needs for the tasks of a model, measured: what plans are made from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_config.h"
#include "engine/stage.h"
#include "schedule/network.h"

namespace skippipe {

// Seconds; quartiles over the repetitions.
struct Measured {
  double median_s = 0;
  double low_s = 0;   // a quarter of the repetitions are faster
  double high_s = 0;  // a quarter are slower
};
// Of at least one value.
Measured quartiles(std::vector<double> seconds);

struct ProbeSettings {
  BatchShape batch;  // of a microbatch
  Dtype dtype = Dtype::kF32;
  int layers_per_stage = 1;  // of the stages that are measured
  int threads = 1;
  int repetitions = 15;
};

// Times of one task of a stage with layers_per_stage layers and one microbatch.
struct ProbeResult {
  Measured forward;
  Measured backward;
  Measured loss;  // LM head, cross-entropy and their gradients
  Measured step;
  int64_t step_gradient_bytes = 0;  // of the stage whose step was measured

  // The fields of NetworkNode of the same names.
  double forward_s = 0;
  double backward_over_forward = 0;
  double loss_over_forward = 0;
  double step_s_per_byte = 0;
};

// Runs forward, loss, backward and step of random weights and tokens; the first runs are not counted. A few seconds for
// small models. Throws ConfigError, MemoryError.
ProbeResult probe(const ModelConfig& config, const ProbeSettings& settings);

// Sets the measured fields of a node.
void apply(NetworkNode& node, const ProbeResult& result);

}  // namespace skippipe
