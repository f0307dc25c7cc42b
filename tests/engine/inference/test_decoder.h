// A decoder with memory of its own, for tests.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/inference/decoder.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/test_model.h"

namespace skippipe::test {

class TestDecoder {
 public:
  explicit TestDecoder(const DecoderSpec& spec, int threads = 1) : backend_(make_cpu_backend()) {
    Context context;
    context.backend = backend_.get();
    context.threads = threads;
    Decoder::plan_memory(plan_, spec, context);
    slab_ = std::make_unique<Slab>(plan_, *backend_);
    decoder_ = std::make_unique<Decoder>(spec, *slab_, context);
  }

  Decoder& operator*() { return *decoder_; }
  Decoder* operator->() { return decoder_.get(); }
  const MemoryPlan& plan() const { return plan_; }

  void copy_weights(const TestModel& model) {
    const auto from = model.parameters();
    for (const Parameter& parameter : decoder_->parameters())
      copy(decoder_->context(), parameter.weight, from.at(parameter.name).weight);
  }

 private:
  std::unique_ptr<Backend> backend_;
  MemoryPlan plan_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Decoder> decoder_;
};

// For a path through a model cut so.
inline DecoderSpec decoder_spec(const ModelConfig& config, const std::vector<int>& layers_per_stage,
                                const std::vector<int>& path, int64_t positions, int64_t chunk) {
  DecoderSpec spec;
  spec.config = config;
  const auto layouts = stage_layouts(config, layers_per_stage);
  for (const int stage : path) spec.stages.push_back(layouts.at(static_cast<size_t>(stage)));
  spec.positions = positions;
  spec.chunk = chunk;
  return spec;
}

}  // namespace skippipe::test
