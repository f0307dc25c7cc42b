// What this device needs for the tasks of a model, measured: what plans are made from.
#pragma once

#include <cstdint>
#include <string>

#include "engine/model/device.h"
#include "engine/model/model_config.h"
#include "engine/model/stage.h"
#include "engine/probe/quartiles.h"
#include "schedule/plan/measured_for.h"
#include "schedule/plan/network.h"

namespace skippipe {

struct ProbeSettings {
  BatchShape batch;  // of a microbatch
  DeviceName device = {};
  Dtype dtype = Dtype::kF32;
  int layers_per_stage = 1;  // of the stages that are measured
  int threads = 1;
  int repetitions = 15;
  int most_slots = 8;        // that a plan may count on, however much memory there is: more are of little use
  int nodes_on_machine = 1;  // that share its memory
};

struct ProbeResult {
  // Seconds of one task of a stage with layers_per_stage layers and one microbatch.
  Quartiles forward;
  Quartiles backward;
  Quartiles loss;  // LM head, cross-entropy and their gradients
  Quartiles step;
  int64_t step_gradient_bytes = 0;  // of the stage whose step was measured

  // The fields of NetworkNode of the same names.
  std::string device;
  double forward_s = 0;
  double backward_over_forward = 0;
  double loss_s = 0;  // per sample
  double step_s_per_byte = 0;
  int64_t memory_bytes = 0;  // available when the probe began, this node's part
  int slots = 0;             // at most so many: most_slots
  int fitting_slots = 0;  // of them, what memory holds with these layers, whichever stage it is (engine/probe/slots.h)
};

// What the figures of a probe are for.
MeasuredFor measured_for(const ModelConfig& config, const BatchShape& batch, Dtype dtype);

// Runs forward, loss, backward and step of random weights and tokens; the first runs are not counted. A few seconds for
// small models. Throws ConfigError, MemoryError (not even one slot fits).
ProbeResult probe(const ModelConfig& config, const ProbeSettings& settings);

// Sets the measured fields of a node.
void apply(NetworkNode& node, const ProbeResult& result);

}  // namespace skippipe
