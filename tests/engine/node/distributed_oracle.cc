#include <cmath>
#include <memory>
#include <set>

#include "base/error.h"
#include "kernels/bf16.h"
#include "kernels/copy.h"
#include "tests/engine/node/distributed_scenario.h"
#include "tests/test_backend.h"

namespace skippipe::testing {
namespace {

// A node's stage with a slot for each microbatch, so that slots never matter, on a device like the node's. Recomputes
// nothing.
struct OracleNode {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Slab> slab;
  std::unique_ptr<Stage> stage;
  double loss_sum = 0;
};

std::vector<float> read_floats(Stage& stage, const ConstTensor& from) {
  std::vector<std::byte> bytes(static_cast<size_t>(from.bytes()));
  copy(stage.context(), Tensor(bytes.data(), from.shape(), from.dtype()), from);
  finish(stage.context());
  std::vector<float> values(static_cast<size_t>(from.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (from.dtype() == Dtype::kBf16)
      values[i] = float(reinterpret_cast<const Bf16*>(bytes.data())[i]);
    else
      values[i] = reinterpret_cast<const float*>(bytes.data())[i];
  }
  return values;
}

void write_floats(Stage& stage, const Tensor& to, std::span<const float> values) {
  std::vector<std::byte> bytes(static_cast<size_t>(to.bytes()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (to.dtype() == Dtype::kBf16)
      reinterpret_cast<Bf16*>(bytes.data())[i] = Bf16(values[i]);
    else
      reinterpret_cast<float*>(bytes.data())[i] = values[i];
  }
  copy(stage.context(), to, Tensor(bytes.data(), to.shape(), to.dtype()));
  finish(stage.context());
}

class Oracle {
 public:
  Oracle(const TrainingRun& run, const std::string& gpu)
      : run_(run),
        shard_(run.file.train_tokens),
        sampler_(shard_, sampler_shape(), seed()),
        validation_(run.validation()),
        held_out_(shard_, run.file.samples, run.file.tokens, static_cast<uint64_t>(run.file.validation_samples)) {
    const std::vector<int> stage_of = run.plan.stage_of_nodes();
    const std::vector<StageLayout> layouts = stage_layouts(run.model, run.plan.workload.stage_layers);
    const int slots = static_cast<int>(run.plan.microbatches.size());
    nodes_.resize(static_cast<size_t>(run.plan.node_count()));
    for (size_t n = 0; n < nodes_.size(); ++n) {
      OracleNode& node = nodes_[n];
      std::string why_none;
      node.backend = make_test_backend(scenario_backend(run, static_cast<int>(n), gpu), why_none);
      SKP_CHECK(node.backend != nullptr, "{}", why_none);
      Context context;
      context.backend = node.backend.get();
      const StageLayout& layout = layouts[static_cast<size_t>(stage_of[n])];
      MemoryPlan memory(node.backend->device());
      const StageSpec spec{
          run.model, layout, run.batch(), slots, StagePurpose::kTraining, as_node(run, static_cast<int>(n)).dtype()};
      Stage::plan_memory(memory, spec, context);
      node.slab = std::make_unique<Slab>(memory, *node.backend);
      node.stage = std::make_unique<Stage>(spec, *node.slab, context);
      node.stage->initialize(seed());
    }
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
    const uint32_t ended = iteration + 1, every = validation_.interval;
    if (every > 0 && (ended % every == 0 || ended == run_.file.iterations)) validate(out);
  }

 private:
  SamplerShape sampler_shape() const {
    return {run_.file.samples, run_.file.tokens, static_cast<int64_t>(run_.plan.microbatches.size())};
  }
  uint64_t seed() const { return static_cast<uint64_t>(run_.file.seed); }
  Stage& stage_at(int node) { return *nodes_[static_cast<size_t>(node)].stage; }

  std::vector<float> gradients_at(int node) { return read_floats(stage_at(node), stage_at(node).gradients()); }

  // A message, rounded to its dtype on the way to another node.
  using Buffer = Tensor (Stage::*)(int) const;
  void send(int to, Buffer to_buffer, int from, Buffer from_buffer, int microbatch) {
    std::vector<float> values = read_floats(stage_at(from), (stage_at(from).*from_buffer)(microbatch));
    if (to != from && run_.wire_dtype() == Dtype::kBf16)
      for (float& value : values) value = float(Bf16(value));
    write_floats(stage_at(to), (stage_at(to).*to_buffer)(microbatch), values);
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
          send(visits[position + 1].node, &Stage::input, node, &Stage::output, m);
          ready_.insert({m, TaskKind::kForward, position + 1});
        } else {
          send(visits[0].node, &Stage::returned, node, &Stage::output, m);
          ready_.insert({m, TaskKind::kLoss, 0});
        }
        return true;
      }
      case TaskKind::kLoss: {
        if (ready_.erase({m, TaskKind::kLoss, 0}) == 0) return false;
        nodes_[static_cast<size_t>(node)].loss_sum += stage.loss(m, stage.returned(m)).mean();
        send(visits[last].node, &Stage::output_gradient, node, &Stage::loss_gradient, m);
        ready_.insert({m, TaskKind::kBackward, last});
        return true;
      }
      case TaskKind::kBackward: {
        if (ready_.erase({m, TaskKind::kBackward, position}) == 0) return false;
        stage.backward(m, stage.output_gradient(m), position > 0 ? stage.output_gradient(m) : Tensor());
        if (position > 0) {
          send(visits[position - 1].node, &Stage::output_gradient, node, &Stage::output_gradient, m);
          ready_.insert({m, TaskKind::kBackward, position - 1});
        }
        return true;
      }
    }
    return false;
  }

  void sum_replicas() {
    for (const std::vector<int>& replicas : run_.plan.stages) {
      std::vector<float> sum = gradients_at(replicas.front());
      for (size_t r = 1; r < replicas.size(); ++r) {
        const std::vector<float> other = gradients_at(replicas[r]);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
      }
      for (const int node : replicas) write_floats(stage_at(node), stage_at(node).gradients(), sum);
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
      out[n].iterations.push_back({.tasks = orders[n],
                                   .gradients = gradients_at(static_cast<int>(n)),
                                   .loss = loss / microbatches,
                                   .gradient_norm = norm});
      stage.step(adamw);
      stage.zero_gradients();
    }
  }

  // One microbatch after another. Losses are added as data nodes do, each its own, and then over these.
  void validate(std::vector<NodeRecord>& out) {
    struct Sums {
      LossSum all, paths;
    };
    std::vector<Sums> by_node(nodes_.size());
    const int last = static_cast<int>(validation_.microbatches.size());
    for (int m = 0; m < last; ++m) {
      const auto& visits = validation_.microbatches[static_cast<size_t>(m)].visits;
      const int data_node = visits.front().node;
      Stage& data = stage_at(data_node);
      std::vector<int32_t> tokens(static_cast<size_t>(run_.file.samples * run_.file.tokens)), targets(tokens.size());
      held_out_.fill(static_cast<uint64_t>(m % validation_.batches), tokens, targets);
      data.set_batch(0, tokens, targets);
      for (size_t i = 0; i < visits.size(); ++i) {
        if (i > 0) send(visits[i].node, &Stage::input, visits[i - 1].node, &Stage::output, 0);
        stage_at(visits[i].node).forward(0);
      }
      send(data_node, &Stage::returned, visits.back().node, &Stage::output, 0);
      const LossSum loss = data.evaluate_loss(0, data.returned(0));
      Sums& sums = by_node[static_cast<size_t>(data_node)];
      LossSum& sum = m < validation_.batches ? sums.all : sums.paths;
      sum.sum += loss.sum;
      sum.tokens += loss.tokens;
    }
    Sums whole;
    for (const Sums& sums : by_node) {
      whole.all.sum += sums.all.sum;
      whole.all.tokens += sums.all.tokens;
      whole.paths.sum += sums.paths.sum;
      whole.paths.tokens += sums.paths.tokens;
    }
    SKP_CHECK(whole.all.tokens == run_.file.validation_samples * run_.file.tokens);
    for (NodeRecord& record : out) {
      record.iterations.back().validation_loss = whole.all.mean();
      if (whole.paths.tokens > 0) record.iterations.back().validation_path_loss = whole.paths.mean();
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
  ValidationPlan validation_;
  ShardWindows held_out_;
  std::vector<OracleNode> nodes_;
  std::set<Ready> ready_;
};

}  // namespace

std::vector<NodeRecord> run_oracle(const TrainingRun& run, const std::vector<NodeRecord>& orders,
                                   const std::string& gpu) {
  Oracle oracle(run, gpu);
  std::vector<NodeRecord> records(orders.size());
  for (uint32_t iteration = 0; iteration < run.file.iterations; ++iteration) {
    std::vector<std::vector<NodeRecord::Task>> tasks;
    for (const NodeRecord& order : orders) tasks.push_back(order.iterations.at(iteration).tasks);
    oracle.iterate(iteration, tasks, records);
  }
  return records;
}

}  // namespace skippipe::testing
