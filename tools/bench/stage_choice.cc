#include "tools/bench/stage_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/backend.h"

namespace skippipe {
namespace {

constexpr int64_t kSamplesForLayers = 8;

std::vector<StageSpec> specs_of(const BenchModel& model, const StageWish& wish, int layers, int64_t samples) {
  std::vector<StageSpec> specs;
  for (const auto& [dtype, recompute] : wish.ways) {
    StageSpec spec{.config = model.config,
                   .layout = {.index = wish.index, .first_layer = 0, .layer_count = layers},
                   .batch = {samples, wish.batch.tokens},
                   .dtype = dtype,
                   .recompute = recompute};
    spec.config.layers = layers;
    specs.push_back(std::move(spec));
  }
  return specs;
}

class Choice {
 public:
  Choice(const BenchModel& model, const StageWish& wish, const Context& context)
      : model_(model), wish_(wish), context_(context) {}

  bool fits(int layers, int64_t samples) const {
    int64_t bytes = 0;
    for (const StageSpec& spec : specs_of(model_, wish_, layers, samples))
      bytes += stage_plan(spec, context_).total_bytes();
    return bytes <= wish_.limit_bytes;
  }

  int layers() const {
    const int all = wish_.layers.value_or(static_cast<int>(model_.config.layers));
    const int64_t given = wish_.batch.samples;
    if (wish_.layers || fits(all, given > 0 ? given : 1)) return all;
    for (int64_t samples = given > 0 ? given : kSamplesForLayers; samples > 0; samples = given > 0 ? 0 : samples / 2)
      for (int layers = all - 1; layers > 0; --layers)
        if (fits(layers, samples)) return layers;
    return 1;
  }

  int64_t samples(int layers) const {
    if (wish_.batch.samples > 0) return wish_.batch.samples;
    const int64_t most_tokens = context_.backend->device() == Device::kCpu ? 4096 : 65536;
    int64_t samples = 1;
    while (2 * samples * wish_.batch.tokens <= most_tokens && fits(layers, 2 * samples)) samples *= 2;
    return samples;
  }

 private:
  const BenchModel& model_;
  const StageWish& wish_;
  const Context& context_;
};

}  // namespace

BenchModel bench_model(const ModelShape& shape) {
  ModelConfig config;
  config.channels = shape.channels;
  config.feed_forward = shape.feed_forward;
  config.layers = shape.layers;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.vocabulary = shape.vocabulary;
  config.tied_embeddings = shape.tied_embeddings;
  config.max_positions = 1 << 20;
  return {shape.name, config};
}

std::string way_name(const StageSpec& spec) {
  if (spec.recompute == Recompute::kNone) return dtype_name(spec.dtype);
  return fmt::format("{}, recompute {}", dtype_name(spec.dtype), recompute_name(spec.recompute));
}

std::vector<StageSpec> choose_stage(const BenchModel& model, const StageWish& wish, const Context& context) {
  if (wish.layers && (*wish.layers < 1 || *wish.layers > model.config.layers))
    throw ConfigError("{} layers of a model of {}, expected 1 to all of them", *wish.layers, model.config.layers);
  const Choice choice(model, wish, context);
  const int layers = choice.layers();
  return specs_of(model, wish, layers, choice.samples(layers));
}

MemoryPlan stage_plan(const StageSpec& spec, const Context& context) {
  MemoryPlan plan(context.backend->device());
  Stage::plan_memory(plan, spec, context);
  return plan;
}

void check_fits(const MemoryPlan& plan, const Context& context) {
  Backend& backend = *context.backend;
  plan.check_fits(MemoryLimits::of(backend), backend.name());
}

}  // namespace skippipe
