// Charts as SVG, in the colours of the page's style sheet.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace skippipe {

struct Series {
  enum class Style { kSolid, kDashed, kDotted };
  std::vector<std::pair<double, double>> points;  // x does not fall
  size_t colour = 0;                              // s0, s1, ...
  Style style = Style::kSolid;                    // the other two mark their points
};
struct LineChart {
  std::string title;
  std::string x_label;
  std::vector<Series> series;
  bool from_zero = false;  // the y axis begins at 0
};
// Of long series, means over neighbours are drawn.
std::string render_line_chart(const LineChart& chart);

struct BarRow {
  std::string label;
  std::vector<double> parts;        // by category, in colours c0, c1, ...
  std::vector<std::string> hovers;  // by category
  std::string note;                 // stands behind the bar
  std::optional<double> planned;    // a mark across the bar
};
// Stacked bars below each other; `full` is a bar of the whole width.
std::string render_bars(const std::vector<BarRow>& rows, double full);

struct RangeRow {
  std::string label;
  size_t series = 0;  // colour
  double low = 0;
  double value = 0;
  double high = 0;
  std::string note;
};
// A dot and a line from low to high for each row, on an axis that all share.
std::string render_ranges(const std::vector<RangeRow>& rows);

}  // namespace skippipe
