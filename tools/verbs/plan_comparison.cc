#include "tools/verbs/plan_comparison.h"

#include <fmt/format.h>

#include <optional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "schedule/pictures/comparison.h"
#include "schedule/pictures/svg.h"
#include "schedule/plan/rules.h"
#include "tools/verbs/plan_search.h"

namespace skippipe {
namespace {

void write(const std::vector<ComparisonRow>& rows, const PlanRequest& request, const ComparisonFiles& files) {
  if (!files.csv.empty()) write_file_atomically(files.csv, comparison_csv(rows));
  if (files.chart.empty()) return;
  const std::string title = fmt::format("Seconds per iteration: {} microbatches, {} stages, {} nodes",
                                        request.microbatches, request.stage_count(), request.network.size());
  write_file_atomically(files.chart, standalone_svg(comparison_chart(rows, title)));
}

}  // namespace

Plan compare_methods(const PlanRequest& request, const ComparisonFiles& files) {
  std::vector<ComparisonRow> rows;
  std::optional<Plan> best;
  for (const std::string& method : planning_methods()) {
    TimedPlan timed = search_plan(method, request, fmt::format("planning {}", method));
    rows.push_back(compare_plan(method, timed.result, timed.planning_s));
    if (best_of(rows) == &rows.back()) best = std::move(timed.result.plan);
  }
  fmt::print("{}\n", comparison_table(rows));
  write(rows, request, files);
  if (!best) throw PlanError("no method has a plan: {}: {}", unmet(rows.back().rule), rows.back().why);
  return *std::move(best);
}

}  // namespace skippipe
