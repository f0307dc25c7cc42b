#include "tests/engine/node/distributed_scenario.h"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "kernels/copy.h"
#include "kernels/cpu_backend.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "tests/test_backend.h"

namespace skippipe::testing {
namespace {

constexpr int kVocabulary = 37;
constexpr uint32_t kIterations = 3;

ModelConfig small_model(int layers, bool tied) {
  ModelConfig model;
  model.channels = 16;
  model.feed_forward = 24;
  model.layers = layers;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 4;
  model.vocabulary = kVocabulary;
  model.max_positions = 64;
  model.tied_embeddings = tied;
  model.initializer_range = 0.3;  // large, so that every gradient matters
  return model;
}

Network random_network(Random& random, int nodes) {
  Network network;
  for (int n = 0; n < nodes; ++n) {
    NetworkNode node;
    node.name = fmt::format("node-{}", n);
    node.forward_s = random.uniform(0.5, 2);
    node.slots = 2 + static_cast<int>(random.below(3));
    network.nodes.push_back(node);
  }
  network.links.resize(static_cast<size_t>(nodes) * static_cast<size_t>(nodes));
  for (Link& link : network.links) link.latency_s = random.uniform(0, 2);
  return network;
}

// Bounded disorder (C3): at most one swap of neighbours per path.
std::vector<int> random_stages(Random& random, int stages, int visited) {
  std::vector<int> order(static_cast<size_t>(stages) - 1);
  std::iota(order.begin(), order.end(), 1);
  random.shuffle(order);
  order.resize(static_cast<size_t>(visited) - 1);
  std::sort(order.begin(), order.end());
  if (order.size() >= 2 && random.below(2) == 0) {
    const uint64_t at = random.below(order.size() - 1);
    if (order[at + 1] - order[at] == 1) std::swap(order[at], order[at + 1]);
  }
  order.insert(order.begin(), 0);
  return order;
}

Plan random_plan(Random& random, const Network& network, int stages, const std::vector<int>& layers) {
  Plan plan;
  plan.method = "test";
  plan.rules.equal_exposure = false;  // a matter of training, not of running
  plan.workload.stage_layers = layers;
  plan.workload.activation_bytes = 1000;
  plan.workload.stage_gradient_bytes.assign(layers.size(), 1000);
  plan.stages.resize(static_cast<size_t>(stages));
  for (int n = 0; n < network.size(); ++n) {
    plan.node_names.push_back(network.nodes[static_cast<size_t>(n)].name);
    plan.node_slots.push_back(network.nodes[static_cast<size_t>(n)].slots);
    plan.stages[static_cast<size_t>(n % stages)].push_back(n);
  }
  const int visited = stages <= 2 ? stages : stages - static_cast<int>(random.below(static_cast<uint64_t>(stages) - 1));
  plan.rules.skip_ratio = static_cast<double>(stages - visited) / stages;
  plan.rules.max_jump = stages;
  const uint64_t microbatches = 3 + random.below(4);
  for (uint64_t m = 0; m < microbatches; ++m) {
    PlannedMicrobatch microbatch;
    for (const int stage : random_stages(random, stages, visited)) {
      const std::vector<int>& nodes = plan.stages[static_cast<size_t>(stage)];
      microbatch.visits.push_back({.node = nodes[random.below(nodes.size())]});
    }
    plan.microbatches.push_back(microbatch);
  }
  return plan;
}

void write_tokens(uint64_t seed, const std::filesystem::path& path) {
  if (std::filesystem::exists(path)) return;
  Random random(seed, {1});
  TokenShardWriter writer(path, kVocabulary, 0);
  std::vector<int32_t> tokens(400);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(kVocabulary));
  writer.append(tokens);
  writer.end_document();
  writer.finish();
}

}  // namespace

bool has_skips(const Plan& plan) {
  return std::ranges::any_of(plan.microbatches,
                             [&](const PlannedMicrobatch& m) { return m.visits.size() < plan.stages.size(); });
}

bool has_swaps(const Plan& plan) {
  const std::vector<int> stage_of = plan.stage_of_nodes();
  return std::ranges::any_of(plan.microbatches, [&](const PlannedMicrobatch& m) {
    return !std::ranges::is_sorted(m.visits, {},
                                   [&](const PlannedVisit& v) { return stage_of[static_cast<size_t>(v.node)]; });
  });
}

TrainingRun make_scenario(uint64_t seed, const std::filesystem::path& folder) {
  Random random(seed);
  // Three of four seeds have paths that skip and paths that swap, the others whatever comes.
  const bool mixed = seed % 4 != 0;
  const int stages = mixed ? 4 + static_cast<int>(random.below(2)) : 1 + static_cast<int>(random.below(5));
  const int nodes = stages + static_cast<int>(random.below(static_cast<uint64_t>(stages) + 1));
  std::vector<int> layers(static_cast<size_t>(stages));
  for (int& count : layers) count = 1 + static_cast<int>(random.below(2));

  TrainingRun run;
  run.model = small_model(std::accumulate(layers.begin(), layers.end(), 0), random.below(2) == 0);
  run.network = random_network(random, nodes);
  run.file.seed = static_cast<int64_t>(seed);
  run.file.run_id = mix_bits(seed);
  run.file.iterations = kIterations;
  run.file.samples = 2;
  run.file.tokens = 7;
  run.file.schedule = "constant";
  // Half of the seeds, where the processor can.
  if (seed % 8 >= 4 && make_cpu_backend()->computes_in(Dtype::kBf16)) run.file.dtype = "bf16";
  if (seed >= kFirstDeviceSeed) {
    run.file.iterations = 2;
    run.file.part_bytes = 5 * run.model.channels * 4;  // 5 of 14 rows, and 4 in the last part
  }
  if (seed >= kFirstDeviceSeed && seed % 3 == 2) run.file.wire_dtype = "bf16";
  run.file.recompute = recompute_name(kRecomputes[seed % kRecomputes.size()]);
  run.file.clip_norm = random.below(2) == 0 ? 0 : 0.5;
  run.file.train_tokens = folder / fmt::format("tokens-{}.shard", seed);
  write_tokens(seed, run.file.train_tokens);
  // Two of three seeds: after each iteration, or after the second and the last.
  if (seed % 3 != 0) {
    run.file.validation_tokens = run.file.train_tokens;
    run.file.validation_interval = static_cast<int64_t>(seed % 3);
    run.file.validation_samples = 5;  // the last of three batches has one
  }

  // Random paths can deadlock under any order: then others are drawn.
  Simulator simulator(run.network);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    run.plan = random_plan(random, run.network, stages, layers);
    run.plan.workload.samples = static_cast<int>(run.file.samples);
    run.plan.workload.exchange_norm = run.file.clip_norm > 0;
    assign_priorities(run.plan);
    if (mixed && !(has_skips(run.plan) && has_swaps(run.plan))) continue;
    if (complete_plan(run.plan, simulator)) return run;
  }
  throw InternalError("seed {}: no plan in 1000 attempts", seed);
}

std::string scenario_backend(const TrainingRun& run, int node, const std::string& gpu) {
  const auto seed = static_cast<uint64_t>(run.file.seed);
  if (seed < kFirstDeviceSeed) return "cpu";
  return seed % 3 == 0 || mix_bits(seed + static_cast<uint64_t>(node)) % 2 == 0 ? gpu : "cpu";
}

TrainingRun as_node(TrainingRun run, int node) {
  const auto seed = static_cast<uint64_t>(run.file.seed);
  if (seed >= kFirstDeviceSeed && run.file.wire_dtype != "auto")
    run.node_dtype = mix_bits(seed + static_cast<uint64_t>(node)) % 4 < 2 ? "bf16" : "f32";
  return run;
}

NodeRecord run_node(const TrainingRun& all, int node, Transport& transport, Tracer* tracer, const std::string& gpu) {
  const TrainingRun run = as_node(all, node);
  std::string why_none;
  auto backend = make_test_backend(scenario_backend(run, node, gpu), why_none);
  SKP_CHECK(backend != nullptr, "{}", why_none);
  NodeParts parts(run, node, std::move(backend));
  NodeRecord record;
  NodeRecord::Iteration current;
  std::vector<IterationReport> reports;
  NodeHooks hooks;
  hooks.on_task = [&](TaskKind kind, int microbatch) { current.tasks.push_back({kind, microbatch}); };
  hooks.before_step = [&](uint32_t, Stage& stage) {
    current.gradients.resize(static_cast<size_t>(stage.gradients().elements()));
    copy(stage.context(), host_tensor(std::span(current.gradients)), stage.gradients());
    finish(stage.context());
    record.iterations.push_back(std::exchange(current, {}));
  };
  hooks.on_report = [&](const IterationReport& report) { reports.push_back(report); };
  hooks.tracer = tracer;
  const std::unique_ptr<Node> running = parts.make_node(transport, std::move(hooks), make_null_logger());
  const int64_t allocations = parts.backend().runtime().allocations();
  try {
    running->run();
  } catch (...) {
    // Takes back what peers could still read from this node's memory.
    [[maybe_unused]] const Status closed = transport.close(std::chrono::milliseconds(0));
    throw;
  }
  SKP_CHECK(
      parts.backend().runtime().allocations() == allocations && parts.slab().bytes() == parts.memory().total_bytes(),
      "the memory of node {} differs from its table", node);
  if (const Status status = running->leave(); !status.ok()) throw RunError(status.message());
  SKP_CHECK(reports.size() == record.iterations.size());
  for (size_t i = 0; i < reports.size(); ++i) {
    record.iterations[i].loss = reports[i].loss;
    record.iterations[i].gradient_norm = reports[i].gradient_norm;
    if (!reports[i].validation) continue;
    record.iterations[i].validation_loss = reports[i].validation->loss;
    record.iterations[i].validation_path_loss = reports[i].validation->path_loss.value_or(-1);
  }
  return record;
}

namespace {

template <typename T>
void write_values(std::ofstream& file, const std::vector<T>& values) {
  const uint64_t count = values.size();
  file.write(reinterpret_cast<const char*>(&count), sizeof(count));
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
}

template <typename T>
std::vector<T> read_values(std::ifstream& file) {
  uint64_t count = 0;
  file.read(reinterpret_cast<char*>(&count), sizeof(count));
  SKP_CHECK(file.good() && count < (1u << 24));
  std::vector<T> values(count);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return values;
}

}  // namespace

void save_record(const NodeRecord& record, const std::filesystem::path& path) {
  std::ofstream file(path, std::ios::binary);
  for (const NodeRecord::Iteration& iteration : record.iterations) {
    write_values(file, iteration.tasks);
    write_values(file, iteration.gradients);
    write_values(file, std::vector<double>{iteration.loss, iteration.gradient_norm, iteration.validation_loss,
                                           iteration.validation_path_loss});
  }
  file.close();
  SKP_CHECK(file.good(), "{}", path.string());
}

NodeRecord load_record(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  NodeRecord record;
  while (file.peek() != std::ifstream::traits_type::eof()) {
    NodeRecord::Iteration iteration;
    iteration.tasks = read_values<NodeRecord::Task>(file);
    iteration.gradients = read_values<float>(file);
    const std::vector<double> known = read_values<double>(file);
    SKP_CHECK(file.good() && known.size() == 4, "{}", path.string());
    iteration.loss = known[0];
    iteration.gradient_norm = known[1];
    iteration.validation_loss = known[2];
    iteration.validation_path_loss = known[3];
    record.iterations.push_back(std::move(iteration));
  }
  return record;
}

}  // namespace skippipe::testing
