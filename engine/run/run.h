// A run as one node sees it: what the run file names, loaded and checked against each other, and the node made from it.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "comm/transport/transport.h"
#include "engine/checkpoint/companion_files.h"
#include "engine/checkpoint/model_files.h"
#include "engine/files/sampler.h"
#include "engine/files/shard_windows.h"
#include "engine/files/token_shards.h"
#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/model/recompute.h"
#include "engine/model/stage.h"
#include "engine/node/node.h"
#include "engine/run/run_file.h"
#include "kernels/backend.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/validation_plan.h"

namespace skippipe {

struct TrainingRun {
  RunFile file;
  ModelConfig model;
  Network network;  // of the nodes that the plan uses: those of no stage take no part in a run, and have no number
  Plan plan;
  std::filesystem::path resumed_from;  // a checkpoint; empty: the run begins anew
  uint32_t first_iteration = 0;        // optimizer steps that the checkpoint has
  uint64_t first_sample = 0;           // samples of the data that they have read
  std::string node_dtype;              // what this node computes in; empty: the run file's
  std::vector<Recompute> recompute;    // by node, from choose_recompute; empty: the run file's, with none for auto

  BatchShape batch() const { return {file.samples, file.tokens}; }
  Dtype dtype() const { return parse_compute_dtype(node_dtype.empty() ? file.dtype : node_dtype); }
  // Of messages: the same on all nodes, whatever each computes in.
  Dtype wire_dtype() const { return parse_compute_dtype(file.wire_dtype == "auto" ? file.dtype : file.wire_dtype); }
  // How it reads its data from the first iteration on.
  SamplerShape sampler_shape() const;
  Recompute recompute_of(int node) const;
  ValidationPlan validation() const;  // with interval 0 where there is no data.validation
  TrainingSettings settings() const;
};

// Throws ConfigError, FileError or PlanError: a file that is wrong, or two that contradict each other (the plan was
// made for another network, model, batch size or number of nodes; it breaks a rule).
TrainingRun load_run(const std::filesystem::path& run_file);

// Throws ConfigError if run.output can't be.
void create_output_folder(const TrainingRun& run);

bool is_data_node(const TrainingRun& run, int node);
// The first of its stage's replicas.
bool writes_checkpoints(const TrainingRun& run, int node);
// The first of stage 0, which keeps run.json and the metrics.
inline bool tells_of_run(const TrainingRun& run, int node) { return run.plan.stages.front().front() == node; }

// data.train and data.validation, for data nodes. Throw FileError, ConfigError (more tokens than the model knows, or
// fewer than a validation reads).
TokenShard open_training_tokens(const TrainingRun& run);
TokenShard open_validation_tokens(const TrainingRun& run);
// A model that the run can begin with. Throws FileError, ConfigError (another model; which field differs).
ModelFiles open_weights(const TrainingRun& run, const std::filesystem::path& folder);

// Nodes of each stage.
std::vector<int> replicas_per_stage(const Plan& plan);

// What a node may take of its device (what there is left, or less where the run file says so) and of the host.
MemoryLimits memory_limits(const TrainingRun& run, Backend& backend);

// What the node will take, computing on the backend's device. Throws ConfigError and MemoryError.
MemoryPlan plan_node_memory(const TrainingRun& run, int node, Backend& backend);

// What a node computes with: memory, stage and data. The run outlives it; it outlives the node and the transport, which
// may be sending from its memory until it is gone.
class NodeParts {
 public:
  // Takes the memory, sets the stage's state, opens the data. Throws MemoryError (it would not fit), FileError,
  // ConfigError (weights of another model).
  NodeParts(const TrainingRun& run, int node, std::unique_ptr<Backend> backend);

  Backend& backend() { return *backend_; }
  const MemoryPlan& memory() const { return memory_; }
  Stage& stage() { return *stage_; }
  const Slab& slab() const { return *slab_; }
  // The node, ready to run; made once. Everything here and the transport must outlive it.
  std::unique_ptr<Node> make_node(Transport& transport, NodeHooks hooks, const Logger& logger);

 private:
  void load_state();
  // What goes along with checkpoints: what came with the weights that the run begins with, unless data.tokenizer names
  // another tokenizer than theirs.
  CompanionFiles companions(const Logger& logger) const;

  const TrainingRun& run_;
  const int index_;
  const TrainingSettings settings_;
  std::unique_ptr<Backend> backend_;
  OwnedStream stream_;  // of the tasks
  const MemoryPlan memory_;
  std::optional<Slab> slab_;
  std::unique_ptr<Stage> stage_;
  std::optional<TokenShard> shard_;
  std::optional<Sampler> sampler_;
  std::optional<TokenShard> held_out_shard_;
  std::optional<ShardWindows> held_out_;
  CompanionFiles came_with_weights_;  // of a node that writes checkpoints
};

}  // namespace skippipe
