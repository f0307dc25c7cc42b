// A whole training step of one process (forward, loss, backward, AdamW), against the rate of the library's matrix
// products measured in the same run.
//
// Useful operations of a step of N = B T tokens, counting a multiplication and an addition as two:
//   6 N P                    P weights of matrices that multiply: of the layers, and the LM head's V C
//   6 B H D T (T+1) L        causal attention: two products forward, four backward, over pairs s <= t only
// Recomputation, norms, activations, the optimizer and the second pass over the logits count as nothing.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <vector>

#include "base/random.h"
#include "engine/memory.h"
#include "engine/stage.h"
#include "kernels/cpu_backend.h"
#include "kernels/matmul.h"
#include "tools/dtype_option.h"
#include "tools/timed_backend.h"

namespace skippipe {
namespace {

struct Options {
  ModelConfig model;
  BatchShape batch{8, 512};
  int threads = 2;
  Dtype dtype = Dtype::kF32;
  int steps = 7;
};

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

double useful_operations(const Options& options) {
  const ModelConfig& model = options.model;
  const double tokens = static_cast<double>(options.batch.samples * options.batch.tokens);
  const int64_t norms = 2 * model.channels;
  const int64_t weights = model.layers * (model.layer_parameters() - norms) + model.vocabulary * model.channels;
  const double attention = 6 * tokens * static_cast<double>(model.heads * model.head_dim * model.layers) *
                           static_cast<double>(options.batch.tokens + 1);
  return 6 * tokens * static_cast<double>(weights) + attention;
}

// Operations per second of a square product.
std::vector<double> matmul_rates(Backend& backend, int threads, int repetitions) {
  constexpr int64_t kSize = 2048;
  Context context;
  context.backend = &backend;
  context.threads = threads;
  std::vector<float> x(kSize * kSize), w(kSize * kSize), y(kSize * kSize);
  Random random(1);
  for (float& value : x) value = static_cast<float>(random.uniform(-1, 1));
  for (float& value : w) value = static_cast<float>(random.uniform(-1, 1));
  const auto matrix = [&](std::vector<float>& values) { return Tensor(values.data(), {kSize, kSize}, Dtype::kF32); };
  std::vector<double> rates;
  for (int i = 0; i <= repetitions; ++i) {
    const double begin = now_s();
    linear_forward(context, matrix(y), matrix(x), matrix(w));
    if (i > 0) rates.push_back(2.0 * kSize * kSize * kSize / (now_s() - begin));  // the first one makes the primitive
  }
  double expected = 0;
  for (int64_t k = 0; k < kSize; ++k) expected += static_cast<double>(x[k]) * static_cast<double>(w[k]);
  SKP_CHECK(std::abs(y[0] - expected) < 1e-2, "the matrix product gives {}, expected {}", y[0], expected);
  return rates;
}

// One process is stage 0 with all the layers.
class Trainer {
 public:
  Trainer(const Options& options, Backend& backend) {
    Context context;
    context.backend = &backend;
    context.threads = options.threads;
    const StageSpec spec{options.model,           {0, 0, static_cast<int>(options.model.layers)},
                         options.batch,           1,
                         StagePurpose::kTraining, options.dtype};
    MemoryPlan plan;
    Stage::plan_memory(plan, spec, context);
    plan.check_fits(available_host_bytes(), "cpu");
    fmt::print("{}", plan.table());
    slab_ = std::make_unique<Slab>(plan);
    stage_ = std::make_unique<Stage>(spec, *slab_, context);
    stage_->initialize(1);
    Random random(2);
    for (const Tensor& ids : {stage_->tokens(0), stage_->targets(0)})
      std::generate_n(ids.as<int32_t>(), ids.elements(), [&] {
        return static_cast<int32_t>(random.below(static_cast<uint64_t>(options.model.vocabulary)));
      });
  }

  // Returns the mean loss before the step.
  double step() {
    stage_->zero_gradients();
    stage_->forward(0);
    const double loss = stage_->loss(0, stage_->output(0)).mean();
    stage_->backward(0, stage_->loss_gradient(0), {});
    AdamWStep adamw;
    adamw.learning_rate = 1e-3f;
    adamw.weight_decay = 0.1f;
    adamw.step = ++steps_;
    stage_->step(adamw);
    return loss;
  }

 private:
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Stage> stage_;
  int64_t steps_ = 0;
};

struct TimedStep {
  double seconds;
  std::map<std::string, double> operations;  // seconds by name
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

void run(const Options& options) {
  fmt::print("machine: {}, {} threads of {}\n", processor_name(), options.threads, omp_get_num_procs());
  const auto inner = make_cpu_backend();
  TimedBackend backend(*inner);
  Trainer trainer(options, backend);
  const double first_loss = trainer.step();
  const double uniform_loss = std::log(static_cast<double>(options.model.vocabulary));
  SKP_CHECK(std::abs(first_loss - uniform_loss) < 0.5, "the first loss is {}, expected about {}", first_loss,
            uniform_loss);

  // Taken in turns, so that both see the same neighbours on the machine.
  std::vector<double> rates;
  std::vector<TimedStep> steps;
  double last_loss = first_loss;
  for (int i = 0; i < options.steps; ++i) {
    const std::vector<double> more = matmul_rates(*inner, options.threads, 3);
    rates.insert(rates.end(), more.begin(), more.end());
    backend.clear();
    const double begin = now_s();
    last_loss = trainer.step();
    steps.push_back({now_s() - begin, backend.seconds()});
  }
  SKP_CHECK(last_loss < first_loss, "the loss went from {} to {}, expected it to fall", first_loss, last_loss);

  std::ranges::sort(steps, {}, &TimedStep::seconds);
  std::ranges::sort(rates);
  const TimedStep& median = steps[steps.size() / 2];
  const double rate = rates[rates.size() / 2];
  print_operations(median);
  const double operations = useful_operations(options), useful = operations / median.seconds;
  const double tokens = static_cast<double>(options.batch.samples * options.batch.tokens);
  fmt::print("\nstep: median {:.3f} s, {:.3f} to {:.3f} ({} steps), {:.0f} tokens/s, loss {:.3f} to {:.3f}\n",
             median.seconds, steps.front().seconds, steps.back().seconds, options.steps, tokens / median.seconds,
             first_loss, last_loss);
  fmt::print("useful: {:.1f} GFLOP per step, {:.1f} GFLOP/s\n", operations * 1e-9, useful * 1e-9);
  fmt::print("matrix product 2048^3: median {:.1f} GFLOP/s, {:.1f} to {:.1f}\n", rate * 1e-9, rates.front() * 1e-9,
             rates.back() * 1e-9);
  fmt::print("useful / matrix product: {:.1f} %\n", 100 * useful / rate);
}

}  // namespace
}  // namespace skippipe

int main(int argc, char** argv) {
  skippipe::Options options;
  options.model.channels = 512;
  options.model.feed_forward = 1376;
  options.model.layers = 8;
  options.model.heads = options.model.kv_heads = 8;
  options.model.vocabulary = 4096;
  options.model.max_positions = 1 << 20;
  CLI::App app("One training step against the rate of matrix products. Example: bench_step --threads 2");
  app.add_option("--threads", options.threads, "Threads")->capture_default_str();
  skippipe::add_dtype_option(app, options.dtype, "Of activations and what is multiplied");
  app.add_option("--steps", options.steps, "Timed steps")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--channels", options.model.channels, "C")->capture_default_str();
  app.add_option("--feed-forward", options.model.feed_forward, "F")->capture_default_str();
  app.add_option("--layers", options.model.layers, "L")->capture_default_str();
  app.add_option("--heads", options.model.heads, "H")->capture_default_str();
  app.add_option("--kv-heads", options.model.kv_heads, "K")->capture_default_str();
  app.add_option("--vocabulary", options.model.vocabulary, "V")->capture_default_str();
  app.add_option("--samples", options.batch.samples, "B")->capture_default_str();
  app.add_option("--tokens", options.batch.tokens, "T")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    options.model.head_dim = options.model.channels / options.model.heads;
    fmt::print("command:");
    for (int i = 0; i < argc; ++i) fmt::print(" {}", argv[i]);
    fmt::print("\n");
    skippipe::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step: {}\n", error.what());
    return 1;
  }
}
