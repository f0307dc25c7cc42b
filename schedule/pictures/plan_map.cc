#include "schedule/pictures/plan_map.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "base/markup.h"
#include "schedule/pictures/plan_layout.h"
#include "schedule/pictures/svg.h"

namespace skippipe {
namespace {

constexpr double kMargin = 24;
constexpr double kStart = 34;  // left of the first column: stubs and numbers of lines
constexpr double kEnd = 64;    // right of the last one: turns and numbers
constexpr double kBoxWidth = 138;
constexpr double kMinColumnGap = 96;
constexpr double kMaxColumnGap = 170;
constexpr double kLegendRow = 20;
constexpr double kStageHeight = 44;  // "stage 2", "layers 4 to 5"
constexpr double kStub = 12;
constexpr double kMaxLanePitch = 9;
constexpr double kMinLanePitch = 2;
constexpr double kLanesHeight = 460;     // that a column's lines may take before they become thinner
constexpr double kMinNumberedPitch = 8;  // below, no numbers stand at the ends of lines
constexpr double kUnusedHeight = 40;
constexpr size_t kNameLength = 18;

LayoutSizes sizes_for(const Plan& plan) {
  const auto lines = static_cast<double>(std::max<size_t>(1, plan.microbatches.size()));
  LayoutSizes sizes;
  sizes.lane_pitch = std::clamp(kLanesHeight / lines, kMinLanePitch, kMaxLanePitch);
  sizes.bundle_gap = sizes.lane_pitch;
  return sizes;
}

// The further lines spread, the more room they need to turn.
double column_gap(const Plan& plan, const PlanLayout& layout) {
  return plan.stages.size() < 2 ? kMinColumnGap : std::clamp(layout.height / 5, kMinColumnGap, kMaxColumnGap);
}

double number_size(double lane_pitch) { return std::min(9.0, lane_pitch); }

// What the colours of lines say.
struct Colours {
  bool by_path = false;               // else by data node
  std::vector<size_t> of_microbatch;  // index into names
  std::vector<std::string> names;
};

// Each path is named by its microbatches.
Colours colours_by_path(const Plan& plan) {
  Colours colours{.by_path = true, .of_microbatch = {}, .names = {}};
  std::map<std::vector<int>, size_t> paths;
  std::vector<std::vector<size_t>> microbatches;
  for (size_t m = 0; m < plan.microbatches.size(); ++m) {
    std::vector<int> nodes;
    for (const PlannedVisit& visit : plan.microbatches[m].visits) nodes.push_back(visit.node);
    const size_t path = paths.emplace(nodes, paths.size()).first->second;
    microbatches.resize(paths.size());
    microbatches[path].push_back(m);
    colours.of_microbatch.push_back(path);
  }
  for (const std::vector<size_t>& numbers : microbatches)
    colours.names.push_back(shorten_text(fmt::format("{}", fmt::join(numbers, ", ")), kNameLength));
  return colours;
}

Colours colours_of(const Plan& plan) {
  std::set<int> data_nodes;
  for (const PlannedMicrobatch& microbatch : plan.microbatches) data_nodes.insert(microbatch.data_node());
  if (data_nodes.size() == 1) return colours_by_path(plan);
  const std::vector<int>& nodes = plan.stages.front();
  Colours colours;
  for (const int node : nodes)
    colours.names.push_back(shorten_text(plan.node_names[static_cast<size_t>(node)], kNameLength));
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    colours.of_microbatch.push_back(
        static_cast<size_t>(std::ranges::find(nodes, microbatch.data_node()) - nodes.begin()));
  return colours;
}

class PlanMap {
 public:
  PlanMap(const Plan& plan, const Network& network, const std::string& title)
      : plan_(plan),
        network_(network),
        sizes_(sizes_for(plan)),
        layout_(lay_out_plan(plan, sizes_)),
        column_gap_(column_gap(plan, layout_)),
        colours_(colours_of(plan)),
        width_(column_x(plan.stage_count() - 1) + kBoxWidth + kEnd + kMargin),
        stages_top_(kSvgTitleHeight + 16 + place_legend()),
        top_(stages_top_ + kStageHeight),
        unused_top_(top_ + layout_.height + 30),
        svg_(width_, unused_top_ + place_unused() + 14, title) {
    visits_.resize(plan.node_names.size());
    for (size_t m = 0; m < plan.microbatches.size(); ++m)
      for (const PlannedVisit& visit : plan.microbatches[m].visits)
        visits_[static_cast<size_t>(visit.node)].push_back(static_cast<int>(m));
  }

  std::string render() {
    add_legend();
    for (int stage = 0; stage < plan_.stage_count(); ++stage) add_stage(stage);
    for (const LayoutItem& item : layout_.items)
      if (item.node >= 0) add_node(item);
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) add_route(m);
    for (const Label& label : unused_) add_unused(label);
    return svg_.finish();
  }

 private:
  struct Label {
    int node;
    double x, y;
  };
  struct LegendEntry {
    std::string text;
    size_t colour;
    double x, y;
  };

  double column_x(int column) const { return kMargin + kStart + column * (kBoxWidth + column_gap_); }
  double y(double layout_y) const { return top_ + layout_y; }
  const std::string& name(int node) const { return plan_.node_names[static_cast<size_t>(node)]; }
  std::string region(int node) const { return escape_markup(network_.nodes[static_cast<size_t>(node)].region); }

  // Returns the height.
  double place_legend() {
    double x = kMargin, y = kSvgTitleHeight + 22;
    for (size_t colour = 0; colour < colours_.names.size(); ++colour) {
      const double width = 36 + text_width(colours_.names[colour], 12);
      if (x + width > width_ - kMargin && x > kMargin) {
        x = kMargin;
        y += kLegendRow;
      }
      legend_.push_back({colours_.names[colour], colour, x, y});
      x += width + 12;
    }
    return y + kLegendRow - kSvgTitleHeight;
  }

  double place_unused() {
    double x = kMargin + kStart, y = 24;
    for (int node = 0; node < plan_.node_count(); ++node) {
      if (layout_.item_of_node[static_cast<size_t>(node)] >= 0) continue;
      if (x + kBoxWidth > width_ - kMargin && x > kMargin + kStart) {
        x = kMargin + kStart;
        y += kUnusedHeight + sizes_.node_gap;
      }
      unused_.push_back({node, x, unused_top_ + y});
      x += kBoxWidth + sizes_.node_gap;
    }
    return unused_.empty() ? 0 : y + kUnusedHeight;
  }

  // `extra`: further attributes.
  void add_text(const char* style, double x, double y, double size, const char* extra, const std::string& escaped) {
    svg_.add("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:.3g}\" fill=\"{}\"{}>{}</text>\n", style, x, y,
             size, std::string_view(style) == "ink" ? "#222222" : "#666666", extra, escaped);
  }

  void add_legend() {
    for (const LegendEntry& entry : legend_) {
      svg_.add(
          "<path class=\"line-hue{}\" d=\"M{:.1f} {:.1f}h24\" stroke=\"{}\" stroke-width=\"4\" "
          "stroke-linecap=\"round\"/>\n",
          entry.colour % kHueCount, entry.x, entry.y - 4, hue(entry.colour));
      add_text("ink", entry.x + 32, entry.y, 12, "", escape_markup(entry.text));
    }
    add_text("muted", kMargin, legend_.back().y + kLegendRow, 12, "",
             fmt::format("a line: a microbatch{}, to which it returns for the loss; a line that turns round visits an "
                         "earlier stage",
                         colours_.by_path ? " (the numbers), in the colour of its path from the data node"
                                          : ", in the colour of its data node"));
  }

  std::string layers(int stage) const {
    const std::vector<int>& counts = plan_.workload.stage_layers;
    int first = 0;
    for (int s = 0; s < stage; ++s) first += counts[static_cast<size_t>(s)];
    const int count = counts[static_cast<size_t>(stage)];
    return count == 1 ? fmt::format("layer {}", first) : fmt::format("layers {} to {}", first, first + count - 1);
  }

  void add_stage(int stage) {
    const double x = column_x(stage);
    if (stage % 2 == 0)
      svg_.add(
          "<rect class=\"stripe\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"10\" "
          "fill=\"#f2f4f7\"/>\n",
          x - 14, stages_top_, kBoxWidth + 28, kStageHeight + layout_.height + 14);
    add_text("ink", x + kBoxWidth / 2, stages_top_ + 18, 14, " text-anchor=\"middle\" font-weight=\"bold\"",
             fmt::format("stage {}", stage));
    add_text("muted", x + kBoxWidth / 2, stages_top_ + 33, 11, " text-anchor=\"middle\"", layers(stage));
  }

  static const char* plural(size_t count) { return count == 1 ? "" : "s"; }

  void begin_box(int node, double x, double top, double height, const char* dashes, const std::string& hover) {
    svg_.add(
        "<g><title>{}</title><rect class=\"paper box\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
        "rx=\"6\" fill=\"#ffffff\"/>"
        "<rect class=\"grid\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"6\" fill=\"none\" "
        "stroke=\"#b6bcc4\"{}/>\n",
        hover, x, top, kBoxWidth, height, x, top, kBoxWidth, height, dashes);
    add_text("ink", x + 9, top + 17, 12, " font-weight=\"bold\"", escape_markup(shorten_text(name(node), kNameLength)));
  }

  void add_node(const LayoutItem& item) {
    const std::vector<int>& visits = visits_[static_cast<size_t>(item.node)];
    const int slots = plan_.node_slots[static_cast<size_t>(item.node)];
    const double x = column_x(item.column), top = y(item.y - extent_above(item, sizes_));
    std::string hover =
        fmt::format("{}, {}: stage {}, {} slot{}, {} visit{}", escape_markup(name(item.node)), region(item.node),
                    item.column, slots, plural(static_cast<size_t>(slots)), visits.size(), plural(visits.size()));
    if (!visits.empty()) hover += fmt::format(" (microbatches {})", fmt::join(visits, ", "));
    begin_box(item.node, x, top, extent_above(item, sizes_) + extent_below(item, sizes_), "", hover);
    const std::string where = escape_markup(shorten_text(network_.nodes[static_cast<size_t>(item.node)].region, 14));
    add_text("muted", x + 9, top + 31, 10, "",
             fmt::format("{}{}{} visit{}", where, where.empty() ? "" : " · ", visits.size(), plural(visits.size())));
    svg_.add("</g>\n");
  }

  void add_unused(const Label& label) {
    if (&label == &unused_.front()) add_text("muted", label.x, unused_top_ + 14, 12, "", "unused");
    begin_box(label.node, label.x, label.y, kUnusedHeight, " stroke-dasharray=\"4 3\"",
              fmt::format("{}, {}: in no stage", escape_markup(name(label.node)), region(label.node)));
    add_text("muted", label.x + 9, label.y + 31, 10, "",
             escape_markup(shorten_text(network_.nodes[static_cast<size_t>(label.node)].region, 20)));
    svg_.add("</g>\n");
  }

  // "M 10 20 C ..." along all the stops.
  std::string outline(const std::vector<LayoutStop>& route) const {
    std::string d;
    for (size_t s = 0; s < route.size(); ++s) {
      const LayoutItem& item = layout_.items[static_cast<size_t>(route[s].item)];
      const double left = column_x(item.column), right = left + kBoxWidth;
      const double in_x = item.back ? right : left, out_x = item.back ? left : right;
      const double in_y = y(route[s].in_y), out_y = y(route[s].out_y);
      if (s == 0)
        d = fmt::format("M{:.1f} {:.1f}H{:.1f}", left - kStub, in_y, left);
      else
        d += connection(layout_.items[static_cast<size_t>(route[s - 1].item)], item, y(route[s - 1].out_y), in_x, in_y);
      const double bend = (out_x - in_x) * 0.4;
      if (std::abs(out_y - in_y) < 0.05)
        d += fmt::format("H{:.1f}", out_x);
      else
        d += fmt::format("C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}", in_x + bend, in_y, out_x - bend, out_y, out_x,
                         out_y);
    }
    return d + fmt::format("h{:.1f}", kStub / 2);
  }

  // Between two columns an S; within one, from a node to a line that goes back or from it to a node, an arc.
  std::string connection(const LayoutItem& from, const LayoutItem& to, double from_y, double x, double y) const {
    double begin_bend = (to.column > from.column ? 1 : -1) * column_gap_ * 0.5, end_bend = -begin_bend;
    double from_x = x - column_gap_ * (to.column > from.column ? 1 : -1);
    if (to.column == from.column) {
      const double arc = std::min(column_gap_ * 0.62, 6 + std::abs(y - from_y) * 0.62);
      begin_bend = end_bend = to.back ? arc : -arc;
      from_x = x;
    }
    return fmt::format("C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}", from_x + begin_bend, from_y, x + end_bend, y, x,
                       y);
  }

  std::string describe(size_t m) const {
    std::string text = fmt::format("microbatch {}: ", m);
    const char* arrow = "";
    for (const LayoutStop& stop : layout_.routes[m]) {
      const LayoutItem& item = layout_.items[static_cast<size_t>(stop.item)];
      if (item.node < 0) continue;
      text += fmt::format("{}{} (stage {})", arrow, escape_markup(name(item.node)), item.column);
      arrow = " → ";
    }
    return text;
  }

  void add_route(size_t m) {
    const std::vector<LayoutStop>& route = layout_.routes[m];
    const size_t colour = colours_.of_microbatch[m];
    const std::string d = outline(route);
    const double stroke = std::max(1.0, sizes_.lane_pitch * 0.42);
    svg_.add(
        "<g class=\"route\" fill=\"none\"><title>{}</title>"
        "<path d=\"{}\" stroke=\"#000000\" stroke-opacity=\"0\" stroke-width=\"{:.2f}\"/>"
        "<path class=\"line line-hue{}\" d=\"{}\" stroke=\"{}\" stroke-opacity=\"0.82\" stroke-width=\"{:.2f}\"/>\n",
        describe(m), d, sizes_.lane_pitch, colour % kHueCount, d, hue(colour), stroke);
    add_end(m, route, colour);
    svg_.add("</g>\n");
  }

  // A dot where the line ends, and at both ends the number.
  void add_end(size_t m, const std::vector<LayoutStop>& route, size_t colour) {
    const double start_x = column_x(0) - kStub;
    const double end_x = column_x(layout_.items[static_cast<size_t>(route.back().item)].column) + kBoxWidth + kStub / 2;
    const double radius = std::clamp(sizes_.lane_pitch * 0.36, 1.4, 3.2);
    svg_.add("<circle class=\"hue{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"{}\"/>\n", colour % kHueCount,
             end_x, y(route.back().out_y), radius, hue(colour));
    if (sizes_.lane_pitch < kMinNumberedPitch) return;
    const double size = number_size(sizes_.lane_pitch);
    add_text("muted", start_x - 3, y(route.front().in_y) + size * 0.35, size, " text-anchor=\"end\"",
             std::to_string(m));
    add_text("muted", end_x + radius + 3, y(route.back().out_y) + size * 0.35, size, "", std::to_string(m));
  }

  const Plan& plan_;
  const Network& network_;
  const LayoutSizes sizes_;
  const PlanLayout layout_;
  const double column_gap_;
  const Colours colours_;
  const double width_;
  std::vector<LegendEntry> legend_;
  const double stages_top_;
  const double top_;  // of the layout
  const double unused_top_;
  std::vector<Label> unused_;
  SvgWriter svg_;
  std::vector<std::vector<int>> visits_;  // per node: microbatches
};

}  // namespace

std::string render_plan_map(const Plan& plan, const Network& network, const std::string& title) {
  return PlanMap(plan, network, title).render();
}

}  // namespace skippipe
