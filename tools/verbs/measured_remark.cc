#include "tools/verbs/measured_remark.h"

#include <fmt/format.h>

#include "engine/probe/probe.h"

namespace skippipe {

std::string describe_other_measurement(const Network& network, const NetworkUse& use) {
  if (!network.measured_for) return {};
  const std::string difference =
      describe_difference(*network.measured_for, measured_for(use.model, use.batch, use.dtype));
  if (difference.empty()) return {};
  return fmt::format(
      "{} was measured with {}: its seconds are not this run's; to measure again, probe with --config {} "
      "--samples {} --tokens {} --dtype {}",
      use.network_file, difference, use.model_file, use.batch.samples, use.batch.tokens, dtype_name(use.dtype));
}

void warn_of_other_measurement(const TrainingRun& run) {
  const std::string text = describe_other_measurement(run.network, {.network_file = run.file.network.string(),
                                                                    .model_file = run.file.model_config.string(),
                                                                    .model = run.model,
                                                                    .batch = run.batch(),
                                                                    .dtype = run.dtype()});
  if (!text.empty()) fmt::print(stderr, "warning: {}\n", text);
}

void warn_of_other_measurement(const Network& network, const std::string& network_file, const Workload& workload) {
  const bool knows_model = !workload.stage_slot_bytes.empty();
  if (!network.measured_for || !knows_model) return;
  const MeasuredFor& measured = *network.measured_for;
  const double elements = static_cast<double>(measured.samples) * static_cast<double>(measured.tokens) *
                          static_cast<double>(measured.hidden_size);
  const auto has_messages_in = [&](Dtype wire) {
    return static_cast<double>(workload.activation_bytes) == elements * static_cast<double>(dtype_bytes(wire));
  };
  if (measured.samples == workload.samples && (has_messages_in(Dtype::kF32) || has_messages_in(Dtype::kBf16))) return;
  fmt::print(
      stderr,
      "warning: {} was measured with samples {}, tokens {} and hidden_size {}, but the plan's messages are of {} "
      "samples and {} bytes: its seconds are not this run's\n",
      network_file, measured.samples, measured.tokens, measured.hidden_size, workload.samples,
      workload.activation_bytes);
}

}  // namespace skippipe
