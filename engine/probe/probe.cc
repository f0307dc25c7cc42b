#include "engine/probe/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "engine/inference/local_model.h"
#include "engine/probe/slots.h"

namespace skippipe {
namespace {

constexpr int kWarmUps = 2;
constexpr uint64_t kSeed = 1;
constexpr int kInner = 1;  // the stage between others, as most are; stage 0 has the loss

// Until the device has done it.
double seconds_of(LocalModel& model, const auto& task) {
  model.finish();
  const auto start = std::chrono::steady_clock::now();
  task();
  model.finish();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<int32_t> random_ids(const BatchShape& batch, int64_t vocabulary, uint64_t stream) {
  Random random(kSeed, {stream});
  std::vector<int32_t> ids(static_cast<size_t>(batch.samples * batch.tokens));
  std::ranges::generate(ids, [&] { return static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))); });
  return ids;
}

struct Samples {
  std::vector<double> forward, backward, loss, step;
};

// One round of all tasks, in the order of an iteration.
void run_round(LocalModel& model, int64_t iteration, Samples& samples) {
  Stage& first = model.stage(0);
  Stage& inner = model.stage(kInner);
  const std::vector<int> path = {0, kInner};
  AdamWStep step;
  step.learning_rate = 1e-4f;
  step.step = iteration + 1;
  first.forward(0);
  ConstTensor hidden;
  samples.forward.push_back(seconds_of(model, [&] { hidden = model.forward_from_first(path); }));
  samples.loss.push_back(seconds_of(model, [&] { first.loss(0, hidden); }));
  samples.backward.push_back(
      seconds_of(model, [&] { inner.backward(0, first.loss_gradient(0), inner.output_gradient(0)); }));
  samples.step.push_back(seconds_of(model, [&] { inner.step(step); }));
  inner.zero_gradients();
  first.zero_gradients();
}

// Room for slots of the stage that needs most, stage 0.
int count_slots(ModelConfig config, const ProbeSettings& settings, Backend& backend, const AvailableMemory& memory) {
  Context context;
  context.backend = &backend;
  context.threads = settings.threads;
  config.layers = settings.layers_per_stage;
  const StageSpec spec{.config = config,
                       .layout = {.index = 0, .first_layer = 0, .layer_count = settings.layers_per_stage},
                       .batch = settings.batch,
                       .dtype = settings.dtype};
  return fitting_slots(spec, context, memory, settings.most_slots);
}

// This node's part of what all nodes on the machine share, unless it may take less.
AvailableMemory part_of_memory(Runtime& runtime, int nodes_on_machine) {
  const AvailableMemory own = runtime.available(Place::kDevice);
  AvailableMemory part = runtime.available_to_all(Place::kDevice);
  if (nodes_on_machine > 1)
    part = {part.bytes / nodes_on_machine, fmt::format("1/{} of {}", nodes_on_machine, part.bound)};
  return own.bytes < part.bytes ? own : part;
}

}  // namespace

ProbeResult probe(const ModelConfig& config, const ProbeSettings& settings) {
  if (settings.repetitions < 1) throw ConfigError("probe: {} repetitions, expected at least 1", settings.repetitions);
  if (settings.layers_per_stage < 1)
    throw ConfigError("probe: {} layers per stage, expected at least 1", settings.layers_per_stage);
  if (settings.nodes_on_machine < 1)
    throw ConfigError("probe: {} nodes on this machine, expected at least 1", settings.nodes_on_machine);
  ProbeResult result;
  auto backend = make_backend(settings.device);
  const AvailableMemory memory = part_of_memory(backend->runtime(), settings.nodes_on_machine);
  result.memory_bytes = memory.bytes;
  result.device = settings.device.to_string();
  result.slots = settings.most_slots;
  result.fitting_slots = count_slots(config, settings, *backend, memory);
  // Stage 0 with one layer for the loss, and one stage as planned; the time of a layer is the same at any depth.
  const std::vector<int> layers = {1, settings.layers_per_stage};
  ModelConfig measured_config = config;
  measured_config.layers = 1 + settings.layers_per_stage;
  LocalModel model(std::move(backend), measured_config, layers, settings.batch, settings.threads,
                   StagePurpose::kTraining, settings.dtype);
  for (int i = 0; i < model.stages(); ++i) model.stage(i).initialize(kSeed);
  model.stage(0).set_batch(0, random_ids(settings.batch, config.vocabulary, 1),
                           random_ids(settings.batch, config.vocabulary, 2));

  Samples samples;
  for (int i = 0; i < kWarmUps; ++i) run_round(model, i, samples);
  samples = {};
  for (int i = 0; i < settings.repetitions; ++i) run_round(model, kWarmUps + i, samples);

  result.forward = quartiles(samples.forward);
  result.backward = quartiles(samples.backward);
  result.loss = quartiles(samples.loss);
  result.step = quartiles(samples.step);
  result.step_gradient_bytes = model.stage(kInner).gradients().bytes();
  result.forward_s = result.forward.median / static_cast<double>(settings.layers_per_stage * settings.batch.samples);
  result.backward_over_forward = result.backward.median / result.forward.median;
  result.loss_s = result.loss.median / static_cast<double>(settings.batch.samples);
  result.step_s_per_byte = result.step.median / static_cast<double>(result.step_gradient_bytes);
  return result;
}

MeasuredFor measured_for(const ModelConfig& config, const BatchShape& batch, Dtype dtype) {
  return {.hidden_size = config.channels,
          .intermediate_size = config.feed_forward,
          .num_attention_heads = config.heads,
          .num_key_value_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .vocab_size = config.vocabulary,
          .samples = batch.samples,
          .tokens = batch.tokens,
          .dtype = std::string(dtype_name(dtype))};
}

void apply(NetworkNode& node, const ProbeResult& result) {
  node.device = result.device;
  node.forward_s = result.forward_s;
  node.backward_over_forward = result.backward_over_forward;
  node.loss_s = result.loss_s;
  node.step_s_per_byte = result.step_s_per_byte;
  node.memory_bytes = result.memory_bytes;
  node.slots = result.slots;
  node.slots_from_memory = false;
}

}  // namespace skippipe
