// A plan: the stage of every node, the path of every microbatch, rank and priority of every visit, predicted times.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace skippipe {

class JsonReader;
struct Network;

// The rules C1-C5 and T1 (arXiv:2502.19913) that a plan was made under.
struct PlanRules {
  double skip_ratio = 0;       // r: each path visits P = S - round(r * S) stages
  int max_swaps = 2;           // C3: visits behind the furthest stage reached
  int max_swap_distance = 1;   // C3: how far behind
  int max_jump = 4;            // C3: how far past the furthest stage reached a visit may go
  bool equal_exposure = true;  // C4
  bool equal_data = false;     // C5: data nodes start the same number of microbatches, but for one

  bool operator==(const PlanRules&) const = default;
};

// What one iteration computes and moves, so that a plan can be simulated from its file and a network alone.
struct Workload {
  int samples = 1;                // per microbatch
  int64_t activation_bytes = 0;   // of one message between stages, forward or backward
  std::vector<int> stage_layers;  // transformer layers per stage
  std::vector<int64_t> stage_gradient_bytes;
  bool exchange_norm = true;  // gradient clipping: a round of small messages between all nodes
  // Of a node's memory: what each stage takes whatever its slots (weights, gradients, optimizer state, scratch), and
  // what one slot takes. Both empty: not known.
  std::vector<int64_t> stage_state_bytes = {};
  std::vector<int64_t> stage_slot_bytes = {};

  bool operator==(const Workload&) const = default;
};

struct PlannedVisit {
  int node = 0;
  int rank = 0;              // place in the order in which the node admits visits
  int forward_priority = 0;  // among tasks that may run, a node runs the one of highest priority
  int backward_priority = 0;
  int backward_rank = 0;  // place among the node's gradient passes (losses and backwards): they run in this order

  bool operator==(const PlannedVisit&) const = default;
};

struct PlannedMicrobatch {
  std::vector<PlannedVisit> visits;  // along the path; the first is the data node's
  int loss_priority = 0;
  int loss_rank = 0;  // place among the data node's gradient passes

  int data_node() const { return visits.front().node; }
  bool operator==(const PlannedMicrobatch&) const = default;
};

struct Prediction {
  double iteration_s = 0;         // from the start of one iteration to the last node's optimizer step
  double steady_iteration_s = 0;  // between the ends of consecutive iterations of a long run
  double waiting_share = 0;  // share of the iteration that nodes are neither computing nor reducing, mean over nodes
  std::vector<double> busy_share;  // per node: computing
  double bytes_sent = 0;           // by all nodes in one iteration

  bool operator==(const Prediction&) const = default;
};

struct Plan {
  std::string method;   // "full", "joint", ...
  std::string network;  // the network file that it was made for, relative to the plan's folder; may be empty
  uint64_t seed = 0;
  PlanRules rules;
  Workload workload;
  std::vector<std::string> node_names;
  std::vector<int> node_slots;
  std::vector<std::vector<int>> stages;         // per stage the indices of its nodes
  std::vector<PlannedMicrobatch> microbatches;  // in start order
  Prediction predicted;

  int stage_count() const { return static_cast<int>(stages.size()); }
  int node_count() const { return static_cast<int>(node_names.size()); }
  // The stage of each node; -1 for a node left unused.
  std::vector<int> stage_of_nodes() const;
  bool operator==(const Plan&) const = default;
};

// Layers of a stage, at least: stage 0 may hold the embedding, final norm and LM head alone.
inline int fewest_layers(size_t stage) { return stage == 0 ? 0 : 1; }

// The nodes that have a stage, ascending.
std::vector<int> used_nodes(const Plan& plan);
// Nodes of no stage leave plan and network, and the others are numbered without them. Returns the numbers that those
// had.
std::vector<int> leave_out_unused(Plan& plan, Network& network);

// Format "skippipe-plan"; schedule/FILES.md documents it. Loading checks the shape of the file and every index
// (FileError); `validate` checks the rules.
Plan read_plan(const JsonReader& root);
Plan load_plan(const std::filesystem::path& path);
void save_plan(const Plan& plan, const std::filesystem::path& path);

}  // namespace skippipe
