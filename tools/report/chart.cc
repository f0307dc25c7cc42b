#include "tools/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "base/markup.h"
#include "schedule/pictures/axis.h"
#include "tools/report/style.h"

namespace skippipe {
namespace {

constexpr double kLowest = -1e300, kHighest = 1e300;
constexpr size_t kMaxPoints = 400;

struct Interval {
  double low = kHighest;
  double high = kLowest;

  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  // An interval that has a length, with some room where `share` of it is added.
  Interval widened(double share) const {
    if (low > high) return {0, 1};
    // What doubles hardly tell apart is one value.
    const double size = std::max(std::abs(low), std::abs(high));
    const double room = high - low > size * 1e-9 ? (high - low) * share : std::max(size * 0.05, 1e-9);
    return {low - room, high + room};
  }
};

class Svg {
 public:
  Svg(double width, double height) {
    add("<svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" font-size=\"12\" role=\"img\">\n",
        width, height);
  }
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  void text(double x, double y, const char* anchor, const char* css_class, const std::string& text) {
    add("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", css_class, x, y, anchor,
        escape_markup(text));
  }
  void grid_line(double x1, double y1, double x2, double y2) {
    add("<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x1, y1, x2, y2);
  }
  std::string finish() {
    add("</svg>\n");
    return std::move(text_);
  }

 private:
  std::string text_;
};

// The multiples of the ticks' distance within the interval.
template <typename Visit>
void each_tick(const Interval& interval, int count, Visit visit) {
  const auto [distance, decimals] = ticks_for(interval.high - interval.low, count);
  const double first = std::ceil(interval.low / distance - 1e-9);
  for (int step = 0; step <= 2 * count; ++step) {
    const double i = first + step;
    if (!(i * distance <= interval.high + distance * 1e-9)) break;
    visit(i * distance, fmt::format("{:.{}f}", i == 0 ? 0.0 : i * distance, decimals));
  }
}

std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  const size_t group = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (group <= 1) return points;
  std::vector<std::pair<double, double>> means;
  for (size_t begin = 0; begin < points.size(); begin += group) {
    const size_t end = std::min(begin + group, points.size());
    double x = 0, y = 0;
    for (size_t i = begin; i < end; ++i) x += points[i].first, y += points[i].second;
    const auto count = static_cast<double>(end - begin);
    means.emplace_back(x / count, y / count);
  }
  return means;
}

const char* class_of(Series::Style style) {
  return style == Series::Style::kDashed ? " dashed" : style == Series::Style::kDotted ? " dotted" : "";
}

}  // namespace

std::string render_line_chart(const LineChart& chart) {
  constexpr double kWidth = 540, kHeight = 270, kLeft = 58, kRight = 12, kTop = 10, kBottom = 40;
  std::vector<std::vector<std::pair<double, double>>> lines;
  Interval x_range, y_range;
  if (chart.from_zero) y_range.include(0);
  for (const Series& series : chart.series) {
    lines.push_back(thinned(series.points));
    for (const auto& [x, y] : lines.back()) x_range.include(x), y_range.include(y);
  }
  x_range = x_range.widened(0);
  y_range = y_range.widened(0.06);
  if (chart.from_zero) y_range.low = 0;
  const auto x_at = [&](double x) {
    return kLeft + (x - x_range.low) / (x_range.high - x_range.low) * (kWidth - kLeft - kRight);
  };
  const auto y_at = [&](double y) {
    return kHeight - kBottom - (y - y_range.low) / (y_range.high - y_range.low) * (kHeight - kTop - kBottom);
  };
  Svg svg(kWidth, kHeight);
  each_tick(y_range, 5, [&](double y, const std::string& label) {
    svg.grid_line(kLeft, y_at(y), kWidth - kRight, y_at(y));
    svg.text(kLeft - 8, y_at(y) + 4, "end", "muted", label);
  });
  each_tick(x_range, 6, [&](double x, const std::string& label) {
    svg.grid_line(x_at(x), kHeight - kBottom, x_at(x), kHeight - kBottom + 4);
    svg.text(x_at(x), kHeight - kBottom + 18, "middle", "muted", label);
  });
  svg.text((kLeft + kWidth - kRight) / 2, kHeight - 4, "middle", "muted", chart.x_label);
  constexpr size_t kMostMarks = 40;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const size_t colour = chart.series[i].colour % kColourCount;
    const Series::Style style = chart.series[i].style;
    if (lines[i].size() == 1 || (style != Series::Style::kSolid && lines[i].size() <= kMostMarks))
      for (const auto& [x, y] : lines[i])
        svg.add("<circle class=\"area s{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>\n", colour, x_at(x), y_at(y));
    svg.add("<polyline class=\"line s{}{}\" points=\"", colour, class_of(style));
    for (const auto& [x, y] : lines[i]) svg.add("{:.1f},{:.1f} ", x_at(x), y_at(y));
    svg.add("\"/>\n");
  }
  return fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape_markup(chart.title), svg.finish());
}

std::string render_bars(const std::vector<BarRow>& rows, double full) {
  constexpr double kWidth = 1110, kLabel = 190, kNote = 150, kRow = 24, kBar = 16;
  Svg svg(kWidth, static_cast<double>(rows.size()) * kRow + 4);
  const double scale = (kWidth - kLabel - kNote) / (full > 0 ? full : 1);
  for (size_t i = 0; i < rows.size(); ++i) {
    const BarRow& row = rows[i];
    const double top = static_cast<double>(i) * kRow + 4;
    svg.text(kLabel - 10, top + 13, "end", "ink", shorten_text(row.label, 28));
    double at = kLabel, whole = 0;
    for (size_t part = 0; part < row.parts.size(); ++part) {
      const double width = row.parts[part] * scale;
      whole += width;
      if (width <= 0) continue;
      svg.add(
          "<rect class=\"area bar c{}\" x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.0f}\" "
          "stroke-width=\"0.5\"><title>{}</title></rect>\n",
          part % kColourCount, at, top, width, kBar, escape_markup(row.hovers[part]));
      at += width;
    }
    if (row.planned) {
      const double x = kLabel + *row.planned * scale;
      svg.add("<line class=\"planned\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/>\n", x, top - 2,
              top + kBar + 2);
    }
    svg.text(kLabel + whole + 8, top + 13, "start", "muted", row.note);
  }
  return svg.finish();
}

std::string render_ranges(const std::vector<RangeRow>& rows) {
  constexpr double kWidth = 1110, kLabel = 300, kNote = 200, kRow = 26, kBottom = 26;
  Interval range;
  for (const RangeRow& row : rows) range.include(row.low), range.include(row.high);
  range = range.widened(0.05);
  const double height = static_cast<double>(rows.size()) * kRow;
  const auto x_at = [&](double x) {
    return kLabel + (x - range.low) / (range.high - range.low) * (kWidth - kLabel - kNote);
  };
  Svg svg(kWidth, height + kBottom);
  each_tick(range, 8, [&](double x, const std::string& label) {
    svg.grid_line(x_at(x), 0, x_at(x), height);
    svg.text(x_at(x), height + 18, "middle", "muted", label);
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    const RangeRow& row = rows[i];
    const double middle = (static_cast<double>(i) + 0.5) * kRow;
    svg.text(kLabel - 12, middle + 4, "end", "ink", shorten_text(row.label, 44));
    svg.add("<line class=\"line s{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
            row.series % kColourCount, x_at(row.low), middle, x_at(row.high), middle);
    svg.add("<circle class=\"area s{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\"/>\n", row.series % kColourCount,
            x_at(row.value), middle);
    svg.text(kWidth - kNote + 14, middle + 4, "start", "muted", row.note);
  }
  return svg.finish();
}

}  // namespace skippipe
