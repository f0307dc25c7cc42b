#include "schedule/pictures/plan_layout.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

namespace skippipe {
namespace {

constexpr int kSweeps = 24;  // each one way and back
constexpr int kAlignments = 40;
constexpr double kOutside = 1e9;   // beyond every y
constexpr double kWidestBand = 3;  // that is empty in all columns, in gaps between nodes

// Another item that `lines` lines go to or come from next.
struct Neighbour {
  int item;
  double lines;
};

class Layout {
 public:
  Layout(const Plan& plan, const LayoutSizes& sizes) : plan_(plan), sizes_(sizes) {
    add_nodes();
    for (const PlannedMicrobatch& microbatch : plan.microbatches) add_route(microbatch);
    connect();
  }

  PlanLayout run() {
    for (std::vector<int>& column : columns_) pack(column, std::vector<double>(column.size(), 0));
    order_columns();
    for (int i = 0; i < kAlignments; ++i)
      for (size_t c = 0; c < columns_.size(); ++c) align(columns_[i % 2 == 0 ? c : columns_.size() - 1 - c]);
    close_gaps();
    move_to_origin();
    assign_lanes();
    return std::move(layout_);
  }

 private:
  enum class Side { kLeft, kRight, kBoth };

  LayoutItem& item(int i) { return layout_.items[static_cast<size_t>(i)]; }
  std::vector<int>& column_of(int i) { return columns_[static_cast<size_t>(item(i).column)]; }
  const std::vector<Neighbour>& neighbours(int i) const { return neighbours_[static_cast<size_t>(i)]; }

  int add_item(int column, int node, bool back) {
    const int index = static_cast<int>(layout_.items.size());
    layout_.items.push_back({.column = column, .node = node, .back = back});
    columns_[static_cast<size_t>(column)].push_back(index);
    return index;
  }

  void add_nodes() {
    columns_.resize(plan_.stages.size());
    layout_.item_of_node.assign(plan_.node_names.size(), -1);
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage)
      for (const int node : plan_.stages[stage])
        layout_.item_of_node[static_cast<size_t>(node)] = add_item(static_cast<int>(stage), node, false);
  }

  void add_route(const PlannedMicrobatch& microbatch) {
    std::vector<LayoutStop>& route = layout_.routes.emplace_back();
    int previous = -1;
    for (const PlannedVisit& visit : microbatch.visits) {
      const int next = layout_.item_of_node[static_cast<size_t>(visit.node)];
      if (previous >= 0) add_bundles(previous, next, route);
      route.push_back({.item = next});
      previous = next;
    }
    for (const LayoutStop& stop : route) ++item(stop.item).lines;
  }

  // Through the columns between two nodes; a line that goes back turns round at either end, so that it also passes the
  // columns of both.
  void add_bundles(int from, int to, std::vector<LayoutStop>& route) {
    const int begin = item(from).column, end = item(to).column;
    const bool back = end < begin;
    const int step = back ? -1 : 1;
    for (int column = back ? begin : begin + 1; column != (back ? end - 1 : end); column += step) {
      const auto [at, is_new] = bundles_.try_emplace({from, to, column}, -1);
      if (is_new) at->second = add_item(column, -1, back);
      route.push_back({.item = at->second});
    }
  }

  void connect() {
    std::map<std::pair<int, int>, double> lines;
    for (const std::vector<LayoutStop>& route : layout_.routes)
      for (size_t i = 0; i + 1 < route.size(); ++i) {
        lines[{route[i].item, route[i + 1].item}] += 1;
        lines[{route[i + 1].item, route[i].item}] += 1;
      }
    neighbours_.resize(layout_.items.size());
    for (const auto& [pair, count] : lines)
      neighbours_[static_cast<size_t>(pair.first)].push_back({pair.second, count});
  }

  // Order.

  void order_columns() {
    std::vector<std::vector<int>> best = columns_;
    double best_crossings = crossings();
    for (int sweep = 0; sweep < kSweeps && best_crossings > 0; ++sweep) {
      for (size_t c = 0; c < columns_.size(); ++c) sort_column(columns_[c], Side::kLeft);
      for (size_t c = columns_.size(); c-- > 0;) sort_column(columns_[c], Side::kRight);
      while (exchange_neighbours()) {
      }
      if (const double now = crossings(); now < best_crossings) {
        best_crossings = now;
        best = columns_;
      }
      // The next sweep begins elsewhere.
      for (std::vector<int>& column : columns_) sort_column(column, Side::kBoth);
    }
    columns_ = std::move(best);
    for (std::vector<int>& column : columns_) align(column);
  }

  double barycenter(int i, Side side) {
    double sum = 0, lines = 0;
    for (const Neighbour& next : neighbours(i)) {
      const int distance = item(next.item).column - item(i).column;
      if ((side == Side::kLeft && distance > 0) || (side == Side::kRight && distance < 0)) continue;
      sum += next.lines * item(next.item).y;
      lines += next.lines;
    }
    return lines > 0 ? sum / lines : item(i).y;
  }

  void sort_column(std::vector<int>& column, Side side) {
    std::vector<std::pair<double, int>> keyed;
    for (const int i : column) keyed.emplace_back(barycenter(i, side), i);
    std::ranges::stable_sort(keyed, {}, &std::pair<double, int>::first);
    std::vector<double> desired;
    for (size_t k = 0; k < keyed.size(); ++k) {
      column[k] = keyed[k].second;
      desired.push_back(keyed[k].first);
    }
    pack(column, desired);
  }

  // True if an exchange of two neighbours in a column made fewer crossings.
  bool exchange_neighbours() {
    bool better = false;
    for (std::vector<int>& column : columns_)
      for (size_t k = 0; k + 1 < column.size(); ++k) {
        if (pair_crossings(column[k], column[k + 1]) <= pair_crossings(column[k + 1], column[k])) continue;
        std::swap(column[k], column[k + 1]);
        std::swap(item(column[k]).y, item(column[k + 1]).y);  // the order is what counts now
        better = true;
      }
    return better;
  }

  // Crossings of the lines of two neighbours in a column if `above` stands above `below`.
  double pair_crossings(int above, int below) {
    double count = 0;
    for (const Neighbour& a : neighbours(above))
      for (const Neighbour& b : neighbours(below))
        if (item(a.item).column == item(b.item).column && item(a.item).column != item(above).column &&
            item(a.item).y > item(b.item).y)
          count += a.lines * b.lines;
    // A line that turns round within the column crosses what passes between.
    for (const Neighbour& a : neighbours(above))
      if (item(a.item).column == item(above).column && a.item != below && item(a.item).y > item(above).y)
        count += a.lines * item(below).lines;
    for (const Neighbour& b : neighbours(below))
      if (item(b.item).column == item(below).column && b.item != above && item(b.item).y < item(above).y)
        count += b.lines * item(above).lines;
    return count;
  }

  double crossings() {
    double count = 0;
    for (const std::vector<int>& column : columns_)
      for (size_t k = 0; k < column.size(); ++k)
        for (size_t l = k + 1; l < column.size(); ++l) count += pair_crossings(column[k], column[l]);
    return count;
  }

  // Places.

  double distance(int above, int below) {
    const bool bundles = item(above).node < 0 && item(below).node < 0;
    return extent_below(item(above), sizes_) + (bundles ? sizes_.bundle_gap : sizes_.node_gap) +
           extent_above(item(below), sizes_);
  }

  void align(std::vector<int>& column) {
    std::vector<double> desired;
    for (const int i : column) desired.push_back(barycenter(i, Side::kBoth));
    pack(column, desired);
  }

  // The places next to the desired ones (least squares by number of lines) that keep order and distances: pool adjacent
  // violators.
  void pack(const std::vector<int>& column, const std::vector<double>& desired) {
    struct Block {
      double sum, weight;
      size_t end;
      double mean() const { return sum / weight; }
    };
    std::vector<Block> blocks;
    std::vector<double> offset(column.size(), 0);
    for (size_t k = 0; k < column.size(); ++k) {
      if (k > 0) offset[k] = offset[k - 1] + distance(column[k - 1], column[k]);
      const double weight = 0.1 + item(column[k]).lines;
      blocks.push_back({weight * (desired[k] - offset[k]), weight, k + 1});
      while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() >= blocks.back().mean()) {
        const Block last = blocks.back();
        blocks.pop_back();
        blocks.back() = {blocks.back().sum + last.sum, blocks.back().weight + last.weight, last.end};
      }
    }
    size_t k = 0;
    for (const Block& block : blocks)
      for (; k < block.end; ++k) item(column[k]).y = block.mean() + offset[k];
  }

  // Paths that share no nodes with others drift away from them: bands in which no column has anything become narrow.
  void close_gaps() {
    std::vector<LayoutItem*> from_top;
    for (LayoutItem& i : layout_.items) from_top.push_back(&i);
    const auto top = [&](const LayoutItem* i) { return i->y - extent_above(*i, sizes_); };
    std::ranges::stable_sort(from_top, {}, top);
    double bottom = kOutside, closed = 0;
    for (LayoutItem* i : from_top) {
      closed += std::max(0.0, top(i) - closed - bottom - kWidestBand * sizes_.node_gap);
      i->y -= closed;
      bottom = bottom == kOutside ? i->y + extent_below(*i, sizes_) : std::max(bottom, i->y + extent_below(*i, sizes_));
    }
  }

  void move_to_origin() {
    double top = kOutside, bottom = -kOutside;
    for (const LayoutItem& i : layout_.items) {
      top = std::min(top, i.y - extent_above(i, sizes_));
      bottom = std::max(bottom, i.y + extent_below(i, sizes_));
    }
    for (LayoutItem& i : layout_.items) i.y -= top;
    layout_.height = std::max(0.0, bottom - top);
  }

  // Lanes.

  // By this, lines stand in order on the side of an item where they come from `other` or go to it. Who turns round
  // within the column leaves outermost, in nested arcs.
  double key_towards(int at, int other) {
    const double y = item(other).y;
    if (item(other).column != item(at).column) return y;
    return (y > item(at).y ? kOutside : -kOutside) - y;
  }

  struct Lane {
    double towards;  // where the line comes from or goes to
    int hop;         // the next or last node, so that lines of a hop stay together
    double beyond;   // the same order within a hop wherever it passes
    size_t microbatch;
    double* y;  // the result

    auto order() const { return std::tuple(towards, hop, beyond, microbatch); }
  };

  // Lines of a hop keep the order in which they came to its first node, which the hops before decide: one round more
  // for each.
  void assign_lanes() {
    size_t longest = 0;
    for (const PlannedMicrobatch& microbatch : plan_.microbatches)
      longest = std::max(longest, microbatch.visits.size());
    for (size_t round = 0; round < longest; ++round) assign_lanes_once();
  }

  void assign_lanes_once() {
    std::vector<std::vector<Lane>> in(layout_.items.size()), out(layout_.items.size());
    for (size_t m = 0; m < layout_.routes.size(); ++m) gather_lanes(m, in, out);
    for (size_t i = 0; i < layout_.items.size(); ++i) {
      place_lanes(layout_.items[i], in[i]);
      place_lanes(layout_.items[i], out[i]);
    }
  }

  void gather_lanes(size_t m, std::vector<std::vector<Lane>>& in, std::vector<std::vector<Lane>>& out) {
    std::vector<LayoutStop>& route = layout_.routes[m];
    double beyond = 0;  // where the line came into the node before, by the last round
    int previous_node = -1;
    for (size_t s = 0; s < route.size(); ++s) {
      LayoutStop& stop = route[s];
      const auto at = static_cast<size_t>(stop.item);
      const bool is_first = s == 0, is_last = s + 1 == route.size();
      if (item(stop.item).node < 0) {
        const double key = item(stop.item).back ? -beyond : beyond;
        in[at].push_back({0, 0, key, m, &stop.in_y});
        out[at].push_back({0, 0, key, m, &stop.out_y});
        continue;
      }
      const int next_node = is_last ? -1 : next_visit(route, s);
      const double from = is_first ? 0 : key_towards(stop.item, route[s - 1].item);
      const double to = is_last ? from : key_towards(stop.item, route[s + 1].item);
      in[at].push_back({is_first ? to : from, is_first ? next_node : previous_node, beyond, m, &stop.in_y});
      out[at].push_back({to, next_node, stop.in_y, m, &stop.out_y});
      beyond = stop.in_y;
      previous_node = stop.item;
    }
  }

  int next_visit(const std::vector<LayoutStop>& route, size_t s) {
    do ++s;
    while (item(route[s].item).node < 0);
    return route[s].item;
  }

  void place_lanes(const LayoutItem& at, std::vector<Lane>& lanes) {
    std::ranges::sort(lanes, {}, &Lane::order);
    if (at.back) turn_ties(lanes);
    const double middle = (static_cast<double>(lanes.size()) - 1) / 2;
    for (size_t k = 0; k < lanes.size(); ++k)
      *lanes[k].y = at.y + (static_cast<double>(k) - middle) * sizes_.lane_pitch;
  }

  // After a turn, lines stand in the reverse order; their keys are reversed already, but not microbatches of equal
  // ones.
  static void turn_ties(std::vector<Lane>& lanes) {
    for (size_t begin = 0, end; begin < lanes.size(); begin = end) {
      for (end = begin; end < lanes.size() && lanes[end].beyond == lanes[begin].beyond;) ++end;
      std::reverse(lanes.begin() + static_cast<ptrdiff_t>(begin), lanes.begin() + static_cast<ptrdiff_t>(end));
    }
  }

  const Plan& plan_;
  const LayoutSizes& sizes_;
  PlanLayout layout_;
  std::vector<std::vector<int>> columns_;             // items from top to bottom
  std::map<std::tuple<int, int, int>, int> bundles_;  // by items of the hop, and column
  std::vector<std::vector<Neighbour>> neighbours_;    // by item
};

double half_lanes(const LayoutItem& item, const LayoutSizes& sizes) {
  const double lanes = item.lines * sizes.lane_pitch / 2;
  return item.node < 0 ? lanes : std::max(lanes, sizes.min_lanes_height / 2) + sizes.padding;
}

}  // namespace

double extent_above(const LayoutItem& item, const LayoutSizes& sizes) {
  return half_lanes(item, sizes) + (item.node < 0 ? 0 : sizes.header_height);
}

double extent_below(const LayoutItem& item, const LayoutSizes& sizes) { return half_lanes(item, sizes); }

PlanLayout lay_out_plan(const Plan& plan, const LayoutSizes& sizes) { return Layout(plan, sizes).run(); }

}  // namespace skippipe
