#include "schedule/search/conflict_search.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "base/random.h"
#include "schedule/search/capacity.h"
#include "schedule/search/paths.h"

namespace skippipe {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

uint64_t hash_of(std::initializer_list<uint64_t> words) {
  uint64_t hash = 0;
  for (const uint64_t word : words) hash = mix_bits(hash ^ mix_bits(word));
  return hash;
}

}  // namespace

ConflictSearch::ConflictSearch(const PlanRequest& request, int length, std::vector<PathAgent> agents,
                               Collisions collisions, BudgetMeter& meter)
    : request_(request),
      meter_(meter),
      agents_(std::move(agents)),
      collisions_(collisions),
      paths_(request, length),
      length_(length),
      stage_of_(request.network.nodes.size(), -1),
      fewest_{std::numeric_limits<int>::max(), 0, 0} {
  for (size_t s = 0; s < request.stages.size(); ++s)
    for (const int node : request.stages[s]) stage_of_[static_cast<size_t>(node)] = static_cast<int>(s);
  for (const PathAgent& agent : agents_) waves_ = std::max(waves_, static_cast<size_t>(agent.wave) + 1);
  for (size_t wave = 0; wave < waves_; ++wave) {
    int paths = 0, in_flight = 1;
    for (const PathAgent& agent : agents_) {
      if (agent.wave != static_cast<int>(wave)) continue;
      ++paths;
      in_flight = std::max(in_flight, agent.in_flight);
    }
    std::vector<int>& capacity = capacity_.emplace_back();
    for (int node = 0; node < request.network.size(); ++node) {
      const int stage = stage_of(node);
      if (stage < 1) {
        capacity.push_back(std::numeric_limits<int>::max());  // data nodes start what fits
        continue;
      }
      const int slots = slots_in_stage(request, node, stage);
      const int stages = request.stage_count() - 1;
      const int of_stage = (paths * (length - 1) + stages - 1) / stages;
      const auto replicas = static_cast<int>(request.stages[static_cast<size_t>(stage)].size());
      capacity.push_back(std::max(slots, (of_stage + replicas - 1) / replicas * in_flight));
    }
  }
}

std::vector<std::vector<TimedPath>> ConflictSearch::run() {
  // More than any path can save by a conflict.
  double price_s = 1;
  for (size_t agent = 0; agent < agents_.size(); ++agent) {
    if (meter_.late()) return {};
    auto path = plan(agent, {}, {});
    if (!path) return {};
    price_s = std::max(price_s, path->end_s);
    alone_.push_back(std::make_shared<AgentPath>(AgentPath{.limits = {}, .path = *std::move(path)}));
  }
  run_once({.price_s = price_s, .suboptimality = kInfinite, .patience = kGreedyPatience, .solutions = 2});
  run_once({.price_s = 0, .suboptimality = kSuboptimality, .patience = kFocalPatience, .solutions = kMostSolutions});
  return std::move(kept_);
}

std::optional<TimedPath> ConflictSearch::plan(size_t agent, const PathLimits& limits,
                                              const std::vector<double>& prices) {
  auto path = paths_.run(agents_[agent].start, limits, prices);
  for (int spent = 0; spent <= paths_.expansions(); spent += kExpansionsPerEvaluation) meter_.spend();
  return path;
}

void ConflictSearch::run_once(const Run& run) {
  using Key = std::tuple<Conflicts, double, double, uint64_t>;
  std::map<std::pair<double, uint64_t>, std::shared_ptr<Branch>> open;  // by its slowest path
  std::set<Key> focal;
  std::unordered_set<uint64_t> seen;
  uint64_t made = 0;
  double bound_s = -kInfinite;  // branches up to here are in `focal`
  const auto key_of = [](const Branch& b, uint64_t id) { return Key(b.conflicts, b.slowest_s, b.sum_s, id); };
  const auto add = [&](std::shared_ptr<Branch> b) {
    if (!b || !seen.insert(b->limits_hash).second) return;
    (void)examine(*b);
    if (b->slowest_s <= bound_s) focal.insert(key_of(*b, made));
    open.emplace(std::pair(b->slowest_s, made++), std::move(b));
  };
  add(root(run));
  Conflicts fewest{std::numeric_limits<int>::max(), 0, 0};
  size_t solutions = 0;
  for (int failures = 0; !open.empty() && failures < run.patience && meter_.left(); ++failures) {
    const double least_s = open.begin()->first.first;
    const double new_bound_s =
        std::max(bound_s, run.suboptimality == kInfinite ? kInfinite : run.suboptimality * least_s);
    for (auto it = open.upper_bound({bound_s, std::numeric_limits<uint64_t>::max()});
         it != open.end() && it->first.first <= new_bound_s; ++it)
      focal.insert(key_of(*it->second, it->first.second));
    bound_s = new_bound_s;
    const Key best = *focal.begin();
    focal.erase(focal.begin());
    const auto found = open.find({std::get<1>(best), std::get<3>(best)});
    const std::shared_ptr<Branch> current = std::move(found->second);
    open.erase(found);
    keep(*current);
    if (current->conflicts < fewest) {
      fewest = current->conflicts;
      failures = 0;
    }
    if (current->conflicts == Conflicts{}) {
      if (++solutions == run.solutions) return;
      failures = 0;
      continue;
    }
    for (const Limit& limit : examine(*current)) add(branch(*current, limit, run));
  }
}

std::shared_ptr<ConflictSearch::Branch> ConflictSearch::root(const Run& run) {
  auto root = std::make_shared<Branch>();
  root->agents = alone_;
  if (run.price_s == 0) return root;
  std::vector<size_t> order(agents_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return alone_[a]->path.end_s > alone_[b]->path.end_s; });
  Usage usage{.stages = std::vector<int>(request_.stages.size(), 0),
              .nodes = {waves_, std::vector<int>(stage_of_.size(), 0)}};
  for (const size_t agent : order) {
    if (meter_.late()) return nullptr;
    auto path = plan(agent, {}, prices(usage, agent, run.price_s));
    if (!path) return nullptr;
    add(usage, agent, *path, 1);
    root->agents[agent] = std::make_shared<AgentPath>(AgentPath{.limits = {}, .path = *std::move(path)});
  }
  return root;
}

std::shared_ptr<ConflictSearch::Branch> ConflictSearch::branch(const Branch& parent, const Limit& limit,
                                                               const Run& run) {
  AgentPath changed{.limits = parent.agents[limit.agent]->limits, .path = {}};
  const auto target = static_cast<size_t>(limit.stage_or_node);
  switch (limit.kind) {
    case Limit::Kind::kStage:
      changed.limits.banned_stages.resize(request_.stages.size(), false);
      changed.limits.banned_stages[target] = true;
      break;
    case Limit::Kind::kNode:
      changed.limits.banned_nodes.resize(stage_of_.size(), false);
      changed.limits.banned_nodes[target] = true;
      break;
    case Limit::Kind::kTime:
      changed.limits.busy.push_back(limit.busy);
      break;
  }
  std::vector<double> price;
  if (run.price_s > 0) {
    Usage others = usage_of(parent);
    add(others, limit.agent, parent.agents[limit.agent]->path, -1);
    price = prices(others, limit.agent, run.price_s);
  }
  auto path = plan(limit.agent, changed.limits, price);
  if (!path) return nullptr;
  changed.path = *std::move(path);
  auto child = std::make_shared<Branch>(parent);
  child->limits_hash ^=
      hash_of({static_cast<uint64_t>(limit.kind), limit.agent, target, std::bit_cast<uint64_t>(limit.busy.start_s),
               std::bit_cast<uint64_t>(limit.busy.end_s)});
  child->agents[limit.agent] = std::make_shared<AgentPath>(std::move(changed));
  return child;
}

std::vector<ConflictSearch::Limit> ConflictSearch::examine(Branch& branch) const {
  branch.slowest_s = branch.sum_s = 0;
  for (const auto& agent : branch.agents) {
    branch.slowest_s = std::max(branch.slowest_s, agent->path.end_s);
    branch.sum_s += agent->path.end_s;
  }
  branch.conflicts = {};
  std::vector<Limit> limits;
  const Usage usage = usage_of(branch);
  examine_stages(usage, branch, branch.conflicts, limits);
  examine_slots(usage, branch, branch.conflicts, limits);
  if (collisions_ == Collisions::kAvoided) examine_times(branch, branch.conflicts, limits);
  return limits;
}

void ConflictSearch::examine_stages(const Usage& usage, const Branch& branch, Conflicts& conflicts,
                                    std::vector<Limit>& limits) const {
  const std::vector<int> shares = stage_shares(usage.stages);
  int worst = 0, worst_excess = 0;
  for (size_t s = 1; s < shares.size(); ++s) {
    const int excess = usage.stages[s] - shares[s];
    conflicts[0] += std::max(0, excess);
    if (excess <= worst_excess) continue;
    worst = static_cast<int>(s);
    worst_excess = excess;
  }
  if (worst == 0) return;
  std::vector<size_t> visitors;
  for (size_t agent = 0; agent < agents_.size(); ++agent)
    if (std::ranges::any_of(branch.agents[agent]->path.nodes, [&](int node) { return stage_of(node) == worst; }))
      visitors.push_back(agent);
  for (const size_t agent : fastest_first(branch, std::move(visitors)))
    limits.push_back({.kind = Limit::Kind::kStage, .agent = agent, .stage_or_node = worst});
}

void ConflictSearch::examine_slots(const Usage& usage, const Branch& branch, Conflicts& conflicts,
                                   std::vector<Limit>& limits) const {
  size_t worst_wave = 0;
  int worst = -1, worst_excess = 0;
  for (size_t wave = 0; wave < waves_; ++wave)
    for (size_t node = 0; node < stage_of_.size(); ++node) {
      const int excess = usage.nodes[wave][node] - capacity_[wave][node];
      conflicts[1] += std::max(0, excess);
      if (excess <= worst_excess) continue;
      worst = static_cast<int>(node);
      worst_wave = wave;
      worst_excess = excess;
    }
  if (worst < 0 || !limits.empty()) return;
  std::vector<size_t> visitors;
  for (size_t agent = 0; agent < agents_.size(); ++agent)
    if (agents_[agent].wave == static_cast<int>(worst_wave) &&
        std::ranges::find(branch.agents[agent]->path.nodes, worst) != branch.agents[agent]->path.nodes.end())
      visitors.push_back(agent);
  for (const size_t agent : fastest_first(branch, std::move(visitors)))
    limits.push_back({.kind = Limit::Kind::kNode, .agent = agent, .stage_or_node = worst});
}

void ConflictSearch::examine_times(const Branch& branch, Conflicts& conflicts, std::vector<Limit>& limits) const {
  struct Use {
    int wave;
    PathVisit visit;
    size_t agent;
  };
  std::vector<Use> uses;
  for (size_t agent = 0; agent < agents_.size(); ++agent)
    for (const PathVisit& visit : branch.agents[agent]->path.visits)
      uses.push_back({agents_[agent].wave, visit, agent});
  std::sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) {
    return std::tie(a.wave, a.visit.node, a.visit.start_s, a.agent) <
           std::tie(b.wave, b.visit.node, b.visit.start_s, b.agent);
  });
  const bool settle = limits.empty();
  double first_s = kInfinite;
  for (size_t i = 0; i + 1 < uses.size(); ++i) {
    const Use& a = uses[i];
    const Use& b = uses[i + 1];
    if (a.wave != b.wave || a.visit.node != b.visit.node || a.agent == b.agent || b.visit.start_s >= a.visit.end_s)
      continue;
    ++conflicts[2];
    if (!settle || b.visit.start_s >= first_s) continue;
    first_s = b.visit.start_s;
    limits = {{.kind = Limit::Kind::kTime, .agent = b.agent, .stage_or_node = a.visit.node, .busy = a.visit},
              {.kind = Limit::Kind::kTime, .agent = a.agent, .stage_or_node = a.visit.node, .busy = b.visit}};
  }
}

void ConflictSearch::keep(const Branch& branch) {
  if (branch.conflicts[0] > 0 || branch.conflicts > fewest_) return;
  if (branch.conflicts < fewest_) kept_.clear();
  fewest_ = branch.conflicts;
  if (kept_.size() >= 2 * kMostSolutions) return;
  std::vector<TimedPath>& paths = kept_.emplace_back();
  for (const auto& agent : branch.agents) paths.push_back(agent->path);
}

ConflictSearch::Usage ConflictSearch::usage_of(const Branch& branch) const {
  Usage usage{.stages = std::vector<int>(request_.stages.size(), 0),
              .nodes = {waves_, std::vector<int>(stage_of_.size(), 0)}};
  for (size_t agent = 0; agent < agents_.size(); ++agent) add(usage, agent, branch.agents[agent]->path, 1);
  return usage;
}

void ConflictSearch::add(Usage& usage, size_t agent, const TimedPath& path, int sign) const {
  std::vector<int>& nodes = usage.nodes[static_cast<size_t>(agents_[agent].wave)];
  for (const int node : path.nodes) {
    usage.stages[static_cast<size_t>(stage_of(node))] += sign;
    nodes[static_cast<size_t>(node)] += sign * agents_[agent].in_flight;
  }
}

// How many paths may visit each stage: as many as each other stage, or one more of those that serve most. Where
// exposure need not be equal, any number, unless that leaves a stage without.
std::vector<int> ConflictSearch::stage_shares(const std::vector<int>& served) const {
  const int stages = request_.stage_count() - 1;
  std::vector<int> shares(served.size(), 0);
  if (stages == 0) return shares;
  if (!request_.rules.equal_exposure && std::find(served.begin() + 1, served.end(), 0) == served.end())
    return std::vector<int>(served.size(), std::numeric_limits<int>::max());
  const int visits = static_cast<int>(agents_.size()) * (length_ - 1);
  std::vector<size_t> order(static_cast<size_t>(stages));
  std::iota(order.begin(), order.end(), size_t{1});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return served[a] > served[b]; });
  for (size_t i = 0; i < order.size(); ++i)
    shares[order[i]] = visits / stages + (static_cast<int>(i) < visits % stages ? 1 : 0);
  return shares;
}

// What each node costs a path more for the conflicts that its visit would make.
std::vector<double> ConflictSearch::prices(const Usage& others, size_t agent, double price_s) const {
  std::vector<double> price(stage_of_.size(), 0);
  const std::vector<int> shares = stage_shares(others.stages);
  const auto wave = static_cast<size_t>(agents_[agent].wave);
  for (size_t s = 1; s < request_.stages.size(); ++s)
    for (const int node : request_.stages[s]) {
      const auto n = static_cast<size_t>(node);
      const int excess = others.nodes[wave][n] + agents_[agent].in_flight - capacity_[wave][n];
      if (others.stages[s] >= shares[s]) price[n] += 2 * price_s;
      if (excess > 0) price[n] += price_s;
    }
  return price;
}

std::vector<size_t> ConflictSearch::fastest_first(const Branch& branch, std::vector<size_t> agents) const {
  std::stable_sort(agents.begin(), agents.end(),
                   [&](size_t a, size_t b) { return branch.agents[a]->path.end_s < branch.agents[b]->path.end_s; });
  if (agents.size() > kMostBranches) agents.resize(kMostBranches);
  return agents;
}

}  // namespace skippipe
