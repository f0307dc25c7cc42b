#include "schedule/search/dtfm_placement.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "schedule/search/capacity.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr size_t kMostExactGroups = 12;
constexpr size_t kPopulation = 16;
constexpr int kFailuresPerNode = 4;  // exchanges in a row without gain that end a local search
constexpr int kStaleChildren = 400;  // in a row that do not beat the best end the search

// Perfect matchings under a limit (Kuhn's augmenting paths).
class LimitedMatcher {
 public:
  explicit LimitedMatcher(const CostMatrix& costs) : costs_(costs) {}

  bool match(double limit) {
    row_of_column_.assign(costs_.columns(), -1);
    seen_in_.assign(costs_.columns(), -1);
    for (search_ = 0; search_ < static_cast<int>(costs_.rows()); ++search_)
      if (!augment(static_cast<size_t>(search_), limit)) return false;
    return true;
  }
  const std::vector<int>& row_of_column() const { return row_of_column_; }

 private:
  bool augment(size_t row, double limit) {
    // A free column at once, where there is one: else equal costs take a chain of exchanges each.
    for (size_t column = 0; column < costs_.columns(); ++column) {
      if (row_of_column_[column] >= 0 || costs_(row, column) > limit) continue;
      row_of_column_[column] = static_cast<int>(row);
      return true;
    }
    for (size_t column = 0; column < costs_.columns(); ++column) {
      if (seen_in_[column] == search_ || costs_(row, column) > limit) continue;
      seen_in_[column] = search_;
      const int other = row_of_column_[column];
      if (other >= 0 && !augment(static_cast<size_t>(other), limit)) continue;
      row_of_column_[column] = static_cast<int>(row);
      return true;
    }
    return false;
  }

  const CostMatrix& costs_;
  std::vector<int> row_of_column_;
  std::vector<int> seen_in_;  // the last search that came to a column
  int search_ = 0;
};

// A square matrix with a column for every time that one of `costs` may be dealt. The last of them may stay without a
// row of `costs`, and then has one of the rows that are added.
CostMatrix deal_square(const CostMatrix& costs) {
  const size_t rows = costs.rows(), columns = costs.columns();
  const size_t times = (rows + columns - 1) / columns;
  const bool even = rows % columns == 0;
  CostMatrix square(columns * times, columns * times, kInfinite);
  for (size_t row = 0; row < square.rows(); ++row)
    for (size_t column = 0; column < square.columns(); ++column) {
      const bool optional = !even && column / columns == times - 1;
      if (row < rows)
        square(row, column) = costs(row, column % columns);
      else if (optional)
        square(row, column) = 0;
    }
  return square;
}

// No row has a cheaper pair.
double least_limit(const CostMatrix& costs) {
  double least = 0;
  for (size_t row = 0; row < costs.rows(); ++row) {
    double cheapest = kInfinite;
    for (size_t column = 0; column < costs.columns(); ++column) cheapest = std::min(cheapest, costs(row, column));
    least = std::max(least, cheapest);
  }
  return least;
}

std::vector<double> limits_from(double least, const CostMatrix& costs) {
  std::vector<double> limits;
  for (size_t row = 0; row < costs.rows(); ++row)
    for (size_t column = 0; column < costs.columns(); ++column)
      if (costs(row, column) >= least && std::isfinite(costs(row, column))) limits.push_back(costs(row, column));
  std::sort(limits.begin(), limits.end());
  limits.erase(std::unique(limits.begin(), limits.end()), limits.end());
  return limits;
}

// Leaves the matching in `matcher`.
double bottleneck_of(const CostMatrix& costs, LimitedMatcher& matcher) {
  const double least = least_limit(costs);
  if (matcher.match(least)) return least;
  const std::vector<double> limits = limits_from(least, costs);
  const auto limit = std::partition_point(limits.begin(), limits.end(), [&](double l) { return !matcher.match(l); });
  SKP_CHECK(limit != limits.end() && matcher.match(*limit), "costs that are not finite");
  return *limit;
}

double tour_cost(const std::vector<int>& order, const CostMatrix& links, const CostMatrix& places) {
  double cost = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto group = static_cast<size_t>(order[i]);
    cost += places(group, i) + links(group, static_cast<size_t>(order[(i + 1) % order.size()]));
  }
  return cost;
}

// Held and Karp 1962: the cheapest way through each set of groups to each of its members.
std::vector<int> order_exactly(const CostMatrix& links, const CostMatrix& places) {
  const size_t others = links.rows() - 1;  // but group 0
  const size_t sets = size_t{1} << others;
  CostMatrix cost(sets, others, kInfinite);
  std::vector<size_t> before(sets * others, 0);
  for (size_t g = 0; g < others; ++g) cost(size_t{1} << g, g) = links(0, g + 1) + places(g + 1, 1);
  for (size_t set = 1; set < sets; ++set) {
    const auto position = static_cast<size_t>(std::popcount(set)) + 1;
    for (size_t last = 0; last < others; ++last) {
      if (!std::isfinite(cost(set, last))) continue;
      for (size_t next = 0; next < others; ++next) {
        if (set >> next & 1) continue;
        const size_t larger = set | size_t{1} << next;
        const double through = cost(set, last) + links(last + 1, next + 1) + places(next + 1, position);
        if (through >= cost(larger, next)) continue;
        cost(larger, next) = through;
        before[larger * others + next] = last;
      }
    }
  }
  size_t set = sets - 1, last = 0;
  for (size_t g = 1; g < others; ++g)
    if (cost(set, g) + links(g + 1, 0) < cost(set, last) + links(last + 1, 0)) last = g;
  std::vector<int> order(others + 1, 0);
  for (size_t i = others; i > 0; --i) {
    order[i] = static_cast<int>(last) + 1;
    const size_t previous = before[set * others + last];
    set ^= size_t{1} << last;
    last = previous;
  }
  return order;
}

std::vector<int> order_by_exchanges(const CostMatrix& links, const CostMatrix& places) {
  std::vector<int> order(links.rows());
  std::iota(order.begin(), order.end(), 0);
  double cost = tour_cost(order, links, places);
  for (bool better = true; better;) {
    better = false;
    for (size_t i = 1; i < order.size(); ++i)
      for (size_t j = i + 1; j < order.size(); ++j) {
        std::swap(order[i], order[j]);
        const double exchanged = tour_cost(order, links, places);
        if (exchanged < cost * (1 - 1e-12)) {
          cost = exchanged;
          better = true;
        } else {
          std::swap(order[i], order[j]);
        }
      }
  }
  return order;
}

// Groups of nodes in the order of their stages, and what they cost.
struct Partition {
  struct Cost {
    int misfits = 0;
    double seconds = 0;

    auto operator<=>(const Cost&) const = default;
  };
  std::vector<std::vector<int>> groups;
  CostMatrix links{0, 0};  // between groups
  Cost cost;
};

class PlacementSearch {
 public:
  PlacementSearch(const PlanRequest& request, BudgetMeter& meter)
      : request_(request),
        meter_(meter),
        random_(request.seed, {2}),
        nodes_(request.network.nodes.size()),
        stages_(static_cast<size_t>(request.stage_count())),
        round_trips_(nodes_, nodes_),
        sizes_(request.nodes_per_stage.empty() ? split_evenly(request.network.size(), request.stage_count())
                                               : request.nodes_per_stage) {
    for (size_t a = 0; a < nodes_; ++a)
      for (size_t b = 0; b < nodes_; ++b)
        round_trips_(a, b) = round_trip_s(request, static_cast<int>(a), static_cast<int>(b));
    // Visits per microbatch of each stage but the first.
    const double share = stages_ > 1 ? (path_length(request) - 1.0) / (static_cast<double>(stages_) - 1) : 0;
    visits_.assign(stages_, share * request.microbatches);
    visits_[0] = request.microbatches;
  }

  // Best first.
  std::vector<Partition> run() {
    if (!request_.stages.empty()) return {given()};
    std::vector<Partition> population;
    do {
      population.push_back(improved(random_partition()));
    } while (stages_ > 1 && population.size() < kPopulation && meter_.left());
    const auto cheaper = [](const Partition& x, const Partition& y) { return x.cost < y.cost; };
    std::stable_sort(population.begin(), population.end(), cheaper);
    for (int stale = 0; stages_ > 1 && stale < kStaleChildren && meter_.left(); ++stale) {
      const Partition& a = population[random_.below(population.size())];
      const Partition& b = population[random_.below(population.size())];
      Partition child = improved(crossed(a, b));
      if (!(child.cost < population.back().cost) || known(population, child)) continue;
      if (child.cost < population.front().cost) stale = 0;
      population.pop_back();
      population.insert(std::upper_bound(population.begin(), population.end(), child, cheaper), std::move(child));
    }
    return population;
  }

 private:
  Partition given() {
    Partition partition{.groups = request_.stages, .links = CostMatrix(stages_, stages_), .cost = {}};
    for (size_t g = 0; g < stages_; ++g) update_links(partition, g);
    partition.cost = cost_in_order(partition);
    return partition;
  }

  Partition random_partition() {
    std::vector<int> nodes(nodes_);
    std::iota(nodes.begin(), nodes.end(), 0);
    random_.shuffle(nodes);
    Partition partition{.groups = {}, .links = CostMatrix(stages_, stages_), .cost = {}};
    auto next = nodes.begin();
    for (const int size : sizes_) {
      partition.groups.emplace_back(next, next + size);
      next += size;
    }
    return partition;
  }

  // Some groups of one, the others as near to another's as the nodes left allow.
  Partition crossed(const Partition& a, const Partition& b) {
    Partition child{.groups = a.groups, .links = CostMatrix(stages_, stages_), .cost = {}};
    std::vector<bool> used(nodes_, false), inherited(stages_);
    for (size_t g = 0; g < stages_; ++g) {
      inherited[g] = random_.below(2) == 0;
      if (!inherited[g]) continue;
      for (const int node : a.groups[g]) used[static_cast<size_t>(node)] = true;
    }
    for (size_t g = 0; g < stages_; ++g) {
      if (inherited[g]) continue;
      child.groups[g] = b.groups[g];
      std::erase_if(child.groups[g], [&](int node) { return used[static_cast<size_t>(node)]; });
      for (const int node : child.groups[g]) used[static_cast<size_t>(node)] = true;
    }
    std::vector<int> unused;
    for (size_t node = 0; node < nodes_; ++node)
      if (!used[node]) unused.push_back(static_cast<int>(node));
    random_.shuffle(unused);
    for (size_t g = 0; g < stages_; ++g)
      while (child.groups[g].size() < static_cast<size_t>(sizes_[g])) {
        child.groups[g].push_back(unused.back());
        unused.pop_back();
      }
    return child;
  }

  // Local search: a node of each of two or three groups goes to the next group, of the last one to the first, as long
  // as the cost falls.
  Partition improved(Partition partition) {
    for (size_t g = 0; g < stages_; ++g) update_links(partition, g);
    settle(partition);
    Partition candidate = partition;
    const int patience = kFailuresPerNode * static_cast<int>(nodes_);
    for (int failures = 0; stages_ > 1 && failures < patience && meter_.left(); ++failures) {
      candidate = partition;
      exchange_cyclically(candidate);
      settle(candidate);
      if (candidate.cost < partition.cost) {
        std::swap(partition, candidate);
        failures = 0;
      }
    }
    return partition;
  }

  void exchange_cyclically(Partition& partition) {
    std::array<size_t, 3> cycle{};
    const size_t length = stages_ > 2 && random_.below(3) == 0 ? 3 : 2;
    for (size_t i = 0; i < length; ++i) {
      do {
        cycle[i] = random_.below(stages_);
      } while (std::find(cycle.begin(), cycle.begin() + i, cycle[i]) != cycle.begin() + i);
    }
    int* first = &any_of(partition.groups[cycle[0]]);
    for (size_t i = 1; i < length; ++i) std::swap(*first, any_of(partition.groups[cycle[i]]));
    for (size_t i = 0; i < length; ++i) update_links(partition, cycle[i]);
  }

  int& any_of(std::vector<int>& group) { return group[random_.below(group.size())]; }

  static bool known(const std::vector<Partition>& population, const Partition& child) {
    return std::any_of(population.begin(), population.end(), [&](const Partition& p) { return p.cost == child.cost; });
  }

  void update_links(Partition& partition, size_t group) const {
    for (size_t other = 0; other < stages_; ++other) {
      if (other == group) continue;
      const double link = coarse_link(partition.groups[group], partition.groups[other]);
      partition.links(group, other) = link;
      partition.links(other, group) = link;
    }
  }

  double coarse_link(const std::vector<int>& a, const std::vector<int>& b) const {
    const std::vector<int>& larger = a.size() < b.size() ? b : a;
    const std::vector<int>& smaller = a.size() < b.size() ? a : b;
    CostMatrix costs(larger.size(), smaller.size());
    for (size_t i = 0; i < larger.size(); ++i)
      for (size_t j = 0; j < smaller.size(); ++j)
        costs(i, j) = round_trips_(static_cast<size_t>(larger[i]), static_cast<size_t>(smaller[j]));
    return match_bottleneck(costs).bottleneck;
  }

  // Puts the groups in order, and says what they cost.
  void settle(Partition& partition) {
    if (++partitions_ % kPartitionsPerEvaluation == 0) meter_.spend();
    CostMatrix places(stages_, stages_);
    for (size_t g = 0; g < stages_; ++g)
      for (size_t s = 0; s < stages_; ++s)
        places(g, s) = sizes_[g] == sizes_[s] ? slowest_computing_s(partition.groups[g], s) : kInfinite;
    const std::vector<int> order = order_groups(partition.links, places);
    const std::vector<std::vector<int>> groups = partition.groups;
    const CostMatrix links = partition.links;
    for (size_t s = 0; s < stages_; ++s) {
      partition.groups[s] = groups[static_cast<size_t>(order[s])];
      for (size_t t = 0; t < stages_; ++t)
        partition.links(s, t) = links(static_cast<size_t>(order[s]), static_cast<size_t>(order[t]));
    }
    partition.cost = cost_in_order(partition);
  }

  // The first microbatch's way there and back, the others behind it in the busiest stage, the slowest reduction.
  Partition::Cost cost_in_order(const Partition& partition) const {
    Partition::Cost cost;
    double way_s = 0, busiest_s = 0, reduction_s = 0;
    for (size_t s = 0; s < stages_; ++s) {
      const std::vector<int>& group = partition.groups[s];
      const double computing_s = slowest_computing_s(group, s);
      const double visits_each = visits_[s] / static_cast<double>(group.size());
      way_s += computing_s + (stages_ > 1 ? partition.links(s, (s + 1) % stages_) : 0);
      busiest_s = std::max(busiest_s, std::max(0.0, visits_each - 1) * computing_s);
      reduction_s = std::max(reduction_s, group_reduction_s(group, s));
      cost.misfits += count_misfits(request_, group, static_cast<int>(s));
    }
    cost.seconds = way_s + busiest_s + reduction_s;
    return cost;
  }

  double slowest_computing_s(const std::vector<int>& group, size_t stage) const {
    double slowest = 0;
    for (const int node : group)
      slowest = std::max(slowest, forward_s(request_, node, stage) + backward_s(request_, node, stage));
    return slowest;
  }

  // As the simulator does it: shards to their replicas, sums to all.
  double group_reduction_s(const std::vector<int>& group, size_t stage) const {
    const auto bytes = static_cast<double>(request_.workload.stage_gradient_bytes[stage]);
    if (bytes == 0) {
      double slowest = 0;
      for (const int a : group)
        for (const int b : group)
          if (a != b) slowest = std::max(slowest, message_s(request_, a, b));
      return slowest;
    }
    const double shard = bytes / static_cast<double>(group.size());
    double done = 0;
    for (const int a : group) {
      double summed = 0, sent = 0;
      for (const int b : group) {
        if (a == b) continue;
        summed = std::max(summed, request_.network.link(b, a).transfer_s(shard));
        sent = std::max(sent, request_.network.link(a, b).transfer_s(shard));
      }
      done = std::max(done, summed + sent);
    }
    return done;
  }

  const PlanRequest& request_;
  BudgetMeter& meter_;
  Random random_;
  size_t nodes_;
  size_t stages_;
  CostMatrix round_trips_;
  std::vector<int> sizes_;
  std::vector<double> visits_;  // of a stage, in an iteration
  int64_t partitions_ = 0;      // that were costed
};

}  // namespace

Matching match_bottleneck(const CostMatrix& costs) {
  SKP_CHECK(costs.rows() > 0 && costs.columns() > 0, "nothing to match");
  const bool square_already = costs.rows() == costs.columns();
  const CostMatrix square = square_already ? costs : deal_square(costs);
  LimitedMatcher matcher(square);
  Matching matching{.column_of_row = std::vector<int>(costs.rows()), .bottleneck = bottleneck_of(square, matcher)};
  for (size_t column = 0; column < square.columns(); ++column) {
    const auto row = static_cast<size_t>(matcher.row_of_column()[column]);
    if (row < costs.rows()) matching.column_of_row[row] = static_cast<int>(column % costs.columns());
  }
  return matching;
}

std::vector<int> order_groups(const CostMatrix& links, const CostMatrix& places) {
  if (links.rows() <= 1) return std::vector<int>(links.rows(), 0);
  return links.rows() <= kMostExactGroups ? order_exactly(links, places) : order_by_exchanges(links, places);
}

Placements place_stages(const PlanRequest& request, BudgetMeter& meter) {
  PlacementSearch search(request, meter);
  std::vector<Partition> partitions = search.run();
  Placements placements;
  if (partitions.front().cost.misfits > 0) placements.why = *check_placement(request, partitions.front().groups);
  for (Partition& partition : partitions) {
    if (partition.cost.misfits > 0) break;
    if (request.stages.empty())
      for (std::vector<int>& group : partition.groups) std::sort(group.begin(), group.end());
    placements.best_first.push_back({.stages = std::move(partition.groups), .cost_s = partition.cost.seconds});
  }
  return placements;
}

}  // namespace skippipe
