#include "schedule/pictures/shape_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "schedule/plan/rules.h"

namespace skippipe {
namespace {

constexpr size_t kMaxRows = 12;
constexpr size_t kMaxRefusals = 4;  // of the rows
constexpr size_t kListWidth = 23;
constexpr double kRounding = 1e-9;

// As the program's options take them, or the least and the most where that is too long.
std::string describe(const std::vector<int>& list) {
  const std::string text = fmt::format("{}", fmt::join(list, ","));
  if (text.size() <= kListWidth) return text;
  const auto [least, most] = std::ranges::minmax(list);
  return least == most ? fmt::format("{} each", least) : fmt::format("{} to {}", least, most);
}

// With how many nodes there would be, if some are left out.
std::string describe_nodes(const ShapeRow& row) {
  const std::vector<int>& counts = row.shape.nodes_per_stage;
  const std::string text = describe(counts);
  if (row.left_out == 0) return text;
  return fmt::format("{} of {}", text, std::accumulate(counts.begin(), counts.end(), row.left_out));
}

std::string plan_line(const ShapeRow& row, char mark) {
  return fmt::format("{} {:>6}  {:<{}}  {:<{}}  {:>10}  {:>7}  {:>7.1f} %  {:>11.4g}  {:>9.4g}  {:>9.4g}\n", mark,
                     row.shape.stage_count(), describe(row.shape.stage_layers), kListWidth, describe_nodes(row),
                     kListWidth, row.shape.nodes_per_stage.front(), row.samples, (1 - row.computed_share) * 100,
                     *row.iteration_s, row.floor_s, row.samples_per_s());
}

std::string refusal_line(const ShapeRow& row) {
  return fmt::format("  {:>6}  {}: {}\n", row.shape.stage_count(), unmet(row.rule), row.why);
}

// The best of each number of stages, then others, but in their order.
std::vector<const ShapeRow*> choose_rows(const std::vector<const ShapeRow*>& rows, size_t most) {
  std::set<int> seen;
  std::set<const ShapeRow*> chosen;
  for (const ShapeRow* row : rows)
    if (chosen.size() < most && seen.insert(row->shape.stage_count()).second) chosen.insert(row);
  for (const ShapeRow* row : rows)
    if (chosen.size() < most) chosen.insert(row);
  std::vector<const ShapeRow*> result;
  std::ranges::copy_if(rows, std::back_inserter(result), [&](const ShapeRow* row) { return chosen.contains(row); });
  return result;
}

std::string not_shown(size_t slower, size_t refused, int untried) {
  std::vector<std::string> parts;
  if (slower > 0) parts.push_back(fmt::format("{} slower", slower));
  if (refused > 0) parts.push_back(fmt::format("{} without a plan", refused));
  if (untried > 0) parts.push_back(fmt::format("{} not planned for, whose floors promise less", untried));
  return parts.empty() ? "" : fmt::format("  not shown: {}\n", fmt::join(parts, ", "));
}

}  // namespace

std::string shape_table(const ShapeChoice& choice) {
  std::vector<const ShapeRow*> planned, refused;
  for (const ShapeRow& row : choice.rows) (row.iteration_s ? planned : refused).push_back(&row);
  const size_t refusals = planned.empty() ? kMaxRows : std::min(kMaxRefusals, refused.size());
  const auto told = choose_rows(planned, kMaxRows - std::min(kMaxRows, refusals));
  const auto told_refused = choose_rows(refused, kMaxRows - told.size());
  std::string text =
      fmt::format("  {:>6}  {:<{}}  {:<{}}  data nodes  samples  skipping  s/iteration    floor s  samples/s\n",
                  "stages", "layers", kListWidth, "nodes", kListWidth);
  for (const ShapeRow* row : told) text += plan_line(*row, row == planned.front() ? '*' : ' ');
  for (const ShapeRow* row : told_refused) text += refusal_line(*row);
  const double asked_share = 1 - choice.skip_ratio;
  if (std::ranges::any_of(told, [&](const ShapeRow* row) { return row->computed_share < asked_share - kRounding; }))
    text += fmt::format("  ranked by samples/s, in proportion fewer for shapes that skip more than {:.1f} %\n",
                        choice.skip_ratio * 100);
  text += not_shown(planned.size() - told.size(), refused.size() - told_refused.size(), choice.untried);
  return text;
}

}  // namespace skippipe
