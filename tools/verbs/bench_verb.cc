// skippipe bench: a whole training step of a stage that needs no other, against the rate of the library's matrix
// products measured in the same run; or, with --overlap, what messages beside its tasks cost a stage.
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "engine/model/device.h"
#include "engine/model/model_config.h"
#include "kernels/backend.h"
#include "kernels/cpu_backend.h"
#include "tools/bench/datasheet.h"
#include "tools/bench/model_shapes.h"
#include "tools/bench/overlap.h"
#include "tools/bench/stage_choice.h"
#include "tools/bench/step_report.h"
#include "tools/bench/training_step.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string config;
  std::vector<std::string> shapes;
  DeviceName device;
  std::optional<int64_t> samples, tokens;
  std::optional<int> layers;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::string> dtypes = {"f32"};
  std::vector<std::string> recompute = {"none"};
  int steps = 7;
  bool overlap = false;
  std::string json;
};

// Of what could still be taken; the rest is for what others take meanwhile.
constexpr double kMemoryShare = 0.95;
constexpr OverlapSettings kOverlap;

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

// What RESULTS.md has figures of.
ModelConfig reference_model() {
  ModelConfig model;
  model.channels = 512;
  model.feed_forward = 1376;
  model.layers = 8;
  model.heads = model.kv_heads = 8;
  model.head_dim = 64;
  model.vocabulary = 4096;
  model.max_positions = 1 << 20;
  return model;
}

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const ModelShape& shape : kModelShapes) names.emplace_back(shape.name);
  return names;
}

std::vector<BenchModel> chosen_models(const Options& options) {
  std::vector<BenchModel> models;
  for (const std::string& name : options.shapes)
    models.push_back(bench_model(*std::ranges::find(kModelShapes, name, &ModelShape::name)));
  if (models.empty())
    models.push_back({"", options.config.empty() ? reference_model() : load_model_config(options.config)});
  return models;
}

std::optional<double> datasheet_rate(const DeviceName& device, Dtype dtype) {
  if (device.device != Device::kCuda || dtype != Dtype::kBf16) return std::nullopt;
  for (const CudaDevice& found : find_cuda_devices().list)
    if (found.index == device.index) return datasheet_bf16_rate(found.name);
  return std::nullopt;
}

// A device with what is measured on it.
class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), backend_(make_backend(options.device)), stream_(backend_->runtime()) {
    context_.backend = backend_.get();
    context_.threads = options.threads;
    context_.stream = stream_.get();
    for (const std::string& dtype : options.dtypes)
      for (const std::string& recompute : options.recompute)
        ways_.push_back({parse_compute_dtype(dtype), parse_recompute(recompute)});
  }

  // Of the model, one for each way.
  std::vector<StageSpec> choose_stages(const BenchModel& model) {
    if (!options_.overlap) return choose_stage(model, wish(ceilings_bytes(), 0, ways_), context_);
    std::vector<StageSpec> specs;
    for (const ComputeWay& way : ways_) {
      StageWish asked = wish(4 * kOverlap.message_bytes, 1, {way});
      if (asked.batch.samples == 0) {
        // Then the hidden states are what such a message carries.
        const int64_t sample_bytes = asked.batch.tokens * model.config.channels * dtype_bytes(way.dtype);
        asked.batch.samples = std::max<int64_t>(1, kOverlap.message_bytes / sample_bytes);
      }
      specs.push_back(choose_stage(model, asked, context_).front());
    }
    return specs;
  }

  // One model's steps in each way, in turns.
  std::vector<Json> measure_steps(const BenchModel& model, const std::vector<StageSpec>& specs) {
    print_stage(model, specs.front());
    std::vector<TimedStep> operations;
    for (const StageSpec& spec : specs) operations.push_back(time_operations(spec, context_));
    std::vector<std::unique_ptr<StepMeasurement>> measurements;
    for (const StageSpec& spec : specs) measurements.push_back(std::make_unique<StepMeasurement>(spec, context_));
    for (int i = 0; i < options_.steps; ++i)
      for (const auto& measurement : measurements) measurement->measure();

    std::vector<Json> results;
    for (size_t i = 0; i < measurements.size(); ++i) {
      measurements[i]->finish();
      const StepReport report{*measurements[i], operations[i], datasheet_rate(options_.device, specs[i].dtype)};
      print_report(report);
      results.push_back(report_json(model, report));
    }
    for (size_t i = 1; i < measurements.size(); ++i)
      fmt::print("\n{} over {}: {:.2f} x the tokens/s\n", way_name(specs[i]), way_name(specs[0]),
                 measurements[0]->median_seconds() / measurements[i]->median_seconds());
    return results;
  }

  std::vector<Json> measure_overlaps(const BenchModel& model, const std::vector<StageSpec>& specs) {
    OverlapSettings settings = kOverlap;
    settings.rounds = options_.steps;
    std::vector<Json> results;
    for (const StageSpec& spec : specs) {
      print_stage(model, spec);
      const OverlapResult result = measure_overlap_over_loopback(spec, context_, settings);
      print_overlap(result, settings);
      results.push_back({{"model", model.name},
                         {"layers", spec.config.layers},
                         {"samples", spec.batch.samples},
                         {"tokens", spec.batch.tokens},
                         {"dtype", dtype_name(spec.dtype)},
                         {"recompute", recompute_name(spec.recompute)},
                         {"message_bytes", settings.message_bytes},
                         {"alone_s", result.alone_s},
                         {"beside_s", result.beside_s},
                         {"exchange_s", result.exchange_s},
                         {"slowdown", result.slowdown()}});
    }
    return results;
  }

 private:
  int64_t ceilings_bytes() const {
    int64_t bytes = 0;
    for (const ComputeWay& way : ways_) bytes += Ceiling::memory_bytes(backend_->device(), way.dtype);
    return bytes;
  }

  // A model of no table has the microbatch that it always had.
  StageWish wish(int64_t other_bytes, int stage, std::vector<ComputeWay> ways) const {
    const bool named = !options_.shapes.empty();
    const double available = static_cast<double>(backend_->runtime().available_bytes(Place::kDevice) - other_bytes);
    return {.batch = {options_.samples.value_or(named ? 0 : 8), options_.tokens.value_or(named ? 1024 : 512)},
            .layers = options_.layers,
            .index = stage,
            .ways = std::move(ways),
            .limit_bytes = static_cast<int64_t>(kMemoryShare * available)};
  }

  const Options& options_;
  std::unique_ptr<Backend> backend_;
  OwnedStream stream_;  // of the tasks
  Context context_;
  std::vector<ComputeWay> ways_;
};

void run_bench(Options options) {
  if (!options.json.empty()) require_writable_file(options.json);
  const bool bf16 = std::ranges::find(options.dtypes, "bf16") != options.dtypes.end();
  const ComputeChoice choice{options.device, "--threads", options.threads, bf16 ? Dtype::kBf16 : Dtype::kF32};
  options.threads = usable_threads(choice);
  Bench bench(options);
  const std::vector<BenchModel> models = chosen_models(options);
  std::vector<std::vector<StageSpec>> stages;
  for (const BenchModel& model : models) stages.push_back(bench.choose_stages(model));
  print_cpu_remarks(choice);
  fmt::print("machine: {}, {} threads; instructions for bf16: {}\n", processor_name(), options.threads,
             cpu_has_bf16() ? "yes" : "no");
  fmt::print("device: {}\n", describe_device(options.device));
  Json results = Json::array();
  for (size_t i = 0; i < models.size(); ++i)
    for (const Json& result :
         options.overlap ? bench.measure_overlaps(models[i], stages[i]) : bench.measure_steps(models[i], stages[i]))
      results.push_back(result);
  if (options.json.empty()) return;
  const Json document = {{"format", "skippipe-bench"},  {"version", 2},
                         {"machine", processor_name()}, {"device", describe_device(options.device)},
                         {"threads", options.threads},  {"measured", options.overlap ? "overlap" : "steps"},
                         {"results", results}};
  write_file_atomically(options.json, document.dump(2) + "\n");
}

}  // namespace

void add_bench_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "Speed and memory of one training step on a device");
  add_device_option(*verb, options->device);
  CLI::Option* config = verb->add_option("--config", options->config,
                                         "the model's config.json (default: C=512, H=8, F=1376, L=8, V=4096)");
  verb->add_option("--shape", options->shapes, "models by name instead, such as 1.5B,8B")
      ->delimiter(',')
      ->transform(CLI::IsMember(shape_names(), CLI::ignore_case))
      ->excludes(config);
  verb->add_option("--layers", options->layers,
                   "of a stage with as many (default: all, or of a --shape those that fit)")
      ->check(CLI::Range(1, 1 << 16));
  verb->add_option("--samples", options->samples, "samples of a step (default: 8; of a --shape as many as fit)")
      ->check(CLI::Range(1, 1 << 16));
  verb->add_option("--tokens", options->tokens, "tokens of a sample (default: 512; of a --shape 1024)")
      ->check(CLI::Range(1, 1 << 24));
  verb->add_option("--threads", options->threads, "default: one per core")->check(CLI::Range(1, 4096));
  verb->add_option("--dtype", options->dtypes, "what it computes in; several are measured in turns: f32,bf16")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  verb->add_option("--recompute", options->recompute,
                   "what backward computes again, as the run file's compute.recompute; several are measured in turns: "
                   "none,attention,block")
      ->delimiter(',')
      ->check(CLI::IsMember({"none", "attention", "block"}))
      ->capture_default_str();
  verb->add_option("--steps", options->steps, "steps that are timed; with --overlap rounds of 8 microbatches")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_flag("--overlap", options->overlap,
                 "instead: how much slower a stage's forward and backward are while it sends and receives 64 MiB");
  verb->add_option("--json", options->json, "also write the figures to this file");
  verb->footer("Example: skippipe bench --device cuda:0 --shape 500M,1.5B --dtype bf16");
  verb->callback([options] { run_bench(*options); });
}

}  // namespace skippipe
