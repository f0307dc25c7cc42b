// What the verb `plan` asks about a plan, and the request that it makes of the answers.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/recompute.h"
#include "kernels/tensor.h"
#include "schedule/search/planner.h"
#include "schedule/search/shapes.h"

namespace skippipe {

// Of PlanOptions::stages: to be chosen.
inline constexpr int kAutoStages = -1;

struct PlanOptions {
  std::string network;  // the file
  int stages = 0;
  std::vector<int> nodes_per_stage;
  std::vector<int> layers;
  int microbatches = 0;  // of each data node
  int batch = 0;         // instead: samples of an iteration
  int samples = 1;
  int tokens = 0;
  std::string model;
  Dtype dtype = Dtype::kF32;
  std::optional<Dtype> wire_dtype;  // none: the same
  Recompute recompute = Recompute::kNone;
  int64_t activation_bytes = 0;
  std::vector<int64_t> stage_gradient_bytes;
  std::optional<std::string> skip;  // none: the default, which gives way where it leaves stages out
  PlanRules rules;
  bool unequal_exposure = false;
  bool no_norm = false;
  std::optional<double> max_replica_delay_s;
  uint64_t seed = 0;
  std::optional<int64_t> evaluations;
  double seconds = 0;
  int threads = 0;
};

// `options` must outlive the verb.
void add_plan_options(CLI::App& verb, PlanOptions& options);

// Reads network and model, and warns if the network was measured for another one. Throws UsageError for options that
// contradict each other, ConfigError and FileError for what they name.
PlanRequest make_plan_request(PlanOptions options);

// The same for `--stages auto`.
ShapeRequest make_shape_request(const PlanOptions& options);

// One line if the plan's paths skip less than the default asks for, else nothing.
std::string describe_skipping(const PlanOptions& options, const PlanRequest& request, const Plan& plan);

// A line if memory holds fewer slots than the network's file says, and one on what computing again takes, if asked for.
std::string describe_slots(const PlanOptions& options, const PlanRequest& request, const Plan& plan);

}  // namespace skippipe
