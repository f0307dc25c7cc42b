// A training step of one stage that has embedding and head, so that it needs no other: forward, loss, backward, AdamW.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "tools/bench/ceiling.h"

namespace skippipe {

// Useful operations of a step of N = B T tokens, counting a multiplication and an addition as two:
//   6 N P                    P weights of matrices that multiply: of the layers, and the LM head's V C
//   6 B H D T (T+1) L        causal attention: two products forward, four backward, over pairs s <= t only
// Recomputation, norms, activations, the optimizer and the second pass over the logits count as nothing. (With this
// count LLM.Q's published tokens/s and shares of "speed of light" agree, that being the data sheet's dense bf16 rate.)
double useful_operations(const StageSpec& spec);

// Random weights, quickly: tensors are pieces of one sequence of normal numbers. Then the stage may compute. Waits.
void fill_weights(Stage& stage, Backend& backend);
// Uniform in [0, V).
std::vector<int32_t> random_ids(const StageSpec& spec, uint64_t stream);

// Slab, stage and what a step needs. The context's backend must outlive it.
class TrainingStep {
 public:
  // Throws MemoryError, with the numbers, where the device has less, and ConfigError.
  TrainingStep(const StageSpec& spec, const Context& context);

  // Runs a step to its end; returns the mean loss before it.
  double run();

  Stage& stage() { return *stage_; }
  const MemoryPlan& memory() const { return memory_; }
  const StageSpec& spec() const { return stage_->spec(); }

 private:
  const MemoryPlan memory_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Stage> stage_;
  int64_t steps_done_ = 0;
};

// A step whose operations were waited for one by one.
struct TimedStep {
  // Of the whole step; on a GPU of its operations alone: the waiting is the benchmark's.
  double seconds = 0;
  std::map<std::string, double> operation_s;  // of the device, by name
};
// The median of three steps that serve nothing else.
TimedStep time_operations(const StageSpec& spec, const Context& context);

// Steps as training has them, timed: the host queues them and waits for the loss and for the end. Products of the
// ceiling run beside them, so that both see the same neighbours on the machine.
class StepMeasurement {
 public:
  // Throws as TrainingStep does, and RunError if the first loss is not that of random weights.
  StepMeasurement(const StageSpec& spec, const Context& context);

  // One step.
  void measure();
  // After the last one. Throws RunError if something is wrong: the loss is not finite, or memory was taken since the
  // first measured step.
  void finish();

  const StageSpec& spec() const { return step_.spec(); }
  const MemoryPlan& memory() const { return step_.memory(); }
  const std::vector<double>& seconds() const { return seconds_; }  // after finish: ascending
  double median_seconds() const { return seconds_[seconds_.size() / 2]; }
  std::vector<double> product_rates() const { return ceiling_.rates(); }
  double first_loss() const { return first_loss_; }
  double last_loss() const { return last_loss_; }
  // What the device had left before the first measured step, and has now.
  int64_t free_bytes_before() const { return free_bytes_before_; }
  int64_t free_bytes_after() const { return free_bytes_after_; }
  // Memory taken through the runtime between the two.
  int64_t allocations() const { return allocations_; }

 private:
  Runtime& runtime_;
  Ceiling ceiling_;
  TrainingStep step_;
  std::vector<double> seconds_;
  double first_loss_ = 0, last_loss_ = 0;
  int64_t free_bytes_before_ = 0, free_bytes_after_ = 0;
  int64_t allocations_before_ = 0, allocations_ = 0;
};

}  // namespace skippipe
