// skippipe bench: a whole training step of one process (forward, loss, backward, AdamW), against the rate of the
// library's matrix products measured in the same run.
//
// Useful operations of a step of N = B T tokens, counting a multiplication and an addition as two:
//   6 N P                    P weights of matrices that multiply: of the layers, and the LM head's V C
//   6 B H D T (T+1) L        causal attention: two products forward, four backward, over pairs s <= t only
// Recomputation, norms, activations, the optimizer and the second pass over the logits count as nothing.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/device.h"
#include "engine/memory.h"
#include "engine/stage.h"
#include "kernels/cpu_backend.h"
#include "kernels/elementwise.h"
#include "kernels/host_runtime.h"
#include "kernels/matmul.h"
#include "tools/timed_backend.h"
#include "tools/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string config;
  BatchShape batch{8, 512};
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::string> dtypes = {"f32"};
  std::vector<std::string> recompute = {"none"};
  int steps = 7;
  std::string json;
};

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

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

double useful_operations(const ModelConfig& model, const BatchShape& batch) {
  const double tokens = static_cast<double>(batch.samples * batch.tokens);
  const int64_t norms = 2 * model.channels;
  const int64_t weights = model.layers * (model.layer_parameters() - norms) + model.vocabulary * model.channels;
  const double attention = 6 * tokens * static_cast<double>(model.heads * model.head_dim * model.layers) *
                           static_cast<double>(batch.tokens + 1);
  return 6 * tokens * static_cast<double>(weights) + attention;
}

// Rates of a square product of the library in one dtype.
class Ceiling {
 public:
  static constexpr int64_t kSize = 2048;

  Ceiling(Backend& backend, int threads, Dtype dtype) : dtype_(dtype) {
    context_.backend = &backend;
    context_.threads = threads;
    Random random(1);
    for (Buffer* buffer : {&x_, &w_, &y_}) {
      std::vector<float> values(kSize * kSize);
      std::ranges::generate(values, [&] { return static_cast<float>(random.uniform(-1, 1)); });
      buffer->resize(static_cast<size_t>(kSize * kSize * dtype_bytes(dtype)));
      cast(context_, matrix(*buffer), Tensor(values.data(), {kSize, kSize}, Dtype::kF32));
    }
    measure(1);  // makes the primitive
    rates_.clear();
  }

  void measure(int repetitions) {
    for (int i = 0; i < repetitions; ++i) {
      const double begin = now_s();
      linear_forward(context_, matrix(y_), matrix(x_), matrix(w_));
      rates_.push_back(2.0 * kSize * kSize * kSize / (now_s() - begin));
    }
  }
  // Operations per second, ascending.
  std::vector<double> rates() const {
    std::vector<double> sorted = rates_;
    std::ranges::sort(sorted);
    return sorted;
  }

 private:
  using Buffer = std::vector<std::byte>;
  Tensor matrix(Buffer& buffer) const { return {buffer.data(), {kSize, kSize}, dtype_}; }

  Dtype dtype_;
  Context context_;
  Buffer x_, w_, y_;
  std::vector<double> rates_;
};

struct TimedStep {
  double seconds;
  std::map<std::string, double> operations;  // seconds by name
};

// A model in one process, which is stage 0 with all the layers, and what its steps took.
class Trainer {
 public:
  Trainer(const Options& options, const ModelConfig& model, Dtype dtype, Recompute recompute)
      : dtype_(dtype), recompute_(recompute), backend_(*inner_), ceiling_(*inner_, options.threads, dtype) {
    Context context;
    context.backend = &backend_;
    context.threads = options.threads;
    const StageSpec spec{
        model, {0, 0, static_cast<int>(model.layers)}, options.batch, 1, StagePurpose::kTraining, dtype, recompute};
    Stage::plan_memory(memory_, spec, context);
    memory_.check_fits({available_host_bytes(), 0}, "cpu");
    slab_ = std::make_unique<Slab>(memory_, *inner_);
    stage_ = std::make_unique<Stage>(spec, *slab_, context);
    stage_->initialize(1);
    Random random(2);
    std::vector<int32_t> tokens(static_cast<size_t>(options.batch.samples * options.batch.tokens)),
        targets(tokens.size());
    for (std::vector<int32_t>* ids : {&tokens, &targets})
      std::ranges::generate(
          *ids, [&] { return static_cast<int32_t>(random.below(static_cast<uint64_t>(model.vocabulary))); });
    stage_->set_batch(0, tokens, targets);
    first_loss_ = step();
    // That of random weights: logits are normal with variance C init^2, which adds half of it to ln V.
    const double spread = static_cast<double>(model.channels) * model.initializer_range * model.initializer_range / 2;
    const double expected = std::log(static_cast<double>(model.vocabulary)) + spread;
    SKP_CHECK(std::abs(first_loss_ - expected) < 0.5 + spread, "the first loss is {}, expected about {}", first_loss_,
              expected);
  }

  // One step, and products beside it, so that both see the same neighbours on the machine.
  void measure() {
    ceiling_.measure(3);
    backend_.clear();
    const double begin = now_s();
    last_loss_ = step();
    steps_.push_back({now_s() - begin, backend_.seconds()});
  }

  void finish() {
    SKP_CHECK(std::isfinite(last_loss_), "the loss went from {} to {}", first_loss_, last_loss_);
    std::ranges::sort(steps_, {}, &TimedStep::seconds);
  }

  Dtype dtype() const { return dtype_; }
  Recompute recompute() const { return recompute_; }
  // "f32", "f32, recompute block"
  std::string name() const {
    if (recompute_ == Recompute::kNone) return dtype_name(dtype_);
    return fmt::format("{}, recompute {}", dtype_name(dtype_), recompute_name(recompute_));
  }
  const MemoryPlan& memory() const { return memory_; }
  const std::vector<TimedStep>& steps() const { return steps_; }  // after finish: fastest first
  const TimedStep& median() const { return steps_[steps_.size() / 2]; }
  std::vector<double> product_rates() const { return ceiling_.rates(); }
  double first_loss() const { return first_loss_; }
  double last_loss() const { return last_loss_; }

 private:
  // Returns the mean loss before the step.
  double step() {
    stage_->zero_gradients();
    stage_->forward(0);
    const double loss = stage_->loss(0, stage_->output(0)).mean();
    stage_->backward(0, stage_->loss_gradient(0), {});
    AdamWStep adamw;
    adamw.learning_rate = 1e-3f;
    adamw.weight_decay = 0.1f;
    adamw.step = ++steps_done_;
    stage_->step(adamw);
    return loss;
  }

  const Dtype dtype_;
  const Recompute recompute_;
  const std::unique_ptr<Backend> inner_ = make_cpu_backend();
  TimedBackend backend_;
  Ceiling ceiling_;
  MemoryPlan memory_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Stage> stage_;
  std::vector<TimedStep> steps_;
  int64_t steps_done_ = 0;
  double first_loss_ = 0, last_loss_ = 0;
};

void print_operations(const TimedStep& step) {
  fmt::print("\n{:<24} {:>10} {:>7}\n", "in the median step", "ms", "share");
  std::vector<std::pair<std::string, double>> rows(step.operations.begin(), step.operations.end());
  std::ranges::sort(rows, std::greater{}, &std::pair<std::string, double>::second);
  double rest_s = step.seconds;
  for (const auto& [name, seconds] : rows) rest_s -= seconds;
  rows.emplace_back("between operations", rest_s);
  for (const auto& [name, seconds] : rows)
    fmt::print("{:<24} {:>10.2f} {:>6.1f}%\n", name, 1e3 * seconds, 100 * seconds / step.seconds);
}

// Prints what was measured of one way to compute and returns it.
nlohmann::ordered_json report(const Trainer& trainer, double operations, double tokens) {
  const TimedStep& median = trainer.median();
  const std::vector<double> rates = trainer.product_rates();
  const double rate = rates[rates.size() / 2], useful = operations / median.seconds;
  fmt::print("\n{}\n{}", trainer.name(), trainer.memory().table());
  print_operations(median);
  fmt::print("\nstep: median {:.3f} s, {:.3f} to {:.3f} ({} steps), {:.0f} tokens/s, loss {:.3f} to {:.3f}\n",
             median.seconds, trainer.steps().front().seconds, trainer.steps().back().seconds, trainer.steps().size(),
             tokens / median.seconds, trainer.first_loss(), trainer.last_loss());
  fmt::print("useful: {:.1f} GFLOP per step, {:.1f} GFLOP/s\n", operations * 1e-9, useful * 1e-9);
  fmt::print("matrix product {}^3: median {:.1f} GFLOP/s, {:.1f} to {:.1f}\n", Ceiling::kSize, rate * 1e-9,
             rates.front() * 1e-9, rates.back() * 1e-9);
  fmt::print("useful / matrix product: {:.1f} %\n", 100 * useful / rate);
  std::vector<double> seconds;
  for (const TimedStep& step : trainer.steps()) seconds.push_back(step.seconds);
  return {{"dtype", dtype_name(trainer.dtype())},
          {"recompute", recompute_name(trainer.recompute())},
          {"step_s", median.seconds},
          {"steps_s", seconds},
          {"tokens_per_s", tokens / median.seconds},
          {"useful_flop_per_s", useful},
          {"matrix_product_flop_per_s", rate},
          {"share_of_ceiling", useful / rate},
          {"memory_bytes", trainer.memory().total_bytes()},
          {"operations_s", median.operations}};
}

void bench(const Options& options) {
  const ModelConfig model = options.config.empty() ? reference_model() : load_model_config(options.config);
  fmt::print("machine: {}, {} threads; instructions for bf16: {}\n", processor_name(), options.threads,
             cpu_has_bf16() ? "yes" : "no");
  fmt::print("device: {}\n", describe_device({}));
  fmt::print("model: {:.1f} M parameters; a step has {} x {} tokens\n", static_cast<double>(model.parameters()) * 1e-6,
             options.batch.samples, options.batch.tokens);
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (const std::string& dtype : options.dtypes)
    for (const std::string& recompute : options.recompute)
      trainers.push_back(
          std::make_unique<Trainer>(options, model, parse_compute_dtype(dtype), parse_recompute(recompute)));
  for (int i = 0; i < options.steps; ++i)
    for (const auto& trainer : trainers) trainer->measure();

  const double tokens = static_cast<double>(options.batch.samples * options.batch.tokens);
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const auto& trainer : trainers) {
    trainer->finish();
    results.push_back(report(*trainer, useful_operations(model, options.batch), tokens));
  }
  for (size_t i = 1; i < trainers.size(); ++i)
    fmt::print("\n{} over {}: {:.2f} x the tokens/s\n", trainers[i]->name(), trainers[0]->name(),
               trainers[0]->median().seconds / trainers[i]->median().seconds);
  if (options.json.empty()) return;
  const nlohmann::ordered_json document = {{"format", "skippipe-bench"},
                                           {"version", 1},
                                           {"machine", processor_name()},
                                           {"threads", options.threads},
                                           {"samples", options.batch.samples},
                                           {"tokens", options.batch.tokens},
                                           {"results", results}};
  write_file_atomically(options.json, document.dump(2) + "\n");
}

}  // namespace

void add_bench_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "Speed and memory of one training step on this device");
  verb->add_option("--config", options->config, "the model's config.json (default: C=512, H=8, F=1376, L=8, V=4096)");
  verb->add_option("--samples", options->batch.samples, "samples of a step")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb->add_option("--tokens", options->batch.tokens, "tokens of a sample")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
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
  verb->add_option("--steps", options->steps, "steps that are timed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_option("--json", options->json, "also write the figures to this file");
  verb->footer("Example: skippipe bench --config config.json --samples 4 --tokens 512 --dtype f32,bf16");
  verb->callback([options] { bench(*options); });
}

}  // namespace skippipe
