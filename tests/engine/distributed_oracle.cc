#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/distributed_scenario.h"

namespace skippipe::testing {
namespace {

// A node's stage with a slot for each microbatch, so that slots never matter. Recomputes nothing.
struct OracleNode {
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::unique_ptr<Slab> slab;
  std::unique_ptr<Stage> stage;
  double loss_sum = 0;
};

void copy(Tensor to, const Tensor& from) { std::memcpy(to.data(), from.data(), static_cast<size_t>(from.bytes())); }

class Oracle {
 public:
  explicit Oracle(const TrainingRun& run)
      : run_(run), shard_(run.file.train_tokens), sampler_(shard_, sampler_shape(), seed()) {
    const std::vector<int> stage_of = run.plan.stage_of_nodes();
    const std::vector<StageLayout> layouts = stage_layouts(run.model, run.plan.workload.stage_layers);
    const int slots = static_cast<int>(run.plan.microbatches.size());
    nodes_.resize(static_cast<size_t>(run.plan.node_count()));
    for (size_t n = 0; n < nodes_.size(); ++n) {
      OracleNode& node = nodes_[n];
      Context context;
      context.backend = node.backend.get();
      const StageLayout& layout = layouts[static_cast<size_t>(stage_of[n])];
      MemoryPlan memory(node.backend->device());
      const StageSpec spec{run.model, layout, run.batch(), slots, StagePurpose::kTraining, run.dtype()};
      Stage::plan_memory(memory, spec, context);
      node.slab = std::make_unique<Slab>(memory, *node.backend);
      node.stage = std::make_unique<Stage>(spec, *node.slab, context);
      node.stage->initialize(seed());
    }
    const Dims shape{run.batch().samples, run.batch().tokens, run.model.channels};
    scratch_.resize(static_cast<size_t>(element_count(shape)));
    scratch_tensor_ = Tensor(scratch_.data(), shape, run.dtype());
  }

  // Appends to each record what its node should have seen.
  void iterate(uint32_t iteration, const std::vector<std::vector<NodeRecord::Task>>& orders,
               std::vector<NodeRecord>& out) {
    ready_.clear();
    for (OracleNode& node : nodes_) node.loss_sum = 0;
    std::vector<size_t> done(nodes_.size(), 0);
    for (bool progress = true; progress;) {
      progress = false;
      for (size_t n = 0; n < nodes_.size(); ++n) {
        while (done[n] < orders[n].size() && run_task(static_cast<int>(n), iteration, orders[n][done[n]])) {
          ++done[n];
          progress = true;
        }
      }
    }
    for (size_t n = 0; n < nodes_.size(); ++n)
      SKP_CHECK(done[n] == orders[n].size(), "node {} ran a task without input", n);
    sum_replicas();
    step(iteration, orders, out);
  }

 private:
  SamplerShape sampler_shape() const {
    return {run_.file.samples, run_.file.tokens, static_cast<int64_t>(run_.plan.microbatches.size())};
  }
  uint64_t seed() const { return static_cast<uint64_t>(run_.file.seed); }
  Stage& stage_at(int node) { return *nodes_[static_cast<size_t>(node)].stage; }

  std::span<float> gradients_at(int node) {
    const Tensor all = stage_at(node).gradients();
    return {all.as<float>(), static_cast<size_t>(all.elements())};
  }

  size_t position_of(int node, int microbatch) const {
    const auto& visits = run_.plan.microbatches[static_cast<size_t>(microbatch)].visits;
    for (size_t i = 0; i < visits.size(); ++i)
      if (visits[i].node == node) return i;
    throw InternalError("node {} ran a task of microbatch {}, which does not visit it", node, microbatch);
  }

  // False if the task's input is not there yet.
  bool run_task(int node, uint32_t iteration, const NodeRecord::Task& task) {
    const int m = task.microbatch;
    const auto& visits = run_.plan.microbatches[static_cast<size_t>(m)].visits;
    const size_t position = position_of(node, m), last = visits.size() - 1;
    Stage& stage = stage_at(node);
    switch (task.kind) {
      case TaskKind::kForward: {
        if (position > 0 && ready_.erase({m, TaskKind::kForward, position}) == 0) return false;
        if (position == 0) {
          std::vector<int32_t> tokens(static_cast<size_t>(run_.file.samples * run_.file.tokens)),
              targets(tokens.size());
          sampler_.fill(iteration, static_cast<uint32_t>(m), tokens, targets);
          stage.set_batch(m, tokens, targets);
        }
        stage.forward(m);
        if (position < last) {
          copy(stage_at(visits[position + 1].node).input(m), stage.output(m));
          ready_.insert({m, TaskKind::kForward, position + 1});
        } else {
          copy(stage_at(visits[0].node).returned(m), stage.output(m));
          ready_.insert({m, TaskKind::kLoss, 0});
        }
        return true;
      }
      case TaskKind::kLoss: {
        if (ready_.erase({m, TaskKind::kLoss, 0}) == 0) return false;
        nodes_[static_cast<size_t>(node)].loss_sum += stage.loss(m, stage.returned(m)).mean();
        copy(stage_at(visits[last].node).output_gradient(m), stage.loss_gradient(m));
        ready_.insert({m, TaskKind::kBackward, last});
        return true;
      }
      case TaskKind::kBackward: {
        if (ready_.erase({m, TaskKind::kBackward, position}) == 0) return false;
        stage.backward(m, stage.output_gradient(m), position > 0 ? scratch_tensor_ : Tensor());
        if (position > 0) {
          copy(stage_at(visits[position - 1].node).output_gradient(m), scratch_tensor_);
          ready_.insert({m, TaskKind::kBackward, position - 1});
        }
        return true;
      }
    }
    return false;
  }

  void sum_replicas() {
    for (const std::vector<int>& replicas : run_.plan.stages) {
      const std::span<float> sum = gradients_at(replicas.front());
      for (size_t r = 1; r < replicas.size(); ++r)
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += gradients_at(replicas[r])[i];
      for (size_t r = 1; r < replicas.size(); ++r) std::ranges::copy(sum, gradients_at(replicas[r]).begin());
    }
  }

  void step(uint32_t iteration, const std::vector<std::vector<NodeRecord::Task>>& orders,
            std::vector<NodeRecord>& out) {
    const auto microbatches = static_cast<double>(run_.plan.microbatches.size());
    double squared = 0, loss = 0;
    const std::vector<int> stage_of = run_.plan.stage_of_nodes();
    for (size_t n = 0; n < nodes_.size(); ++n) {
      const bool first = run_.plan.stages[static_cast<size_t>(stage_of[n])].front() == static_cast<int>(n);
      squared += first ? nodes_[n].stage->squared_gradient_norm() : 0;
      loss += nodes_[n].loss_sum;
    }
    const double norm = std::sqrt(squared) / microbatches;
    const TrainingSettings settings = run_.settings();
    AdamWStep adamw = settings.adamw;
    adamw.learning_rate = static_cast<float>(settings.learning_rate.at(iteration));
    adamw.step = iteration + 1;
    adamw.grad_scale = 1.0f / static_cast<float>(microbatches);
    if (settings.clip_norm > 0 && norm > settings.clip_norm)
      adamw.grad_scale *= static_cast<float>(settings.clip_norm / (norm + 1e-6));
    for (size_t n = 0; n < nodes_.size(); ++n) {
      Stage& stage = *nodes_[n].stage;
      out[n].iterations.push_back({orders[n],
                                   {gradients_at(static_cast<int>(n)).begin(), gradients_at(static_cast<int>(n)).end()},
                                   loss / microbatches,
                                   norm});
      stage.step(adamw);
      stage.zero_gradients();
    }
  }

  struct Ready {
    int microbatch;
    TaskKind kind;
    size_t position;
    auto operator<=>(const Ready&) const = default;
  };

  const TrainingRun& run_;
  TokenShard shard_;
  Sampler sampler_;
  std::vector<OracleNode> nodes_;
  std::vector<float> scratch_;
  Tensor scratch_tensor_;
  std::set<Ready> ready_;
};

}  // namespace

std::vector<NodeRecord> run_oracle(const TrainingRun& run, const std::vector<NodeRecord>& orders) {
  Oracle oracle(run);
  std::vector<NodeRecord> records(orders.size());
  for (uint32_t iteration = 0; iteration < run.file.iterations; ++iteration) {
    std::vector<std::vector<NodeRecord::Task>> tasks;
    for (const NodeRecord& order : orders) tasks.push_back(order.iterations.at(iteration).tasks);
    oracle.iterate(iteration, tasks, records);
  }
  return records;
}

}  // namespace skippipe::testing
