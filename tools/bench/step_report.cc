#include "tools/bench/step_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/model/memory.h"

namespace skippipe {
namespace {

// Rates, in operations per second.
struct Rates {
  explicit Rates(const StepReport& report) {
    const std::vector<double> products = report.measurement.product_rates();
    slowest_product = products.front();
    product = products[products.size() / 2];
    fastest_product = products.back();
    useful = useful_operations(report.measurement.spec()) / report.measurement.median_seconds();
  }
  double useful, product, slowest_product, fastest_product;
};

double tokens_per_second(const StepMeasurement& measurement) {
  const BatchShape& batch = measurement.spec().batch;
  return static_cast<double>(batch.samples * batch.tokens) / measurement.median_seconds();
}

void print_operations(const TimedStep& step, Device device) {
  fmt::print("\n{:<24} {:>10} {:>7}\n", "one by one", "ms", "share");
  std::vector<std::pair<std::string, double>> rows(step.operation_s.begin(), step.operation_s.end());
  std::ranges::sort(rows, std::greater{}, &std::pair<std::string, double>::second);
  double rest_s = step.seconds;
  for (const auto& [name, seconds] : rows) rest_s -= seconds;
  if (device == Device::kCpu) rows.emplace_back("between operations", rest_s);
  rows.emplace_back("sum", step.seconds);
  for (const auto& [name, seconds] : rows)
    fmt::print("{:<24} {:>10.2f} {:>6.1f}%\n", name, 1e3 * seconds, 100 * seconds / step.seconds);
}

}  // namespace

void print_stage(const BenchModel& model, const StageSpec& spec) {
  const ModelConfig& c = model.config;
  const ModelConfig& part = spec.config;
  fmt::print("\nmodel: {}C={}, F={}, L={}, H={}, K={}, D={}, V={}, {} embeddings, {:.1f} M parameters\n",
             model.name.empty() ? "" : model.name + ", ", c.channels, c.feed_forward, c.layers, c.heads, c.kv_heads,
             c.head_dim, c.vocabulary, c.tied_embeddings ? "tied" : "untied",
             1e-6 * static_cast<double>(c.parameters()));
  if (part.layers != c.layers)
    fmt::print(
        "NOT the whole model: a stage with {} of its {} layers{}; tokens/s are this stage's\n", part.layers, c.layers,
        spec.layout.index == 0
            ? fmt::format(", embedding and head, {:.1f} M parameters", 1e-6 * static_cast<double>(part.parameters()))
            : "");
  fmt::print("a microbatch has {} x {} tokens{}\n", spec.batch.samples, spec.batch.tokens,
             spec.layout.index == 0 ? "" : ", " + way_name(spec));
}

void print_report(const StepReport& report) {
  const StepMeasurement& measurement = report.measurement;
  const std::vector<double>& seconds = measurement.seconds();
  const double step_s = measurement.median_seconds(), operations = useful_operations(measurement.spec());
  const Rates rates(report);
  fmt::print("\n{}\n{}", way_name(measurement.spec()), measurement.memory().table());
  if (measurement.memory().device() != Device::kCpu)
    fmt::print("free on the device: {} before the steps, {} after\n", human_bytes(measurement.free_bytes_before()),
               human_bytes(measurement.free_bytes_after()));
  print_operations(report.operations, measurement.memory().device());
  fmt::print("\nstep: median {:.4f} s, {:.4f} to {:.4f} ({} steps), {:.0f} tokens/s, loss {:.3f} to {:.3f}\n", step_s,
             seconds.front(), seconds.back(), seconds.size(), tokens_per_second(measurement), measurement.first_loss(),
             measurement.last_loss());
  fmt::print("allocations while steps ran: {}\n", measurement.allocations());
  fmt::print("useful: {:.1f} GFLOP per step, {:.1f} GFLOP/s\n", operations * 1e-9, rates.useful * 1e-9);
  const int64_t size = Ceiling::size(measurement.memory().device());
  fmt::print("matrix product {}^3: median {:.1f} GFLOP/s, {:.1f} to {:.1f}\n", size, rates.product * 1e-9,
             rates.slowest_product * 1e-9, rates.fastest_product * 1e-9);
  fmt::print("useful / matrix product: {:.1f} %\n", 100 * rates.useful / rates.product);
  if (report.datasheet_rate)
    fmt::print("useful / data sheet's {:.1f} TFLOP/s: {:.1f} %\n", 1e-12 * *report.datasheet_rate,
               100 * rates.useful / *report.datasheet_rate);
}

nlohmann::ordered_json report_json(const BenchModel& model, const StepReport& report) {
  const StepMeasurement& measurement = report.measurement;
  const StageSpec& spec = measurement.spec();
  const Rates rates(report);
  nlohmann::ordered_json json = {{"model", model.name},
                                 {"model_layers", model.config.layers},
                                 {"layers", spec.config.layers},
                                 {"parameters", spec.config.parameters()},
                                 {"samples", spec.batch.samples},
                                 {"tokens", spec.batch.tokens},
                                 {"dtype", dtype_name(spec.dtype)},
                                 {"recompute", recompute_name(spec.recompute)},
                                 {"step_s", measurement.median_seconds()},
                                 {"steps_s", measurement.seconds()},
                                 {"tokens_per_s", tokens_per_second(measurement)},
                                 {"useful_flop_per_s", rates.useful},
                                 {"matrix_product_flop_per_s", rates.product},
                                 {"share_of_ceiling", rates.useful / rates.product},
                                 {"memory_bytes", measurement.memory().total_bytes()},
                                 {"allocations", measurement.allocations()},
                                 {"operations_s", report.operations.operation_s}};
  if (report.datasheet_rate) {
    json["datasheet_flop_per_s"] = *report.datasheet_rate;
    json["share_of_datasheet"] = rates.useful / *report.datasheet_rate;
  }
  return json;
}

}  // namespace skippipe
