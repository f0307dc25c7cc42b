#include "tools/bench/training_step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/number_text.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/copy.h"
#include "tools/bench/stage_choice.h"
#include "tools/bench/timed_backend.h"

namespace skippipe {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int kProducts = 3;        // beside each step
constexpr int kOperationSteps = 3;  // of which the median counts
// Libraries choose and take what they need in the first, and a stage may record its tasks as graphs in the second.
constexpr int kWarmUps = 2;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

MemoryPlan checked_plan(const StageSpec& spec, const Context& context) {
  MemoryPlan plan = stage_plan(spec, context);
  check_fits(plan, context);
  return plan;
}

double sum_of(const std::map<std::string, double>& operations) {
  return std::accumulate(operations.begin(), operations.end(), 0.0,
                         [](double sum, const auto& operation) { return sum + operation.second; });
}

}  // namespace

double useful_operations(const StageSpec& spec) {
  const ModelConfig& model = spec.config;
  const double tokens = static_cast<double>(spec.batch.samples * spec.batch.tokens);
  const int64_t norms = 2 * model.channels;
  const int64_t weights = model.layers * (model.layer_parameters() - norms) + model.vocabulary * model.channels;
  const double attention = 6 * tokens * static_cast<double>(model.heads * model.head_dim * model.layers) *
                           static_cast<double>(spec.batch.tokens + 1);
  return 6 * tokens * static_cast<double>(weights) + attention;
}

void fill_weights(Stage& stage, Backend& backend) {
  constexpr int64_t kNumbers = 1'048'583;  // a prime, so that the same piece hardly comes twice
  Context& ctx = stage.context();
  MemoryPlan plan(backend.device());
  plan.add(Region::kWorkspace, "numbers", kNumbers * dtype_bytes(Dtype::kF32));
  Slab slab(plan, backend);
  Arena arena(slab.take(Region::kWorkspace, "numbers"));
  const Tensor numbers = arena.take({kNumbers}, Dtype::kF32);
  std::vector<float> values(static_cast<size_t>(kNumbers));
  Random random(kSeed);
  std::ranges::generate(values, [&] { return static_cast<float>(stage.config().initializer_range * random.normal()); });
  copy(ctx, numbers, host_tensor(std::span<const float>(values)));
  const std::vector<float> ones(static_cast<size_t>(stage.config().channels), 1.0f);
  int64_t next = 0;
  for (const Parameter& parameter : stage.parameters()) {
    const int64_t elements = parameter.weight.elements();
    if (parameter.weight.rank() == 1) {
      copy(ctx, parameter.weight, host_tensor(std::span<const float>(ones)));
      continue;
    }
    const Tensor weight = parameter.weight.reshape({elements});
    for (int64_t done = 0; done < elements;) {
      const int64_t count = std::min(elements - done, kNumbers - next);
      copy(ctx, weight.slice(0, done, count), numbers.slice(0, next, count));
      done += count;
      next = (next + count) % kNumbers;
    }
  }
  stage.refresh_weights();
  finish(ctx);
}

std::vector<int32_t> random_ids(const StageSpec& spec, uint64_t stream) {
  Random random(kSeed, {stream});
  std::vector<int32_t> ids(static_cast<size_t>(spec.batch.samples * spec.batch.tokens));
  std::ranges::generate(
      ids, [&] { return static_cast<int32_t>(random.below(static_cast<uint64_t>(spec.config.vocabulary))); });
  return ids;
}

TrainingStep::TrainingStep(const StageSpec& spec, const Context& context) : memory_(checked_plan(spec, context)) {
  slab_ = std::make_unique<Slab>(memory_, *context.backend);
  stage_ = std::make_unique<Stage>(spec, *slab_, context);
  fill_weights(*stage_, *context.backend);
  stage_->set_batch(0, random_ids(spec, 1), random_ids(spec, 2));
}

double TrainingStep::run() {
  stage_->zero_gradients();
  stage_->forward(0);
  const double loss = stage_->loss(0, stage_->output(0)).mean();
  stage_->backward(0, stage_->loss_gradient(0), {});
  AdamWStep adamw;
  adamw.learning_rate = 1e-4f;
  adamw.weight_decay = 0.1f;
  adamw.step = ++steps_done_;
  stage_->step(adamw);
  finish(stage_->context());
  return loss;
}

TimedStep time_operations(const StageSpec& spec, const Context& context) {
  TimedBackend backend(*context.backend);
  Context timed = context;
  timed.backend = &backend;
  TrainingStep step(spec, timed);
  step.stage().use_graphs(false);  // what they replay can't be timed one by one
  (void)step.run();
  std::vector<TimedStep> steps;
  for (int i = 0; i < kOperationSteps; ++i) {
    backend.clear();
    const double begin = now_s();
    (void)step.run();
    const double whole_s = now_s() - begin;
    steps.push_back({backend.device() == Device::kCpu ? whole_s : sum_of(backend.seconds()), backend.seconds()});
  }
  std::ranges::sort(steps, {}, &TimedStep::seconds);
  return steps[kOperationSteps / 2];
}

StepMeasurement::StepMeasurement(const StageSpec& spec, const Context& context)
    : runtime_(context.backend->runtime()), ceiling_(context, spec.dtype), step_(spec, context) {
  first_loss_ = step_.run();
  // That of random weights: logits are normal with variance C init^2, which adds half of it to ln V.
  const ModelConfig& model = spec.config;
  const double spread = static_cast<double>(model.channels) * model.initializer_range * model.initializer_range / 2;
  const double expected = std::log(static_cast<double>(model.vocabulary)) + spread;
  if (!(std::abs(first_loss_ - expected) < 0.5 + spread))
    throw RunError("the first loss is {}, expected about {}", first_loss_, expected);
  for (int i = 1; i < kWarmUps; ++i) (void)step_.run();
}

void StepMeasurement::measure() {
  ceiling_.measure(kProducts);
  if (seconds_.empty()) {
    free_bytes_before_ = runtime_.available_bytes(Place::kDevice);
    allocations_before_ = runtime_.allocations();
  }
  const double begin = now_s();
  last_loss_ = step_.run();
  seconds_.push_back(now_s() - begin);
}

void StepMeasurement::finish() {
  free_bytes_after_ = runtime_.available_bytes(Place::kDevice);
  allocations_ = runtime_.allocations() - allocations_before_;
  if (!std::isfinite(last_loss_))
    throw RunError("the loss went from {} to {}", number_text(first_loss_), number_text(last_loss_));
  if (allocations_ != 0) throw RunError("memory was taken {} times while steps ran, expected never", allocations_);
  std::ranges::sort(seconds_);
}

}  // namespace skippipe
