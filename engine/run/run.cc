#include "engine/run/run.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "comm/control/socket.h"
#include "engine/run/run_memory.h"
#include "kernels/copy.h"
#include "schedule/plan/validator.h"

namespace skippipe {
namespace {

void check_plan(const TrainingRun& run, const std::string& run_file) {
  const std::string where = run.file.plan.string();
  const auto expect = [&](const char* what, int64_t found, int64_t expected, const std::string& source) {
    if (found != expected) throw PlanError("{}: made for {} {}, but {} has {}", where, found, what, source, expected);
  };
  const Workload& workload = run.plan.workload;
  require_valid(validate(run.plan, run.network), where);
  expect("samples per microbatch", workload.samples, run.file.samples, "data.samples of " + run_file);
  expect("layers", std::accumulate(workload.stage_layers.begin(), workload.stage_layers.end(), int64_t{0}),
         run.model.layers, run.file.model_config.string());
  const int64_t bytes = run.file.samples * run.file.tokens * run.model.channels * dtype_bytes(run.wire_dtype());
  if (workload.activation_bytes != bytes)
    throw PlanError(
        "{}: made for {} bytes of activations per message, but {} has {} for data.tokens = {} in {}: plan with the "
        "same --tokens, --dtype and --wire-dtype",
        where, workload.activation_bytes, run_file, bytes, run.file.tokens, dtype_name(run.wire_dtype()));
  if (workload.exchange_norm != (run.file.clip_norm > 0))
    throw PlanError("{}: made {} gradient clipping, but optimizer.clip_norm of {} is {}: plan {} --no-norm-exchange",
                    where, workload.exchange_norm ? "with" : "without", run_file, run.file.clip_norm,
                    workload.exchange_norm ? "with" : "without");
}

// Nodes of no stage take no part: the run's network, plan and addresses are those of the others.
void leave_out_unused(TrainingRun& run) {
  const size_t all = run.network.nodes.size();
  const std::vector<int> used = leave_out_unused(run.plan, run.network);
  if (run.file.addresses.size() != all || used.size() == all) return;
  std::vector<std::string> addresses;
  for (const int node : used) addresses.push_back(run.file.addresses[static_cast<size_t>(node)]);
  run.file.addresses = std::move(addresses);
}

StageSpec stage_spec(const TrainingRun& run, int node) {
  const int stage = run.plan.stage_of_nodes()[static_cast<size_t>(node)];
  const StageLayout layout = stage_layouts(run.model, run.plan.workload.stage_layers)[static_cast<size_t>(stage)];
  return {.config = run.model,
          .layout = layout,
          .batch = run.batch(),
          .slots = run.plan.node_slots[static_cast<size_t>(node)],
          .dtype = run.dtype(),
          .recompute = run.recompute_of(node)};
}

Context context_of(const TrainingRun& run, Backend& backend, Stream stream) {
  Context context;
  context.backend = &backend;
  context.stream = stream;
  context.threads = static_cast<int>(run.file.threads);
  return context;
}

TokenShard open_tokens(const TrainingRun& run, const std::filesystem::path& path) {
  TokenShard shard(path);
  if (shard.info().vocabulary > static_cast<uint64_t>(run.model.vocabulary))
    throw ConfigError("{}: made with a vocabulary of {}, but {} has {}", path.string(), shard.info().vocabulary,
                      run.file.model_config.string(), run.model.vocabulary);
  return shard;
}

CheckpointSettings checkpoint_settings(const TrainingRun& run, CompanionFiles companions) {
  CheckpointSettings settings;
  settings.folder = checkpoints_folder(run.file.output);
  settings.interval = static_cast<uint32_t>(run.file.checkpoint_interval);
  settings.keep_last = static_cast<uint32_t>(run.file.keep_last);
  settings.keep_every = static_cast<uint32_t>(run.file.keep_every);
  settings.companions = std::move(companions);
  settings.data = run.sampler_shape();
  settings.manifest.layers_per_stage = run.plan.workload.stage_layers;
  settings.manifest.optimizer = true;
  settings.manifest.replicas = replicas_per_stage(run.plan);
  settings.manifest.microbatches = static_cast<int64_t>(run.plan.microbatches.size());
  for (const auto& [field, value] : run_file_values(run.file)) settings.manifest.run.emplace(field, value);
  settings.manifest.contents = run.file.contents;
  return settings;
}

}  // namespace

SamplerShape TrainingRun::sampler_shape() const {
  return {.batch = file.samples,
          .sequence = file.tokens,
          .microbatches = static_cast<int64_t>(plan.microbatches.size()),
          .first_iteration = first_iteration,
          .first_sample = first_sample};
}

Recompute TrainingRun::recompute_of(int node) const {
  if (!recompute.empty()) return recompute[static_cast<size_t>(node)];
  return file.recompute == "auto" ? Recompute::kNone : parse_recompute(file.recompute);
}

ValidationPlan TrainingRun::validation() const {
  if (file.validation_tokens.empty()) return {};
  return plan_validation(plan, static_cast<uint32_t>(file.validation_interval),
                         static_cast<int>((file.validation_samples + file.samples - 1) / file.samples));
}

TrainingSettings TrainingRun::settings() const {
  TrainingSettings settings;
  settings.first_iteration = first_iteration;
  settings.iterations = static_cast<uint32_t>(file.iterations);
  settings.learning_rate.schedule = parse_schedule(file.schedule);
  settings.learning_rate.peak = file.learning_rate;
  settings.learning_rate.warmup_iterations = file.warmup_iterations;
  settings.learning_rate.decay_iterations = file.decay_iterations;
  settings.learning_rate.total_iterations = file.iterations;
  settings.learning_rate.final_share = file.final_learning_rate_share;
  settings.learning_rate.check();
  settings.adamw.beta1 = static_cast<float>(file.beta1);
  settings.adamw.beta2 = static_cast<float>(file.beta2);
  settings.adamw.eps = static_cast<float>(file.eps);
  settings.adamw.weight_decay = static_cast<float>(file.weight_decay);
  settings.clip_norm = file.clip_norm;
  settings.messages = {wire_dtype(), file.part_bytes};
  settings.reduction.between_devices = file.reduction == "auto";
  settings.reduction.connect_limit_s = file.connect_limit_s;
  settings.stall_limit_s = file.stall_limit_s;
  settings.checkpoint_interval = static_cast<uint32_t>(file.checkpoint_interval);
  settings.last_checkpoint_limit_s = file.last_checkpoint_limit_s;
  settings.validation = validation();
  return settings;
}

TrainingRun load_run(const std::filesystem::path& run_file) {
  TrainingRun run;
  run.file = load_run_file(run_file);
  run.model = load_training_config(run.file.model_config);
  run.network = load_network(run.file.network);
  run.plan = load_plan(run.file.plan);
  if (run.file.tokens > run.model.max_positions)
    throw ConfigError("{}: data.tokens: found {}, expected at most the max_position_embeddings of {}, which is {}",
                      run_file.string(), run.file.tokens, run.file.model_config.string(), run.model.max_positions);
  check_plan(run, run_file.string());
  leave_out_unused(run);
  if (!run.file.addresses.empty() && run.file.addresses.size() != run.network.nodes.size())
    throw ConfigError("{}: network.addresses: found {} addresses, expected one for each of {} nodes", run_file.string(),
                      run.file.addresses.size(), run.network.nodes.size());
  for (const std::string& address : run.file.addresses) parse_node_address(address);
  return run;
}

void create_output_folder(const TrainingRun& run) {
  try {
    make_folder(run.file.output);
  } catch (const FileError& error) {
    throw ConfigError("run.output: {}", error.what());
  }
}

bool is_data_node(const TrainingRun& run, int node) {
  return std::ranges::any_of(run.plan.microbatches,
                             [&](const PlannedMicrobatch& microbatch) { return microbatch.data_node() == node; });
}

bool writes_checkpoints(const TrainingRun& run, int node) {
  return run.plan.stages[static_cast<size_t>(run.plan.stage_of_nodes()[static_cast<size_t>(node)])].front() == node;
}

TokenShard open_training_tokens(const TrainingRun& run) { return open_tokens(run, run.file.train_tokens); }

TokenShard open_validation_tokens(const TrainingRun& run) {
  const std::filesystem::path& path = run.file.validation_tokens;
  TokenShard shard = open_tokens(run, path);
  const auto wanted = static_cast<uint64_t>(run.file.validation_samples * run.file.tokens);
  if (shard.info().tokens < wanted + 1)
    throw ConfigError(
        "{}: {} tokens, but validation.samples = {} of data.tokens = {} need {}: ask for fewer samples, or tokenize "
        "with a larger --validation-share",
        path.string(), shard.info().tokens, run.file.validation_samples, run.file.tokens, wanted + 1);
  return shard;
}

ModelFiles open_weights(const TrainingRun& run, const std::filesystem::path& folder) {
  ModelFiles files(folder);
  if (const std::string difference = first_difference(files.config(), run.model); !difference.empty())
    throw ConfigError("{}: weights of another model than that of {}: {}", files.folder().string(),
                      run.file.model_config.string(), difference);
  return files;
}

std::vector<int> replicas_per_stage(const Plan& plan) {
  std::vector<int> counts;
  for (const std::vector<int>& nodes : plan.stages) counts.push_back(static_cast<int>(nodes.size()));
  return counts;
}

MemoryLimits memory_limits(const TrainingRun& run, Backend& backend) {
  MemoryLimits limits = MemoryLimits::of(backend);
  const int64_t limit = run.file.memory_limit_mb * 1'000'000;
  if (limit > 0 && limit < limits.device.bytes) limits.device = {limit, "compute.memory_limit_mb"};
  return limits;
}

MemoryPlan plan_node_memory(const TrainingRun& run, int node, Backend& backend) {
  MemoryPlan memory(backend.device());
  const StageSpec spec = stage_spec(run, node);
  Stage::plan_memory(memory, spec, context_of(run, backend, nullptr));
  Node::plan_memory(memory, run.plan, node, spec, run.wire_dtype());
  if (writes_checkpoints(run, node)) CheckpointWriter::plan_memory(memory);
  return memory;
}

NodeParts::NodeParts(const TrainingRun& run, int node, std::unique_ptr<Backend> backend)
    : run_(run),
      index_(node),
      settings_(run.settings()),
      backend_(std::move(backend)),
      stream_(backend_->runtime()),
      memory_(plan_node_memory(run, node, *backend_)) {
  check_memory(run, *backend_, node);
  if (is_data_node(run, node)) {
    shard_.emplace(open_training_tokens(run));
    sampler_.emplace(*shard_, run.sampler_shape(), static_cast<uint64_t>(run.file.seed));
    if (!run.file.validation_tokens.empty()) {
      held_out_shard_.emplace(open_validation_tokens(run));
      held_out_.emplace(*held_out_shard_, run.file.samples, run.file.tokens,
                        static_cast<uint64_t>(run.file.validation_samples));
    }
  }
  slab_.emplace(memory_, *backend_);
  stage_ = std::make_unique<Stage>(stage_spec(run, node), *slab_, context_of(run, *backend_, stream_.get()));
  stage_->use_graphs(run.file.graphs);
  load_state();
}

void NodeParts::load_state() {
  const std::filesystem::path& source = run_.resumed_from.empty() ? run_.file.weights : run_.resumed_from;
  stage_->initialize(static_cast<uint64_t>(run_.file.seed));
  if (source.empty()) return;
  const ModelFiles files = open_weights(run_, source);
  if (writes_checkpoints(run_, index_)) came_with_weights_ = read_companions(files.folder());
  if (run_.resumed_from.empty())
    files.load(stage_->parameters(), stage_->context());
  else
    files.load_training_state(stage_->parameters(), stage_->context());
  stage_->refresh_weights();
  finish(stage_->context());
}

CompanionFiles NodeParts::companions(const Logger& logger) const {
  const std::filesystem::path& tokenizer = run_.file.tokenizer;
  if (tokenizer.empty()) return came_with_weights_;
  const CompanionFiles files = with_tokenizer(came_with_weights_, tokenizer);
  const auto own = files.find(kSentencePieceFile), other = came_with_weights_.find(kSentencePieceFile);
  if (own != files.end() && other != came_with_weights_.end() && own->second.content == other->second.content)
    return came_with_weights_;
  if (has_tokenizer(came_with_weights_))
    logger->warn("data.tokenizer is another tokenizer than came with the weights: checkpoints keep it instead of {}",
                 fmt::join(companion_names(came_with_weights_), ", "));
  return files;
}

std::unique_ptr<Node> NodeParts::make_node(Transport& transport, NodeHooks hooks, const Logger& logger) {
  SKP_CHECK(transport.node() == index_);
  std::unique_ptr<CheckpointWriter> checkpoints;
  if (writes_checkpoints(run_, index_))
    checkpoints = std::make_unique<CheckpointWriter>(checkpoint_settings(run_, companions(logger)), *stage_, *slab_,
                                                     logger, [&transport] { transport.wake(); });
  if (!hooks.on_reduction && backend_->device() != Device::kCpu)
    hooks.on_reduction = [logger](const std::string& how, bool between_devices) {
      logger->log(between_devices ? spdlog::level::info : spdlog::level::warn, "gradients are summed {}", how);
    };
  return std::make_unique<Node>(run_.plan, settings_, *stage_, *slab_, transport, sampler_ ? &*sampler_ : nullptr,
                                held_out_ ? &*held_out_ : nullptr, std::move(checkpoints), std::move(hooks));
}

}  // namespace skippipe
