// What a node's tasks take in a stage, in seconds.
#pragma once

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

inline constexpr double kNormMessageBytes = 64;

struct TaskSeconds {
  double forward_s = 0;
  double loss_s = 0;
  double backward_s = 0;
  double step_s = 0;
};

inline TaskSeconds task_seconds(const NetworkNode& node, const Workload& workload, size_t stage) {
  TaskSeconds seconds;
  seconds.forward_s = node.forward_s * workload.stage_layers[stage] * workload.samples;
  seconds.loss_s = node.loss_s ? *node.loss_s * workload.samples : seconds.forward_s * node.loss_over_forward;
  seconds.backward_s = seconds.forward_s * node.backward_over_forward;
  seconds.step_s = node.step_s_per_byte * static_cast<double>(workload.stage_gradient_bytes[stage]);
  return seconds;
}

}  // namespace skippipe
