#include "schedule/pictures/comparison.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/markup.h"
#include "schedule/pictures/axis.h"
#include "schedule/pictures/svg.h"
#include "schedule/plan/rules.h"

namespace skippipe {
namespace {

constexpr double kChartWidth = 860;
constexpr double kBarsLeft = 190;
constexpr double kBarsWidth = 480;
constexpr double kBarsTop = 78;
constexpr double kRowHeight = 34;
constexpr double kBarHeight = 18;
constexpr size_t kMethodLength = 24;
constexpr const char* kWorkingColour = "#0072b2";
constexpr const char* kWaitingColour = "#b9c4ce";

int count_unvisited(const Plan& plan) {
  std::vector<bool> visited(plan.node_names.size(), false);
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) visited[static_cast<size_t>(visit.node)] = true;
  return static_cast<int>(std::ranges::count(visited, false));
}

std::string quote_csv(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

class Chart {
 public:
  Chart(const std::vector<ComparisonRow>& rows, const std::string& title)
      : rows_(rows),
        bottom_(kBarsTop + kRowHeight * static_cast<double>(rows.size())),
        svg_(kChartWidth, bottom_ + 34, title) {
    for (const ComparisonRow& row : rows)
      if (row.predicted) longest_s_ = std::max(longest_s_, row.predicted->iteration_s);
    if (longest_s_ <= 0) longest_s_ = 1;
  }

  std::string render() {
    add_legend_entry(kBarsLeft, kWorkingColour, "nodes compute or reduce (mean)");
    add_legend_entry(kBarsLeft + 250, kWaitingColour, "nodes wait");
    add_axis();
    for (size_t i = 0; i < rows_.size(); ++i) add_row(rows_[i], kBarsTop + kRowHeight * static_cast<double>(i));
    return svg_.finish();
  }

 private:
  double width(double seconds) const { return seconds / longest_s_ * kBarsWidth; }

  void add_text(const char* style, double x, double y, const char* anchor, const std::string& text) {
    svg_.add("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"#444444\">{}</text>\n", style, x,
             y, anchor, escape_markup(text));
  }

  void add_bar(double x, double y, double width, const char* colour) {
    svg_.add("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.0f}\" fill=\"{}\"/>\n", x, y, width,
             kBarHeight, colour);
  }

  void add_legend_entry(double x, const char* colour, const char* text) {
    svg_.add("<rect x=\"{:.1f}\" y=\"38\" width=\"22\" height=\"12\" fill=\"{}\"/>\n", x, colour);
    add_text("muted", x + 28, 48, "start", text);
  }

  void add_axis() {
    const auto [distance, decimals] = ticks_for(longest_s_, 6);
    for (int i = 0; i * distance <= longest_s_ * (1 + 1e-9); ++i) {
      const double x = kBarsLeft + width(i * distance);
      svg_.add(
          "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1:.0f}\" x2=\"{0:.1f}\" y2=\"{2:.0f}\" stroke=\"#c8ccd2\" "
          "stroke-width=\"0.6\"/>\n",
          x, kBarsTop - 8, bottom_);
      add_text("muted", x, bottom_ + 18, "middle", fmt::format("{:.{}f} s", i * distance, decimals));
    }
  }

  void add_row(const ComparisonRow& row, double y) {
    svg_.add("<g><title>{}</title>\n", escape_markup(describe(row)));
    add_text("ink", kBarsLeft - 12, y + 14, "end", shorten_text(row.method, kMethodLength));
    if (row.predicted) {
      const double iteration = width(row.predicted->iteration_s);
      const double working = iteration * (1 - std::clamp(row.predicted->waiting_share, 0.0, 1.0));
      add_bar(kBarsLeft, y, working, kWorkingColour);
      add_bar(kBarsLeft + working, y, iteration - working, kWaitingColour);
      add_text("ink", kBarsLeft + iteration + 8, y + 14, "start", fmt::format("{:.4g} s", row.predicted->iteration_s));
    } else {
      add_text("muted", kBarsLeft + 8, y + 14, "start", unmet(row.rule));
    }
    svg_.add("</g>\n");
  }

  static std::string describe(const ComparisonRow& row) {
    if (!row.predicted) return fmt::format("{}: {}: {}", row.method, unmet(row.rule), row.why);
    return fmt::format(
        "{}: {:.6g} s per iteration, {:.1f} % waiting, {:.3g} bytes sent, {} nodes unused, planned in {:.3g} s",
        row.method, row.predicted->iteration_s, row.predicted->waiting_share * 100, row.predicted->bytes_sent,
        row.unused_nodes, row.planning_s);
  }

  const std::vector<ComparisonRow>& rows_;
  const double bottom_;
  double longest_s_ = 0;
  SvgWriter svg_;
};

}  // namespace

ComparisonRow compare_plan(const std::string& method, const PlanResult& result, double planning_s) {
  ComparisonRow row{.method = method, .planning_s = planning_s, .rule = result.rule, .why = result.why};
  if (!result.plan) return row;
  row.predicted = result.plan->predicted;
  row.unused_nodes = count_unvisited(*result.plan);
  return row;
}

const ComparisonRow* best_of(const std::vector<ComparisonRow>& rows) {
  const ComparisonRow* best = nullptr;
  for (const ComparisonRow& row : rows)
    if (row.predicted && (!best || row.predicted->iteration_s < best->predicted->iteration_s)) best = &row;
  return best;
}

std::string comparison_table(const std::vector<ComparisonRow>& rows) {
  size_t width = 6;
  for (const ComparisonRow& row : rows) width = std::max(width, row.method.size());
  std::string text = fmt::format("  {:<{}}  s/iteration  waiting  GB sent  unused  planned in\n", "method", width);
  for (const ComparisonRow& row : rows) {
    text += fmt::format("  {:<{}}  ", row.method, width);
    if (row.predicted)
      text += fmt::format("{:>11.4g}  {:>5.1f} %  {:>7.4g}  {:>6}  {:>8.2f} s\n", row.predicted->iteration_s,
                          row.predicted->waiting_share * 100, row.predicted->bytes_sent / 1e9, row.unused_nodes,
                          row.planning_s);
    else
      text += fmt::format("{}: {}\n", unmet(row.rule), row.why);
  }
  return text;
}

std::string comparison_csv(const std::vector<ComparisonRow>& rows) {
  std::string text =
      "method,iteration_s,steady_iteration_s,waiting_share,bytes_sent,unused_nodes,planning_s,rule,why\r\n";
  for (const ComparisonRow& row : rows) {
    const std::string figures =
        row.predicted ? fmt::format("{},{},{},{},{}", row.predicted->iteration_s, row.predicted->steady_iteration_s,
                                    row.predicted->waiting_share, row.predicted->bytes_sent, row.unused_nodes)
                      : ",,,,";
    text += fmt::format("{},{},{:.6g},{},{}\r\n", quote_csv(row.method), figures, row.planning_s, quote_csv(row.rule),
                        quote_csv(row.why));
  }
  return text;
}

std::string comparison_chart(const std::vector<ComparisonRow>& rows, const std::string& title) {
  return Chart(rows, title).render();
}

}  // namespace skippipe
