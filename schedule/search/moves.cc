#include "schedule/search/moves.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "schedule/search/planning.h"

namespace skippipe {
namespace {

// How much busy nodes are shunned, drawn anew for each move as no one value is best everywhere.
constexpr double kLeastCrowding = 0.1;
constexpr double kMostCrowding = 10;

int& random_node(std::vector<int>& stage, Random& random) { return stage[random.below(stage.size())]; }

}  // namespace

void equalize_data(Candidate& candidate, Random& random) {
  std::map<int, std::vector<int>> rows;  // of each data node
  for (const int node : candidate.stages[0]) rows[node];
  for (int m = 0; m < candidate.microbatches(); ++m)
    if (const auto found = rows.find(candidate.path(m)[0]); found != rows.end()) found->second.push_back(m);
  const auto count = [](const auto& node_and_rows) { return node_and_rows.second.size(); };
  for (;;) {
    const auto [fewest, most] = std::ranges::minmax_element(rows, {}, count);
    if (count(*most) <= count(*fewest) + 1) return;
    int& given = most->second[random.below(count(*most))];
    candidate.path(given)[0] = fewest->first;
    fewest->second.push_back(given);
    given = most->second.back();
    most->second.pop_back();
  }
}

Moves::Moves(const PlanRequest& request) : request_(request), router_(request) {
  const bool may_place = request.stages.empty();
  moves_ = {{&Moves::exchange_rows, 2},     {&Moves::move_row, 1},
            {&Moves::reorder, 2},           {&Moves::change_replica, 4},
            {&Moves::exchange_replicas, 2}, {&Moves::exchange_stages, 4},
            {&Moves::reroute, 4},           {&Moves::exchange_stages_and_reroute, 2}};
  const bool divides = request.rules.equal_exposure && request.stage_count() > 1 &&
                       request.microbatches * (path_length(request) - 1) % (request.stage_count() - 1) == 0;
  if (!divides) moves_.push_back({&Moves::replace_stage, 2});
  if (may_place) moves_.push_back({&Moves::exchange_nodes, 2});
  if (may_place) moves_.push_back({&Moves::exchange_nodes_and_reroute, 2});
  if (may_place && request.nodes_per_stage.empty()) {
    moves_.push_back({&Moves::resize, 1});
    moves_.push_back({&Moves::exchange_groups_and_reroute, 1});
  }
  for (const Weighted& move : moves_) weights_ += move.weight;
}

bool Moves::change(Candidate& candidate, double iteration_s, Random& random) {
  iteration_s_ = iteration_s;
  stage_of_.assign(request_.network.nodes.size(), -1);
  for (size_t stage = 0; stage < candidate.stages.size(); ++stage)
    for (const int node : candidate.stages[stage]) stage_of_[static_cast<size_t>(node)] = static_cast<int>(stage);
  unused_.clear();
  for (int node = 0; node < request_.network.size(); ++node)
    if (stage_of(node) < 0) unused_.push_back(node);
  if (!change_something(candidate, random)) return false;
  if (request_.rules.equal_data) equalize_data(candidate, random);
  return true;
}

bool Moves::change_something(Candidate& candidate, Random& random) {
  auto draw = static_cast<int>(random.below(static_cast<uint64_t>(weights_)));
  for (const Weighted& move : moves_) {
    draw -= move.weight;
    if (draw < 0) return (this->*move.move)(candidate, random);
  }
  return false;
}

int Moves::random_row(const Candidate& candidate, Random& random) const {
  return static_cast<int>(random.below(static_cast<uint64_t>(candidate.microbatches())));
}

const PathStages& Moves::stages_of(std::span<const int> path, PathStages& scratch) const {
  scratch.clear();
  for (size_t i = 1; i < path.size(); ++i) scratch.push_back(stage_of(path[i]));
  return scratch;
}

// Back into an order that C3 allows, ascending unless the present one is; false: there is none.
bool Moves::settle(std::span<int> path) {
  if (disorder(stages_of(path, stages_a_), request_.rules) == 0) return true;
  std::sort(path.begin() + 1, path.end(), [&](int a, int b) { return stage_of(a) < stage_of(b); });
  return disorder(stages_of(path, stages_a_), request_.rules) == 0;
}

// Of a stage, or those that are unused.
std::vector<int>& Moves::random_group(Candidate& candidate, Random& random) {
  const size_t group = random.below(candidate.stages.size() + (unused_.empty() ? 0 : 1));
  return group < candidate.stages.size() ? candidate.stages[group] : unused_;
}

// Two nodes, everywhere: also their stages. One may be unused, and takes the other's place.
bool Moves::exchange_nodes(Candidate& candidate, Random& random) {
  std::vector<int>& group_a = random_group(candidate, random);
  std::vector<int>& group_b = random_group(candidate, random);
  int& a = random_node(group_a, random);
  int& b = random_node(group_b, random);
  if (a == b || (stage_of(a) < 0 && stage_of(b) < 0)) return false;
  for (int& node : candidate.nodes) node = node == a ? b : node == b ? a : node;
  std::swap(a, b);
  return true;
}

// A node changes its stage, is left out, or is used again.
bool Moves::resize(Candidate& candidate, Random& random) {
  const auto node = static_cast<int>(random.below(request_.network.nodes.size()));
  // One more than the stages: unused.
  const auto stage = static_cast<int>(random.below(candidate.stages.size() + 1));
  const bool unused = stage == static_cast<int>(candidate.stages.size());
  const int from = stage_of(node);
  if (from == (unused ? -1 : stage)) return false;
  if (from >= 0 && candidate.stages[static_cast<size_t>(from)].size() == 1) return false;
  if (from >= 0) leave(candidate, node, random);
  if (!unused) join(candidate, node, stage, random);
  return true;
}

// Its visits go to the other replicas.
void Moves::leave(Candidate& candidate, int node, Random& random) {
  std::vector<int>& replicas = candidate.stages[static_cast<size_t>(stage_of(node))];
  std::erase(replicas, node);
  for (int& visited : candidate.nodes)
    if (visited == node) visited = random_node(replicas, random);
}

// Takes its share of the others' visits.
void Moves::join(Candidate& candidate, int node, int stage, Random& random) {
  std::vector<int>& replicas = candidate.stages[static_cast<size_t>(stage)];
  for (int& visited : candidate.nodes)
    if (visited != node && stage_of(visited) == stage && random.below(replicas.size() + 1) == 0) visited = node;
  replicas.push_back(node);
}

bool Moves::exchange_rows(Candidate& candidate, Random& random) {
  const std::span<int> a = candidate.path(random_row(candidate, random));
  const std::span<int> b = candidate.path(random_row(candidate, random));
  if (a.data() == b.data()) return false;
  std::swap_ranges(a.begin(), a.end(), b.begin());
  return true;
}

// A microbatch starts earlier or later; those between move up.
bool Moves::move_row(Candidate& candidate, Random& random) {
  const auto row = [&](int m) { return candidate.nodes.begin() + static_cast<std::ptrdiff_t>(m) * candidate.length; };
  const int from = random_row(candidate, random), to = random_row(candidate, random);
  if (from == to) return false;
  if (from < to)
    std::rotate(row(from), row(from + 1), row(to + 1));
  else
    std::rotate(row(to), row(from), row(from + 1));
  return true;
}

bool Moves::reorder(Candidate& candidate, Random& random) {
  const std::span<int> path = candidate.path(random_row(candidate, random));
  if (path.size() < 3) return false;
  const size_t i = 1 + random.below(path.size() - 1);
  const size_t j = 1 + random.below(path.size() - 1);
  if (i == j) return false;
  std::swap(path[i], path[j]);
  return disorder(stages_of(path, stages_a_), request_.rules) == 0;
}

bool Moves::change_replica(Candidate& candidate, Random& random) {
  const std::span<int> path = candidate.path(random_row(candidate, random));
  int& node = path[random.below(path.size())];
  const int other = random_node(candidate.stages[static_cast<size_t>(stage_of(node))], random);
  if (other == node) return false;
  node = other;
  return true;
}

// Two paths that visit a stage at different replicas exchange these.
bool Moves::exchange_replicas(Candidate& candidate, Random& random) {
  const std::span<int> a = candidate.path(random_row(candidate, random));
  const std::span<int> b = candidate.path(random_row(candidate, random));
  int& node = a[random.below(a.size())];
  for (int& other : b) {
    if (other == node || stage_of(other) != stage_of(node)) continue;
    std::swap(node, other);
    return true;
  }
  return false;
}

bool Moves::exchange_stages(Candidate& candidate, Random& random) {
  const std::span<int> a = candidate.path(random_row(candidate, random));
  const std::span<int> b = candidate.path(random_row(candidate, random));
  return exchange_stages_of(a, b, random);
}

// Each of two paths gets a stage that only the other one visits.
bool Moves::exchange_stages_of(std::span<int> a, std::span<int> b, Random& random) {
  stages_of(a, stages_a_);
  stages_of(b, stages_b_);
  const int i = random_difference(stages_a_, stages_b_, random);
  const int j = random_difference(stages_b_, stages_a_, random);
  if (i < 0 || j < 0) return false;
  std::swap(a[static_cast<size_t>(i) + 1], b[static_cast<size_t>(j) + 1]);
  return settle(a) && settle(b);
}

// A visit of another stage, as far as C4 allows.
bool Moves::replace_stage(Candidate& candidate, Random& random) {
  const std::span<int> path = candidate.path(random_row(candidate, random));
  if (path.size() < 2) return false;
  const auto stage = 1 + static_cast<int>(random.below(candidate.stages.size() - 1));
  if (contains(stages_of(path, stages_a_), stage)) return false;
  int& node = path[1 + random.below(path.size() - 1)];
  served_.assign(candidate.stages.size(), 0);
  for (const int visited : candidate.nodes) ++served_[static_cast<size_t>(stage_of(visited))];
  // Equal but for one before, and after only if the one that served more gives to one that served less. Where exposure
  // need not be equal, no stage gives its last visit.
  const int fewest = request_.rules.equal_exposure ? served_[static_cast<size_t>(stage)] : 1;
  if (served_[static_cast<size_t>(stage_of(node))] <= fewest) return false;
  node = random_node(candidate.stages[static_cast<size_t>(stage)], random);
  return settle(path);
}

void Moves::measure(const Candidate& candidate, Random& random) {
  router_.measure(candidate, iteration_s_, std::exp(random.uniform(std::log(kLeastCrowding), std::log(kMostCrowding))));
}

// The replicas of one path by how busy they are.
bool Moves::reroute(Candidate& candidate, Random& random) {
  const std::span<int> path = candidate.path(random_row(candidate, random));
  if (random.below(4) == 0) path[0] = random_node(candidate.stages[0], random);
  measure(candidate, random);
  const std::vector<int> before(path.begin(), path.end());
  router_.reroute(candidate, path);
  return !std::ranges::equal(before, path);
}

bool Moves::exchange_stages_and_reroute(Candidate& candidate, Random& random) {
  const std::span<int> a = candidate.path(random_row(candidate, random));
  const std::span<int> b = candidate.path(random_row(candidate, random));
  if (!exchange_stages_of(a, b, random)) return false;
  measure(candidate, random);
  router_.reroute(candidate, a);
  router_.reroute(candidate, b);
  return true;
}

// Each visit of a node goes to the one that `instead` says; paths that this changes look for new ways.
template <typename Instead>
void Moves::replace_and_reroute(Candidate& candidate, Random& random, const Instead& instead) {
  std::vector<int> touched;
  for (int m = 0; m < candidate.microbatches(); ++m) {
    bool found = false;
    for (int& node : candidate.path(m)) {
      const int before = std::exchange(node, instead(node));
      found = found || node != before;
    }
    if (found) touched.push_back(m);
  }
  measure(candidate, random);
  for (const int m : touched) router_.reroute(candidate, candidate.path(m));
}

// One of the nodes may be unused.
bool Moves::exchange_nodes_and_reroute(Candidate& candidate, Random& random) {
  const auto a = static_cast<int>(random.below(request_.network.nodes.size()));
  const auto b = static_cast<int>(random.below(request_.network.nodes.size()));
  const int stage_a = stage_of(a), stage_b = stage_of(b);
  if (stage_a == stage_b) return false;
  if (stage_a >= 0) *std::ranges::find(candidate.stages[static_cast<size_t>(stage_a)], a) = b;
  if (stage_b >= 0) *std::ranges::find(candidate.stages[static_cast<size_t>(stage_b)], b) = a;
  replace_and_reroute(candidate, random, [&](int node) { return node == a ? b : node == b ? a : node; });
  return true;
}

// Two stages, all their nodes. Node by node, groups of unlike size would pass through worse plans.
bool Moves::exchange_groups_and_reroute(Candidate& candidate, Random& random) {
  const auto a = static_cast<int>(random.below(candidate.stages.size()));
  const auto b = static_cast<int>(random.below(candidate.stages.size()));
  if (a == b) return false;
  std::vector<int>& group_a = candidate.stages[static_cast<size_t>(a)];
  std::vector<int>& group_b = candidate.stages[static_cast<size_t>(b)];
  std::swap(group_a, group_b);
  replace_and_reroute(candidate, random, [&](int node) {
    const int stage = stage_of(node);  // before
    return stage == a ? random_node(group_a, random) : stage == b ? random_node(group_b, random) : node;
  });
  return true;
}

}  // namespace skippipe
