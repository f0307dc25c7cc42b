// A model, or some of its stages, that reads one sequence token by token: it keeps the keys and values of what it has
// read, and says what may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/model/stage.h"
#include "kernels/context.h"

namespace skippipe {

struct DecoderSpec {
  ModelConfig config;
  std::vector<StageLayout> stages;  // those of the path, in order, stage 0 first
  int64_t positions = 0;            // tokens that the sequence may have
  int64_t chunk = 256;              // tokens that are read at once
};

// f32. A position takes 8 K D bytes per layer. Owned by whoever made it, who keeps the slab alive; used by one thread.
class Decoder {
 public:
  // Registers what the decoder will take from the slab. Throws ConfigError (sizes that do not fit the model) and
  // MemoryError (sizes that overflow).
  static void plan_memory(MemoryPlan& plan, const DecoderSpec& spec, const Context& context);

  // The slab must be that of a plan made by plan_memory with the same arguments. The context's workspace is ignored.
  // Weights begin as zeros.
  Decoder(const DecoderSpec& spec, Slab& slab, const Context& context);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const DecoderSpec& spec() const;
  // The weights of the stages by Hugging Face name.
  std::vector<Parameter> parameters() const;
  // For copies to them.
  Context& context();

  // Reads the next tokens of the sequence, at least one. Returns the logits (V) of the token behind them, valid until
  // the next call. Throws ConfigError if there are more than room() or one is not in [0, V); then nothing was read.
  std::span<const float> read(std::span<const int32_t> tokens);
  // How many more tokens fit.
  int64_t room() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace skippipe
