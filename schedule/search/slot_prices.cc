#include "schedule/search/slot_prices.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace skippipe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kFirstOtherPrice = 0.05;  // of a second at a node that is no data node, for 1 at data nodes
constexpr double kFirstStep = 0.3;
constexpr int kPatience = 40;  // rounds without a higher floor before steps become smaller
constexpr double kSmaller = 0.9;
constexpr int kGiveUp = 200;
constexpr double kLongest = 1e12;
constexpr int kMostRounds = 3000;
constexpr int kFewestRounds = 100;   // fewer find nothing
constexpr double kMostPairs = 3e7;   // of places, looked at in all rounds
constexpr double kSlack = 1 + 1e-9;  // for sums in another order than the simulator's

size_t index(int value) { return static_cast<size_t>(value); }

}  // namespace

double SlotPrices::Supply::seconds(double iteration_s) const {
  const double window_s = iteration_s - head_s - tail_s;
  if (window_s <= 0 || slots == 0) return 0;
  double used = slots;
  if (staggered_s > 0) used = std::min(used, std::floor(window_s / staggered_s) + 1);
  return used * window_s - staggered_s * used * (used - 1) / 2;
}

double SlotPrices::Supply::window_s(double seconds) const {
  const auto with = [&](double used) { return seconds / used + staggered_s * (used - 1) / 2; };
  const double best = staggered_s > 0 ? std::sqrt(2 * seconds / staggered_s) : kInfinity;  // of any number of slots
  const double used = std::clamp(std::floor(best), 1.0, static_cast<double>(slots));
  return std::min(with(used), with(std::min(used + 1, static_cast<double>(slots))));
}

SlotPrices::SlotPrices(const BoundCosts& costs, Problem problem) : problem_(std::move(problem)) {
  for (int a = 0; a < problem_.nodes; ++a)
    for (int b = 0; b < problem_.nodes; ++b) both_ways_s_.push_back(a == b ? 0 : costs.both_ways_s(a, b));
}

double SlotPrices::floor_s() {
  const int rounds = static_cast<int>(std::min<double>(kMostRounds, kMostPairs / std::max(1.0, pairs())));
  if (rounds < kFewestRounds) return 0;
  const size_t nodes = index(problem_.nodes), stages = problem_.fewest_visits.size();
  weights_ = {.data = Costs(nodes, 0), .other = Costs(nodes, std::log(kFirstOtherPrice)), .visit = Costs(stages, 0)};
  measure_holds();
  double floor = 0, step = kFirstStep;
  for (int round = 0, vain = 0; round < rounds && vain < kGiveUp; ++round) {
    find_trips();
    const double found = root_above(floor);
    if (found > floor) {
      floor = found;
      vain = 0;
    } else if (++vain % kPatience == 0) {
      step *= kSmaller;
    }
    if (floor > kLongest) break;  // no plan at all, as prices then show without end
    const double aim_s = floor * (1 + step / 100);
    adjust(choose(aim_s), aim_s, step);
  }
  return floor / kSlack;
}

// Places that a round compares with each other.
double SlotPrices::pairs() const {
  const Trips& trips = problem_.trips;
  double sum = 0;
  for (const auto& edges : trips.further)
    for (const PathGraph::Edge& edge : edges)
      sum += static_cast<double>(trips.places[index(edge.from)].size() * trips.places[index(edge.to)].size());
  sum *= static_cast<double>(problem_.data_nodes.size());
  const auto candidates = static_cast<double>(problem_.data_nodes.size());
  if (problem_.data_nodes.size() > index(problem_.data_node_count))
    sum += candidates * problem_.data_node_count * static_cast<double>(problem_.microbatches * problem_.most_each) / 8;
  return sum;
}

// What a visit at a place takes of its own, as prices are.
double SlotPrices::visit_price(size_t data_node, int visit, int state, size_t place) const {
  const Place& at = problem_.trips.places[index(state)][place];
  double price = prices_.data[index(problem_.data_nodes[data_node].node)] * at.work_s;
  if (!holds_[data_node].empty())
    price += prices_.other[index(at.node)] * holds_[data_node][index(visit)][index(state)][place];
  return prices_.visit.empty() ? price : price + prices_.visit[index(at.stage)];
}

// From the last visit to the first: at each place the least price from there on.
SlotPrices::Ways SlotPrices::cheapest_ways(size_t data_node) const {
  Ways ways;
  ways.prices.resize(index(problem_.trips.visits));
  ways.next.resize(index(problem_.trips.visits));
  for (int visit = problem_.trips.visits - 1; visit >= 0; --visit) {
    for (const auto& places : problem_.trips.places) {
      ways.prices[index(visit)].emplace_back(places.size(), kInfinity);
      ways.next[index(visit)].emplace_back(places.size());
    }
    if (visit + 1 == problem_.trips.visits) {
      end_ways(data_node, ways);
      continue;
    }
    for (const PathGraph::Edge& edge : problem_.trips.further[index(visit)]) extend_ways(data_node, visit, edge, ways);
  }
  return ways;
}

// The last visit's message goes to the data node, which computes the loss.
void SlotPrices::end_ways(size_t data_node, Ways& ways) const {
  const DataNode& data = problem_.data_nodes[data_node];
  const double second = prices_.data[index(data.node)];
  const int last = problem_.trips.visits - 1;
  for (size_t state = 0; state < problem_.trips.places.size(); ++state)
    for (size_t i = 0; i < problem_.trips.places[state].size(); ++i) {
      const Place& place = problem_.trips.places[state][i];
      if (place.node == data.node) continue;
      ways.prices[index(last)][state][i] = visit_price(data_node, last, static_cast<int>(state), i) +
                                           second * (both_ways_s(place.node, data.node) + data.loss_s);
    }
}

void SlotPrices::extend_ways(size_t data_node, int visit, const PathGraph::Edge& edge, Ways& ways) const {
  const int data = problem_.data_nodes[data_node].node;
  const double second = prices_.data[index(data)];
  const std::vector<Place>& from = problem_.trips.places[index(edge.from)];
  const std::vector<Place>& to = problem_.trips.places[index(edge.to)];
  const Costs& behind = ways.prices[index(visit) + 1][index(edge.to)];
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i].node == data) continue;
    const double own = visit_price(data_node, visit, edge.from, i);
    double& best = ways.prices[index(visit)][index(edge.from)][i];
    for (size_t j = 0; j < to.size(); ++j) {
      if (to[j].node == from[i].node) continue;
      const double price = own + second * both_ways_s(from[i].node, to[j].node) + behind[j];
      if (price >= best) continue;
      best = price;
      ways.next[index(visit)][index(edge.from)][i] = {edge.to, static_cast<int>(j)};
    }
  }
}

SlotPrices::Trip SlotPrices::cheapest_trip(size_t data_node, const Ways& ways) const {
  const Trips& trips = problem_.trips;
  const DataNode& data = problem_.data_nodes[data_node];
  const double second = prices_.data[index(data.node)];
  Trip trip = {.price = kInfinity, .seconds = kInfinity};
  Step step;
  for (const int state : trips.first)
    for (size_t i = 0; i < trips.places[index(state)].size(); ++i) {
      const double price = second * (data.work_s + both_ways_s(data.node, trips.places[index(state)][i].node)) +
                           ways.prices[0][index(state)][i];
      if (price >= trip.price) continue;
      trip.price = price;
      step = {state, static_cast<int>(i)};
    }
  if (trip.price == kInfinity) return trip;
  int before = data.node;
  trip.seconds = data.work_s + data.loss_s;
  for (size_t visit = 0; visit < index(trips.visits); ++visit) {
    const Place& place = trips.places[index(step.state)][index(step.place)];
    trip.seconds += both_ways_s(before, place.node) + place.work_s;
    before = place.node;
    trip.steps.push_back(step);
    step = ways.next[visit][index(step.state)][index(step.place)];
  }
  trip.seconds += both_ways_s(before, data.node);
  return trip;
}

// Where a second costs 1 to the data node alone, the price of a way is its time: the least that a visit holds its slot.
void SlotPrices::measure_holds() {
  prices_ = {.data = Costs(index(problem_.nodes), 1), .other = {}, .visit = {}};
  holds_.assign(problem_.data_nodes.size(), {});
  shortest_s_.clear();
  for (size_t d = 0; d < problem_.data_nodes.size(); ++d) {
    Ways ways = cheapest_ways(d);
    shortest_s_.push_back(cheapest_trip(d, ways).seconds);
    holds_[d] = std::move(ways.prices);
  }
}

void SlotPrices::find_trips() {
  prices_ = weights_;
  for (double& price : prices_.data) price = std::exp(price);
  for (double& price : prices_.other) price = std::exp(price);
  trips_.clear();
  for (size_t d = 0; d < problem_.data_nodes.size(); ++d) trips_.push_back(cheapest_trip(d, cheapest_ways(d)));
}

int64_t SlotPrices::most_started(size_t data_node, double iteration_s) const {
  const Supply& supply = problem_.data_nodes[data_node].supply;
  const double window_s = iteration_s - supply.tail_s;
  if (supply.slots == 0 || window_s <= 0 || shortest_s_[data_node] == kInfinity) return 0;
  const double rounds = shortest_s_[data_node] > 0 ? std::floor(window_s / shortest_s_[data_node] * kSlack)
                                                   : static_cast<double>(problem_.most_each);
  return static_cast<int64_t>(std::min(static_cast<double>(problem_.most_each), rounds * supply.slots));
}

// What all have to sell who are no data nodes, and what visits of stages must bring.
double SlotPrices::sold(double iteration_s) const {
  double sum = 0;
  for (size_t node = 0; node < problem_.others.size(); ++node)
    sum += prices_.other[node] * problem_.others[node].seconds(iteration_s);
  for (size_t stage = 0; stage < prices_.visit.size(); ++stage)
    sum += std::max(prices_.visit[stage] * static_cast<double>(problem_.fewest_visits[stage]),
                    prices_.visit[stage] * static_cast<double>(problem_.most_visits[stage]));
  return sum;
}

SlotPrices::Choice SlotPrices::choose(double iteration_s) const {
  Choice choice = index(problem_.data_node_count) >= problem_.data_nodes.size() ? choose_all(iteration_s)
                                                                                : choose_some(iteration_s);
  choice.excess -= sold(iteration_s);
  return choice;
}

// All are data nodes: the cheapest start as many as they can.
SlotPrices::Choice SlotPrices::choose_all(double iteration_s) const {
  Choice choice = {.started = std::vector<int64_t>(problem_.data_nodes.size(), 0)};
  std::vector<size_t> order(problem_.data_nodes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t d) { return trips_[d].price; });
  int64_t left = problem_.microbatches;
  for (const size_t d : order) {
    const DataNode& data = problem_.data_nodes[d];
    choice.excess -= prices_.data[index(data.node)] * data.supply.seconds(iteration_s);
    const int64_t started = std::min(left, most_started(d, iteration_s));
    if (started == 0) continue;
    left -= started;
    choice.started[d] = started;
    choice.excess += static_cast<double>(started) * trips_[d].price;
  }
  if (left > 0) choice.excess = kInfinity;
  return choice;
}

// Who becomes a data node sells a data node's seconds instead of another's: a knapsack of so many nodes and
// microbatches.
SlotPrices::Choice SlotPrices::choose_some(double iteration_s) const {
  const size_t candidates = problem_.data_nodes.size(), most = index(problem_.data_node_count);
  const auto all = static_cast<size_t>(problem_.microbatches), width = all + 1;
  Costs least((most + 1) * width, kInfinity), before;
  least[0] = 0;
  std::vector<std::vector<int32_t>> taken(candidates);
  for (size_t d = 0; d < candidates; ++d) {
    const DataNode& data = problem_.data_nodes[d];
    const size_t node = index(data.node);
    const double fixed = prices_.other[node] * problem_.others[node].seconds(iteration_s) -
                         prices_.data[node] * data.supply.seconds(iteration_s);
    const auto can = static_cast<size_t>(most_started(d, iteration_s));
    before = least;
    taken[d].assign(least.size(), 0);
    for (size_t count = 1; count <= most; ++count)
      for (size_t started = 1; started <= can; ++started) {
        const double price = fixed + static_cast<double>(started) * trips_[d].price;
        const double* from = &before[(count - 1) * width];
        double* to = &least[count * width + started];
        for (size_t m = 0; m + started <= all; ++m)
          if (from[m] + price < to[m]) {
            to[m] = from[m] + price;
            taken[d][count * width + started + m] = static_cast<int32_t>(started);
          }
      }
  }
  Choice choice = {.excess = kInfinity, .started = std::vector<int64_t>(candidates, 0)};
  size_t count = 0;
  for (size_t c = 0; c <= most; ++c)
    if (least[c * width + all] < choice.excess) choice.excess = least[(count = c) * width + all];
  if (choice.excess == kInfinity) return choice;
  for (size_t d = candidates, m = all; d-- > 0;)
    if (const int32_t started = taken[d][count * width + m]; started > 0) {
      choice.started[d] = started;
      m -= static_cast<size_t>(started);
      --count;
    }
  return choice;
}

// The longest iteration that these prices prove too short, if it is longer than this one.
double SlotPrices::root_above(double iteration_s) const {
  const auto too_short = [&](double seconds) { return choose(seconds).excess > 0; };
  double low = std::max(iteration_s, 1e-9);
  if (!too_short(low * kSlack)) return iteration_s;
  double high = low * 2;
  for (; too_short(high); high *= 2) {
    low = high;
    if (high > kLongest) return high;
  }
  while (low < high * (1 - 1e-7)) {
    const double middle = (low + high) / 2;
    (too_short(middle) ? low : high) = middle;
  }
  return low;
}

// What is asked for more than there is becomes dearer, what is left over cheaper.
void SlotPrices::adjust(const Choice& choice, double iteration_s, double step) {
  if (choice.excess == kInfinity) return;
  const size_t nodes = index(problem_.nodes);
  Costs asked(nodes, 0), visits(prices_.visit.size(), 0);
  std::vector<bool> is_data(nodes, false);
  double paid = 0;
  for (size_t d = 0; d < choice.started.size(); ++d) {
    const auto started = static_cast<double>(choice.started[d]);
    const DataNode& data = problem_.data_nodes[d];
    const bool all = problem_.data_nodes.size() <= index(problem_.data_node_count);
    if (started == 0 && !all) continue;
    is_data[index(data.node)] = true;
    const double there_s = data.supply.seconds(iteration_s);
    if (there_s > 0) weights_.data[index(data.node)] += step * (started * trips_[d].seconds - there_s) / there_s;
    if (started == 0) continue;
    paid += started * trips_[d].price;
    for (size_t visit = 0; visit < trips_[d].steps.size(); ++visit) {
      const Step& at = trips_[d].steps[visit];
      const Place& place = problem_.trips.places[index(at.state)][index(at.place)];
      asked[index(place.node)] += started * holds_[d][visit][index(at.state)][index(at.place)];
      if (!visits.empty()) visits[index(place.stage)] += started;
    }
  }
  for (size_t node = 0; node < nodes; ++node) {
    const double there_s = problem_.others[node].seconds(iteration_s);
    if (there_s > 0) weights_.other[node] += step * (asked[node] - (is_data[node] ? 0 : there_s)) / there_s;
  }
  const double usual = paid / static_cast<double>(std::max<int64_t>(1, problem_.microbatches));
  for (size_t stage = 0; stage < visits.size(); ++stage) {
    const auto fewest = static_cast<double>(problem_.fewest_visits[stage]);
    const auto most = static_cast<double>(problem_.most_visits[stage]);
    const double off = std::max(0.0, visits[stage] - most) - std::max(0.0, fewest - visits[stage]);
    weights_.visit[stage] += step * usual * off / std::max(1.0, most) / 4;
  }
  // Prices have no unit: the mean data node's is 1.
  const double mean = std::accumulate(weights_.data.begin(), weights_.data.end(), 0.0) / static_cast<double>(nodes);
  for (double& weight : weights_.data) weight -= mean;
  for (double& weight : weights_.other) weight -= mean;
  for (double& price : weights_.visit) price *= std::exp(-mean);
}

}  // namespace skippipe
