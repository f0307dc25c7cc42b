#include "tools/verbs/plan_options.h"

#include <algorithm>

#include "base/error.h"
#include "engine/model/model_config.h"
#include "engine/probe/slots.h"
#include "schedule/search/capacity.h"
#include "schedule/search/planning.h"
#include "tools/verbs/dtype_option.h"
#include "tools/verbs/measured_remark.h"
#include "tools/verbs/model_options.h"
#include "tools/verbs/number_options.h"

namespace skippipe {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 50;  // as plan files
constexpr int kMaxMicrobatches = 1 << 16;
constexpr double kSimulatedVisits = 4e7;  // a few seconds
constexpr const char* kDefaultSkip = "1/3";
constexpr double kAutoVisits = 2 * kSimulatedVisits;  // for dozens of shapes

// "0.33" or "1/3"
double parse_share(const std::string& text) {
  const size_t slash = text.find('/');
  double above = 0, below = 1;
  const bool fine = slash == std::string::npos
                        ? parse_number(text, above)
                        : parse_number(text.substr(0, slash), above) && parse_number(text.substr(slash + 1), below);
  const double share = above / below;
  if (!fine || !(share >= 0 && share <= 1))
    throw UsageError("--skip: found '{}', expected a share from 0 to 1 such as 1/3 or 0.33", text);
  return share;
}

void check_layers(const std::vector<int>& layers) {
  for (size_t s = 0; s < layers.size(); ++s)
    if (layers[s] < fewest_layers(s))
      throw UsageError("plan: --layers: found {} for stage {}, expected at least 1 (only stage 0 may have none)",
                       layers[s], s);
}

// What the lists say that were given, all alike.
int stage_count(const PlanOptions& options) {
  int stages = options.stages;
  for (const std::vector<int>* list : {&options.nodes_per_stage, &options.layers}) {
    if (list->empty()) continue;
    const auto count = static_cast<int>(list->size());
    if (stages > 0 && stages != count)
      throw UsageError("plan: --stages, --nodes-per-stage and --layers: found {} and {} stages", stages, count);
    stages = count;
  }
  if (stages == 0) throw UsageError("plan: give --stages or --nodes-per-stage");
  return stages;
}

int64_t checked_product(std::initializer_list<int64_t> factors, const char* what) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product) || product > kMaxBytes)
      throw ConfigError("{} has more than {} bytes", what, kMaxBytes);
  return product;
}

BatchShape batch_of(const PlanOptions& options) { return {options.samples, options.tokens}; }

std::optional<ModelConfig> load_model(const PlanOptions& options) {
  if (options.model.empty()) return std::nullopt;
  if (options.tokens < 1) throw UsageError("plan: --model needs --tokens, the length of a sample");
  return load_training_config(options.model);
}

// Slots of a network that was measured for another model are none of this one's, and only memory says how many it has.
void check_measurement(const PlanOptions& options, const Network& network, const ModelConfig& model) {
  const NetworkUse use = {options.network, options.model, model, batch_of(options), options.dtype};
  const std::string other = describe_other_measurement(network, use);
  if (other.empty()) return;
  for (const NetworkNode& node : network.nodes)
    if (node.memory_bytes == 0)
      throw ConfigError("{}; nor can be told how many slots '{}' has, without its memory_bytes", other, node.name);
  fmt::print(stderr, "warning: {}\n", other);
}

// Layers, activations and gradients from the model's configuration.
void describe_model(const PlanOptions& options, const ModelConfig& model, Workload& workload) {
  if (options.tokens > model.max_positions)
    throw ConfigError("--tokens: found {}, expected at most the max_position_embeddings of {}, which is {}",
                      options.tokens, options.model, model.max_positions);
  if (workload.stage_layers.empty()) {
    if (model.layers < options.stages)
      throw ConfigError("--stages: the {} layers of {} do not fill {} stages", model.layers, options.model,
                        options.stages);
    workload.stage_layers = split_evenly(static_cast<int>(model.layers), options.stages);
  }
  int64_t layers = 0;
  for (const int count : workload.stage_layers) layers += count;
  if (layers != model.layers)
    throw ConfigError("--layers sum to {}, the model in {} has {}", layers, options.model, model.layers);
  workload.activation_bytes = checked_product(
      {options.samples, options.tokens, model.channels, dtype_bytes(options.wire_dtype.value_or(options.dtype))},
      "a message of activations");
  for (size_t s = 0; s < workload.stage_layers.size(); ++s) {
    int64_t parameters = checked_product({workload.stage_layers[s], model.layer_parameters()}, "a stage");
    if (s == 0) parameters += model.embedding_parameters() + model.head_parameters();
    workload.stage_gradient_bytes.push_back(
        checked_product({parameters, dtype_bytes(Dtype::kF32)}, "a stage's gradient"));
  }
}

Workload make_workload(const PlanOptions& options, const std::optional<ModelConfig>& model) {
  Workload workload;
  workload.samples = options.samples;
  workload.stage_layers = options.layers;
  workload.exchange_norm = !options.no_norm;
  const auto stages = static_cast<size_t>(options.stages);
  if (model) {
    describe_model(options, *model, workload);
    describe_memory(workload, *model, batch_of(options), options.dtype, options.recompute);
    return workload;
  }
  if (workload.stage_layers.empty()) workload.stage_layers.assign(stages, 1);
  workload.activation_bytes = options.activation_bytes;
  if (options.stage_gradient_bytes.empty()) {  // the pipeline alone, up to the last backward pass and step
    workload.stage_gradient_bytes.assign(stages, 0);
    workload.exchange_norm = false;
    return workload;
  }
  workload.stage_gradient_bytes = options.stage_gradient_bytes;
  if (workload.stage_gradient_bytes.size() == 1)
    workload.stage_gradient_bytes.resize(stages, options.stage_gradient_bytes[0]);
  if (workload.stage_gradient_bytes.size() != stages)
    throw UsageError("plan: --stage-gradient-bytes names {} stages, expected 1 or {}",
                     workload.stage_gradient_bytes.size(), stages);
  return workload;
}

void check_nodes(const PlanOptions& options, const Network& network) {
  if (options.nodes_per_stage.empty()) return;
  int64_t nodes = 0;
  for (const int count : options.nodes_per_stage) nodes += count;
  if (nodes != network.size())
    throw ConfigError("--nodes-per-stage: found {} nodes in all, expected the {} of {}", nodes, network.size(),
                      options.network);
}

int all_microbatches(const PlanOptions& options, int data_nodes) {
  if (options.batch > 0) {
    if (const int all = options.batch / options.samples; all <= kMaxMicrobatches) return all;
    throw ConfigError("--batch: {} samples in microbatches of {} (--samples), expected at most {} microbatches",
                      options.batch, options.samples, kMaxMicrobatches);
  }
  const int64_t all = int64_t{options.microbatches} * std::max(1, data_nodes);
  if (all > kMaxMicrobatches)
    throw ConfigError("--microbatches: {} for each of {} data nodes, expected at most {} in all", options.microbatches,
                      data_nodes, kMaxMicrobatches);
  return static_cast<int>(all);
}

void check_batch(const PlanOptions& options) {
  if (options.microbatches == 0 && options.batch == 0) throw UsageError("plan: give --microbatches or --batch");
  if (options.batch % options.samples != 0)
    throw UsageError("plan: --batch {} is not a whole number of microbatches of {} samples", options.batch,
                     options.samples);
}

// Evaluations count where nothing else limits the search.
SearchBudget make_budget(const PlanOptions& options) {
  SearchBudget budget;
  budget.seconds = options.seconds;
  budget.threads = threads_or_all(options.threads);
  if (options.evaluations)
    budget.evaluations = *options.evaluations;
  else if (options.seconds > 0)
    budget.evaluations = 0;
  return budget;
}

// "auto", or a number.
std::string read_stages(std::string& text) {
  if (text != "auto") return CLI::Range(1, 1024)(text);
  text = std::to_string(kAutoStages);
  return {};
}

// What a request says whatever its stages.
PlanRequest begin_request(const PlanOptions& options) {
  check_batch(options);
  PlanRequest request;
  request.network = load_network(options.network);
  request.rules = options.rules;
  request.rules.skip_ratio = parse_share(options.skip.value_or(kDefaultSkip));
  request.rules.equal_exposure = !options.unequal_exposure;
  request.seed = options.seed;
  request.budget = make_budget(options);
  return request;
}

// For as many stages as half of the shapes have at most.
PlanRequest middle_request(const ShapeRequest& request) {
  const std::vector<int> counts = stage_counts(request);
  const int stages = counts[counts.size() / 2];
  PlanRequest plan = request.plan;
  set_shape(request,
            {.stage_layers = split_evenly(request.layers, stages),
             .nodes_per_stage = split_evenly(request.plan.network.size(), stages)},
            plan);
  return plan;
}

void add_workload_options(CLI::App& verb, PlanOptions& options) {
  CLI::Option* microbatches =
      verb.add_option("--microbatches", options.microbatches, "Microbatches of an iteration, for each data node")
          ->check(CLI::Range(1, kMaxMicrobatches));
  verb.add_option("--batch", options.batch, "Instead of --microbatches: samples of an iteration, over all data nodes")
      ->excludes(microbatches)
      ->check(CLI::Range(1, 1 << 30));
  verb.add_option("--samples", options.samples, "Samples (sequences) of a microbatch")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb.add_option("--layers", options.layers,
                  "Transformer layers of each stage, of stage 0 also none; default: as even as possible")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 16));
  verb.add_option("--tokens", options.tokens, "Tokens of a sample (with --model)")->check(CLI::Range(1, 1 << 24));
  CLI::Option* model =
      verb.add_option("--model", options.model, "The model's config.json: gives the sizes of messages");
  add_dtype_option(verb, options.dtype, "The run's compute.dtype (with --model)");
  verb.add_option_function<std::string>(
          "--wire-dtype", [&options](const std::string& name) { options.wire_dtype = parse_compute_dtype(name); },
          "The run's network.wire_dtype, if not the same")
      ->check(CLI::IsMember({"f32", "bf16"}));
  verb.add_option_function<std::string>(
          "--recompute", [&options](const std::string& name) { options.recompute = parse_recompute(name); },
          "Count slots as the run's compute.recompute takes memory for them (with --model): attention and block take "
          "less, but longer than is predicted; default: none")
      ->check(CLI::IsMember({"none", "attention", "block"}));
  verb.add_option("--activation-bytes", options.activation_bytes, "Instead of --model: bytes between two stages")
      ->excludes(model)
      ->check(CLI::Range(int64_t{0}, kMaxBytes));
  verb.add_option("--stage-gradient-bytes", options.stage_gradient_bytes,
                  "Instead of --model: bytes of a stage's gradients, one number or one for each stage; without either, "
                  "gradients and norms are left out")
      ->excludes(model)
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, kMaxBytes));
  verb.add_flag("--no-norm-exchange", options.no_norm, "No gradient clipping: nodes need not agree on a norm");
}

void add_rule_options(CLI::App& verb, PlanOptions& options) {
  verb.add_option("--skip", options.skip,
                  "Share of the stages that each path leaves out (skip); default: 1/3, or less if some stage would be "
                  "left out by all paths");
  verb.add_option("--max-swaps", options.rules.max_swaps, "Visits of a path that may go back behind the furthest stage")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.add_option("--max-swap-distance", options.rules.max_swap_distance, "How far behind, in stages")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.add_option("--max-jump", options.rules.max_jump, "How far past the furthest stage a visit may go")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  verb.add_flag("--unequal-exposure", options.unequal_exposure,
                "Stages may serve different numbers of microbatches, each at least one");
  verb.add_flag("--equal-data", options.rules.equal_data,
                "Data nodes all start the same number of microbatches, but for one");
}

void add_search_options(CLI::App& verb, PlanOptions& options) {
  verb.add_option("--seed", options.seed, "Of the search")->capture_default_str();
  verb.add_option("--evaluations", options.evaluations,
                  fmt::format("Candidates to simulate; default: as many as visit nodes {} million times, with --stages "
                              "auto {} million, or no limit with --seconds",
                              kSimulatedVisits / 1e6, kAutoVisits / 1e6))
      ->check(CLI::Range(1, 1000000000));
  verb.add_option("--seconds", options.seconds, "Time to search for; the plan then depends on the machine's speed")
      ->check(CLI::Range(0.001, 1e6));
  verb.add_option("--threads", options.threads, "Threads of the search; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

}  // namespace

void add_plan_options(CLI::App& verb, PlanOptions& options) {
  verb.add_option("--network", options.network, "The measured network (JSON)")->required();
  verb.add_option("--stages", options.stages,
                  "Stages of the pipeline; auto (with --model): tries numbers of stages, layers and nodes of each, all "
                  "nodes or without those that would hold up the others, and keeps the plan of most samples per "
                  "second, where skipping more layers than --skip asks for counts "
                  "as no gain; give --batch to compare at equal batches. The search's limits hold for all together")
      ->transform(CLI::Validator(read_stages, "1 to 1024, or auto"));
  verb.add_option(
          "--nodes-per-stage", options.nodes_per_stage,
          "Nodes of each stage, data nodes first: 5,3,3; default: as even as possible, and what joint finds best")
      ->delimiter(',')
      ->check(CLI::Range(1, kMaxNodes));
  verb.add_option("--max-replica-delay-s", options.max_replica_delay_s,
                  "A message of activations takes at most this between two nodes of a stage; default, where gradients "
                  "are left out: ten times the median of all pairs")
      ->check(CLI::Range(0.0, 1e6));
  add_workload_options(verb, options);
  add_rule_options(verb, options);
  add_search_options(verb, options);
}

PlanRequest make_plan_request(PlanOptions options) {
  options.stages = stage_count(options);
  check_layers(options.layers);
  PlanRequest request = begin_request(options);
  check_nodes(options, request.network);
  const std::optional<ModelConfig> model = load_model(options);
  if (model) check_measurement(options, request.network, *model);
  request.workload = make_workload(options, model);
  request.nodes_per_stage = options.nodes_per_stage;
  const std::vector<int> nodes =
      options.nodes_per_stage.empty() ? split_evenly(request.network.size(), options.stages) : options.nodes_per_stage;
  request.microbatches = all_microbatches(options, nodes.front());
  request.max_replica_delay_s =
      options.max_replica_delay_s.value_or(default_replica_delay_s(request.network, request.workload));
  if (!options.skip) skip_less_if_needed(request);
  if (!options.evaluations && options.seconds == 0)
    request.budget.evaluations = evaluations_of(request, kSimulatedVisits);
  return request;
}

std::string describe_skipping(const PlanOptions& options, const PlanRequest& request, const Plan& plan) {
  PlanRequest asked = request;
  asked.rules.skip_ratio = parse_share(kDefaultSkip);
  const int stages = plan.stage_count(), visited = static_cast<int>(plan.microbatches.front().visits.size());
  if (options.skip || plan.method == "full" || visited <= path_length(asked)) return {};
  return fmt::format(
      "\n  skipping   {} of {} stages, less than --skip's default of {}: every stage must be in some path\n",
      stages - visited, stages, kDefaultSkip);
}

std::string describe_slots(const PlanOptions& options, const PlanRequest& request, const Plan& plan) {
  std::string text;
  int fewer = 0, nodes = 0;
  for (const std::vector<int>& stage : plan.stages)
    for (const int node : stage) {
      const auto i = static_cast<size_t>(node);
      const NetworkNode& told = request.network.nodes[i];
      ++nodes;
      if (!told.slots_from_memory && plan.node_slots[i] < std::min(told.slots, request.microbatches)) ++fewer;
    }
  if (fewer > 0)
    text += fmt::format("\n  slots      fewer than {} says on {} of {} nodes, whose memory holds no more{}\n",
                        options.network, fewer, nodes,
                        options.recompute == Recompute::kBlock ? "" : ": --recompute block makes room");
  if (options.recompute != Recompute::kNone && !options.model.empty())
    text += fmt::format(
        "\n  recompute  {}: where a run does so, each backward takes {:.0f} % of a forward longer than planned\n",
        recompute_name(options.recompute),
        100 * recomputed_share(options.recompute, load_training_config(options.model), options.tokens));
  return text;
}

ShapeRequest make_shape_request(const PlanOptions& options) {
  if (!options.layers.empty() || !options.nodes_per_stage.empty())
    throw UsageError("plan: --stages auto chooses --layers and --nodes-per-stage itself: leave them out");
  if (options.model.empty())
    throw UsageError(
        "plan: --stages auto needs --model and --tokens, which say how many layers there are and what they take");
  ShapeRequest request = {.plan = begin_request(options)};
  const std::optional<ModelConfig> model = load_model(options);
  check_measurement(options, request.plan.network, *model);
  request.layers = static_cast<int>(model->layers);
  request.may_skip_less = !options.skip;
  request.workload_of = [options, model](const std::vector<int>& stage_layers) {
    PlanOptions shaped = options;
    shaped.stages = static_cast<int>(stage_layers.size());
    shaped.layers = stage_layers;
    return make_workload(shaped, model);
  };
  request.microbatches_of = [options](int data_nodes) { return all_microbatches(options, data_nodes); };
  if (!options.evaluations && options.seconds == 0)
    request.plan.budget.evaluations = evaluations_of(middle_request(request), kAutoVisits);
  return request;
}

}  // namespace skippipe
