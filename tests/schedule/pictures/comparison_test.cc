// Rows of a comparison, as table, CSV and bars.
#include "schedule/pictures/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schedule/pictures/svg.h"
#include "schedule/plan/rules.h"
#include "tests/schedule/pictures/svg_checks.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<ComparisonRow> some_rows() {
  return {
      {.method = "full",
       .planning_s = 1.5,
       .predicted = Prediction{.iteration_s = 4, .waiting_share = 0.25, .busy_share = {}}},
      {.method = "joint",
       .planning_s = 2,
       .unused_nodes = 3,
       .predicted =
           Prediction{
               .iteration_s = 2.5, .steady_iteration_s = 2, .waiting_share = 0.5, .busy_share = {}, .bytes_sent = 3e9}},
      {.method = "a \"new\", <one>", .rule = kExposureRule, .why = "5 < 6,\n\"never\" & not"}};
}

TEST(Comparison, TellsOfAPlan) {
  test::Case c = test::small_case();
  for (PlannedMicrobatch& microbatch : c.plan.microbatches) microbatch.visits[1].node = 2;
  const ComparisonRow row = compare_plan("small", {.plan = c.plan}, 0.5);
  EXPECT_EQ(row.method, "small");
  EXPECT_EQ(row.unused_nodes, 1);
  EXPECT_EQ(row.predicted->iteration_s, c.plan.predicted.iteration_s);
  const ComparisonRow none = compare_plan("small", {.rule = kStageNodesRule, .why = "too few"}, 0.5);
  EXPECT_FALSE(none.predicted);
  EXPECT_EQ(none.rule, kStageNodesRule);
}

TEST(Comparison, KnowsTheBest) {
  const std::vector<ComparisonRow> rows = some_rows();
  EXPECT_EQ(best_of(rows), &rows[1]);
  EXPECT_EQ(best_of({rows[2]}), nullptr);
  EXPECT_EQ(best_of({}), nullptr);
  const std::vector<ComparisonRow> equal = {rows[1], rows[1]};
  EXPECT_EQ(best_of(equal), &equal[0]);
}

TEST(Comparison, CsvQuotesWhatNeedsIt) {
  EXPECT_EQ(comparison_csv(some_rows()),
            "method,iteration_s,steady_iteration_s,waiting_share,bytes_sent,unused_nodes,planning_s,rule,why\r\n"
            "full,4,0,0.25,0,0,1.5,,\r\n"
            "joint,2.5,2,0.5,3000000000,3,2,,\r\n"
            "\"a \"\"new\"\", <one>\",,,,,,0,the exposure of stages,\"5 < 6,\n\"\"never\"\" & not\"\r\n");
}

TEST(Comparison, TableSaysWhichRule) {
  const std::string table = comparison_table(some_rows());
  EXPECT_THAT(table, HasSubstr("2.5   50.0 %        3       3      2.00 s"));
  EXPECT_THAT(table, HasSubstr("the rule on the exposure of stages can't be met: 5 < 6"));
}

TEST(Comparison, ChartHasABarOfEachRow) {
  const std::string svg = standalone_svg(comparison_chart(some_rows(), "<title> & \"more\""));
  EXPECT_EQ(test::xml_fault(svg), "");
  EXPECT_EQ(test::count_of(svg, "<title>"), 3u);
  EXPECT_THAT(svg, HasSubstr(">2.5 s<"));
  EXPECT_THAT(svg, HasSubstr("the rule on the exposure of stages can&#39;t be met"));
  EXPECT_THAT(svg, Not(HasSubstr("<one>")));
  const std::string none = comparison_chart({}, "");
  EXPECT_EQ(test::xml_fault(none), "");
  EXPECT_THAT(none, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace skippipe
