// What `skippipe bench` says of training steps.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "tools/bench/stage_choice.h"
#include "tools/bench/training_step.h"

namespace skippipe {

struct StepReport {
  const StepMeasurement& measurement;  // finished
  TimedStep operations;
  std::optional<double> datasheet_rate;  // of the device in the measured dtype
};

// "model: 8B (C=4096, ...), ...": sizes, and how much of the model the stage has.
void print_stage(const BenchModel& model, const StageSpec& spec);
void print_report(const StepReport& report);
nlohmann::ordered_json report_json(const BenchModel& model, const StepReport& report);

}  // namespace skippipe
