// Plans of several methods for the same request, side by side.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "schedule/plan/plan.h"
#include "schedule/search/planner.h"

namespace skippipe {

struct ComparisonRow {
  std::string method;
  double planning_s = 0;
  int unused_nodes = 0;  // that no microbatch visits
  std::optional<Prediction> predicted = {};
  std::string rule = {};  // without a plan: the rule that can't be met, and why
  std::string why = {};
};

ComparisonRow compare_plan(const std::string& method, const PlanResult& result, double planning_s);

// The row of the fewest seconds per iteration, the first of equals; nullptr if none has a plan.
const ComparisonRow* best_of(const std::vector<ComparisonRow>& rows);

// Aligned columns for people, a line per row after a heading.
std::string comparison_table(const std::vector<ComparisonRow>& rows);

// RFC 4180: a heading, then a line per row. Times in seconds; what a row does not have is empty.
std::string comparison_csv(const std::vector<ComparisonRow>& rows);

// An SVG (see svg.h): a bar per row as long as an iteration, its first part the share in which nodes compute or reduce.
std::string comparison_chart(const std::vector<ComparisonRow>& rows, const std::string& title);

}  // namespace skippipe
