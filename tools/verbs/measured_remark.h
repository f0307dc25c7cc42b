// A network whose seconds were measured for another model or microbatch than is planned or trained.
#pragma once

#include <string>

#include "engine/run/run.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// What is asked of a network, and in which files that is said.
struct NetworkUse {
  std::string network_file;
  std::string model_file;
  ModelConfig model;
  BatchShape batch;
  Dtype dtype;
};

// "network.json was measured with tokens 32 (here 2048): ...", and the `probe` that measures again; empty: the network
// does not say what it was measured for, or it was for this.
std::string describe_other_measurement(const Network& network, const NetworkUse& use);
// That of a run, as a warning on standard error.
void warn_of_other_measurement(const TrainingRun& run);
// The same of a plan, as far as its messages tell the model and microbatch that it was made for.
void warn_of_other_measurement(const Network& network, const std::string& network_file, const Workload& workload);

}  // namespace skippipe
