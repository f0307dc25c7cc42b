#include "schedule/plan/plan.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"
#include "schedule/plan/network.h"

namespace skippipe {
namespace {

constexpr const char* kFormat = "skippipe-plan";
constexpr int kVersion = 2;
constexpr size_t kMaxMicrobatches = 65536;
constexpr int64_t kMaxBytes = int64_t{1} << 50;
constexpr double kMaxSeconds = 1e12;

// The items of a list whose length lies in [low, high].
std::vector<JsonReader> list_of(const JsonReader& field, size_t low, size_t high) {
  std::vector<JsonReader> items = field.items();
  if (items.size() < low || items.size() > high)
    field.fail(low == high ? fmt::format("a list of {}", low) : fmt::format("a list of {} to {}", low, high));
  return items;
}

int as_index(const JsonReader& field, size_t count) {
  return static_cast<int>(field.as_int(0, static_cast<int64_t>(count) - 1));
}

int as_priority(const JsonReader& field) {
  return static_cast<int>(field.as_int(std::numeric_limits<int>::min(), std::numeric_limits<int>::max()));
}

PlanRules read_rules(const JsonReader& json) {
  json.allow_only({"skip_ratio", "max_swaps", "max_swap_distance", "max_jump", "equal_exposure", "equal_data"});
  PlanRules rules;
  rules.skip_ratio = json.at("skip_ratio").as_double(0, 1);
  rules.max_swaps = static_cast<int>(json.at("max_swaps").as_int(0, kMaxNodes));
  rules.max_swap_distance = static_cast<int>(json.at("max_swap_distance").as_int(0, kMaxNodes));
  rules.max_jump = static_cast<int>(json.at("max_jump").as_int(1, kMaxNodes));
  rules.equal_exposure = json.at("equal_exposure").as_bool();
  if (const auto field = json.find("equal_data")) rules.equal_data = field->as_bool();
  return rules;
}

// One number per stage; empty without the field.
std::vector<int64_t> read_stage_bytes(const JsonReader& json, const char* key, size_t stages) {
  std::vector<int64_t> bytes;
  if (const auto field = json.find(key))
    for (const JsonReader& item : list_of(*field, stages, stages)) bytes.push_back(item.as_int(0, kMaxBytes));
  return bytes;
}

Workload read_workload(const JsonReader& json, size_t stages) {
  json.allow_only({"samples", "activation_bytes", "stage_layers", "stage_gradient_bytes", "exchange_norm",
                   "stage_state_bytes", "stage_slot_bytes"});
  Workload workload;
  workload.samples = static_cast<int>(json.at("samples").as_int(1, 1 << 20));
  workload.activation_bytes = json.at("activation_bytes").as_int(0, kMaxBytes);
  for (const JsonReader& item : list_of(json.at("stage_layers"), stages, stages))
    workload.stage_layers.push_back(
        static_cast<int>(item.as_int(fewest_layers(workload.stage_layers.size()), 1 << 16)));
  for (const JsonReader& item : list_of(json.at("stage_gradient_bytes"), stages, stages))
    workload.stage_gradient_bytes.push_back(item.as_int(0, kMaxBytes));
  workload.exchange_norm = json.at("exchange_norm").as_bool();
  workload.stage_state_bytes = read_stage_bytes(json, "stage_state_bytes", stages);
  workload.stage_slot_bytes = read_stage_bytes(json, "stage_slot_bytes", stages);
  if (workload.stage_state_bytes.size() != workload.stage_slot_bytes.size())
    json.fail("both of 'stage_state_bytes' and 'stage_slot_bytes' or neither");
  return workload;
}

PlannedMicrobatch read_microbatch(const JsonReader& json, size_t nodes, size_t stages) {
  json.allow_only(
      {"path", "ranks", "forward_priorities", "backward_priorities", "loss_priority", "backward_ranks", "loss_rank"});
  PlannedMicrobatch microbatch;
  for (const JsonReader& item : list_of(json.at("path"), 1, stages))
    microbatch.visits.push_back({.node = as_index(item, nodes)});
  const size_t length = microbatch.visits.size();
  const auto ranks = list_of(json.at("ranks"), length, length);
  const auto forward = list_of(json.at("forward_priorities"), length, length);
  const auto backward = list_of(json.at("backward_priorities"), length, length);
  const auto backward_ranks = list_of(json.at("backward_ranks"), length, length);
  for (size_t i = 0; i < length; ++i) {
    microbatch.visits[i].rank = as_index(ranks[i], kMaxMicrobatches);
    microbatch.visits[i].forward_priority = as_priority(forward[i]);
    microbatch.visits[i].backward_priority = as_priority(backward[i]);
    microbatch.visits[i].backward_rank = as_index(backward_ranks[i], 2 * kMaxMicrobatches);
  }
  microbatch.loss_priority = as_priority(json.at("loss_priority"));
  microbatch.loss_rank = as_index(json.at("loss_rank"), 2 * kMaxMicrobatches);
  return microbatch;
}

Prediction read_prediction(const JsonReader& json, size_t nodes) {
  json.allow_only({"iteration_s", "steady_iteration_s", "waiting_share", "bytes_sent", "busy_share"});
  Prediction predicted;
  predicted.iteration_s = json.at("iteration_s").as_double(0, kMaxSeconds);
  predicted.steady_iteration_s = json.get_double("steady_iteration_s", 0, 0, kMaxSeconds);
  predicted.waiting_share = json.get_double("waiting_share", 0, 0, 1);
  predicted.bytes_sent = json.get_double("bytes_sent", 0, 0, std::numeric_limits<double>::max());
  if (const auto shares = json.find("busy_share"))
    for (const JsonReader& item : list_of(*shares, nodes, nodes)) predicted.busy_share.push_back(item.as_double(0, 1));
  return predicted;
}

nlohmann::ordered_json rules_json(const PlanRules& rules) {
  return {{"skip_ratio", rules.skip_ratio},
          {"max_swaps", rules.max_swaps},
          {"max_swap_distance", rules.max_swap_distance},
          {"max_jump", rules.max_jump},
          {"equal_exposure", rules.equal_exposure},
          {"equal_data", rules.equal_data}};
}

nlohmann::ordered_json workload_json(const Workload& workload) {
  nlohmann::ordered_json json = {{"samples", workload.samples},
                                 {"activation_bytes", workload.activation_bytes},
                                 {"stage_layers", workload.stage_layers},
                                 {"stage_gradient_bytes", workload.stage_gradient_bytes},
                                 {"exchange_norm", workload.exchange_norm}};
  if (workload.stage_slot_bytes.empty()) return json;
  json["stage_state_bytes"] = workload.stage_state_bytes;
  json["stage_slot_bytes"] = workload.stage_slot_bytes;
  return json;
}

nlohmann::ordered_json prediction_json(const Prediction& predicted) {
  nlohmann::ordered_json json = {{"iteration_s", predicted.iteration_s},
                                 {"steady_iteration_s", predicted.steady_iteration_s},
                                 {"waiting_share", predicted.waiting_share},
                                 {"bytes_sent", predicted.bytes_sent}};
  if (!predicted.busy_share.empty()) json["busy_share"] = predicted.busy_share;
  return json;
}

nlohmann::ordered_json microbatch_json(const PlannedMicrobatch& microbatch) {
  std::vector<int> path, ranks, forward, backward, backward_ranks;
  for (const PlannedVisit& visit : microbatch.visits) {
    path.push_back(visit.node);
    ranks.push_back(visit.rank);
    forward.push_back(visit.forward_priority);
    backward.push_back(visit.backward_priority);
    backward_ranks.push_back(visit.backward_rank);
  }
  return {{"path", path},
          {"ranks", ranks},
          {"forward_priorities", forward},
          {"backward_priorities", backward},
          {"loss_priority", microbatch.loss_priority},
          {"backward_ranks", backward_ranks},
          {"loss_rank", microbatch.loss_rank}};
}

std::string join_lines(const std::vector<nlohmann::ordered_json>& values) {
  std::string text = "[\n";
  for (size_t i = 0; i < values.size(); ++i)
    text += fmt::format("    {}{}\n", values[i].dump(), i + 1 < values.size() ? "," : "");
  return text + "  ]";
}

}  // namespace

std::vector<int> Plan::stage_of_nodes() const {
  std::vector<int> stage_of(node_names.size(), -1);
  for (size_t stage = 0; stage < stages.size(); ++stage)
    for (const int node : stages[stage])
      if (node >= 0 && node < node_count()) stage_of[static_cast<size_t>(node)] = static_cast<int>(stage);
  return stage_of;
}

std::vector<int> used_nodes(const Plan& plan) {
  std::vector<int> used;
  for (const std::vector<int>& stage : plan.stages) used.insert(used.end(), stage.begin(), stage.end());
  std::ranges::sort(used);
  return used;
}

std::vector<int> leave_out_unused(Plan& plan, Network& network) {
  std::vector<int> used = used_nodes(plan);
  used.erase(std::unique(used.begin(), used.end()), used.end());  // a file may say what it likes
  if (used.size() == plan.node_names.size()) return used;
  network = subnetwork(network, used);
  std::vector<int> number(plan.node_names.size(), -1);
  const Plan before = plan;
  plan.node_names.clear();
  plan.node_slots.clear();
  plan.predicted.busy_share.clear();
  for (const int node : used) {
    const auto i = static_cast<size_t>(node);
    number[i] = plan.node_count();
    plan.node_names.push_back(before.node_names[i]);
    plan.node_slots.push_back(before.node_slots[i]);
    if (i < before.predicted.busy_share.size()) plan.predicted.busy_share.push_back(before.predicted.busy_share[i]);
  }
  for (std::vector<int>& stage : plan.stages)
    for (int& node : stage) node = number[static_cast<size_t>(node)];
  for (PlannedMicrobatch& microbatch : plan.microbatches)
    for (PlannedVisit& visit : microbatch.visits) {
      int& node = visit.node;
      if (number[static_cast<size_t>(node)] < 0)
        throw PlanError("a microbatch visits node '{}', which is in no stage",
                        before.node_names[static_cast<size_t>(node)]);
      node = number[static_cast<size_t>(node)];
    }
  return used;
}

Plan load_plan(const std::filesystem::path& path) {
  const nlohmann::json document = load_json(path);
  return read_plan(JsonReader(document, path.string()));
}

Plan read_plan(const JsonReader& root) {
  if (root.at("format").as_string() != kFormat) root.at("format").fail(fmt::format("\"{}\"", kFormat));
  root.at("version").as_int(kVersion, kVersion);
  root.allow_only({"format", "version", "method", "network", "seed", "rules", "workload", "nodes", "stages",
                   "microbatches", "predicted"});

  Plan plan;
  plan.method = root.at("method").as_string();
  plan.network = root.get_string("network", "");
  const JsonReader seed = root.at("seed");
  if (!seed.value().is_number_unsigned()) seed.fail("an integer from 0");
  plan.seed = seed.value().get<uint64_t>();
  plan.rules = read_rules(root.at("rules"));
  for (const JsonReader& node : list_of(root.at("nodes"), 1, kMaxNodes)) {
    node.allow_only({"name", "slots"});
    plan.node_names.push_back(node.at("name").as_string());
    plan.node_slots.push_back(static_cast<int>(node.at("slots").as_int(1, kMaxSlots)));
  }
  const size_t nodes = plan.node_names.size();
  for (const JsonReader& stage : list_of(root.at("stages"), 1, nodes)) {
    plan.stages.emplace_back();
    for (const JsonReader& node : list_of(stage, 1, nodes)) plan.stages.back().push_back(as_index(node, nodes));
  }
  plan.workload = read_workload(root.at("workload"), plan.stages.size());
  for (const JsonReader& json : list_of(root.at("microbatches"), 1, kMaxMicrobatches))
    plan.microbatches.push_back(read_microbatch(json, nodes, plan.stages.size()));
  plan.predicted = read_prediction(root.at("predicted"), nodes);
  return plan;
}

void save_plan(const Plan& plan, const std::filesystem::path& path) {
  std::vector<nlohmann::ordered_json> nodes, stages, microbatches;
  for (size_t i = 0; i < plan.node_names.size(); ++i)
    nodes.push_back({{"name", plan.node_names[i]}, {"slots", plan.node_slots[i]}});
  for (const std::vector<int>& stage : plan.stages) stages.emplace_back(stage);
  for (const PlannedMicrobatch& microbatch : plan.microbatches) microbatches.push_back(microbatch_json(microbatch));
  const std::pair<const char*, std::string> fields[] = {
      {"format", nlohmann::json(kFormat).dump()},
      {"version", std::to_string(kVersion)},
      {"method", nlohmann::json(plan.method).dump()},
      {"network", nlohmann::json(plan.network).dump()},
      {"seed", std::to_string(plan.seed)},
      {"rules", rules_json(plan.rules).dump()},
      {"workload", workload_json(plan.workload).dump()},
      {"nodes", join_lines(nodes)},
      {"stages", join_lines(stages)},
      {"microbatches", join_lines(microbatches)},
      {"predicted", prediction_json(plan.predicted).dump()},
  };
  std::string text;
  for (const auto& [key, value] : fields)
    text += fmt::format("{}  \"{}\": {}", text.empty() ? "{\n" : ",\n", key, value);
  write_file_atomically(path, text + "\n}\n");
}

}  // namespace skippipe
