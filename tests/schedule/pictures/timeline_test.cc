// The timeline: a bar with hover text for each task and transfer, names escaped.
#include "schedule/pictures/timeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schedule/pictures/axis.h"
#include "schedule/pictures/svg.h"
#include "tests/schedule/pictures/svg_checks.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using test::count_of;
using testing::HasSubstr;
using testing::Not;

TEST(Timeline, ShowsEveryTaskAndTransfer) {
  test::Case c = test::small_case();
  c.plan.node_names[1] = c.network.nodes[1].name = "a<b> & \"c\"";
  Simulator simulator(c.network);
  SimulationRecord record;
  simulator.run(c.plan, {.record = &record});
  // 4 microbatches: 5 tasks and 4 transfers each; 4 reductions and steps; both stages exchange 2 shards and 2 sums.
  ASSERT_EQ(record.work.size(), 4u * 5 + 4 + 4);
  ASSERT_EQ(record.transfers.size(), 4u * 4 + 2 * 4);
  const std::string svg = render_timeline(c.plan, record, {.title = "title & more"});
  EXPECT_EQ(count_of(svg, "<title>"), record.work.size() + record.transfers.size());
  EXPECT_THAT(svg, HasSubstr(">title &amp; more<"));
  EXPECT_THAT(svg, HasSubstr("a&lt;b&gt; &amp; &quot;c&quot;: forward of microbatch 1 in slot 0, 0 to "));
  EXPECT_THAT(svg, Not(HasSubstr("a<b>")));
  EXPECT_THAT(svg, HasSubstr("stage 1"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(svg, render_timeline(c.plan, record, {.title = "title & more"}));
  EXPECT_EQ(test::xml_fault(svg), "");
}

TEST(Timeline, MarksTheCriticalPath) {
  test::Case c = test::small_case();
  c.plan.node_names[1] = c.network.nodes[1].name = "a<b>";
  Simulator simulator(c.network);
  SimulationRecord record;
  simulator.run(c.plan, {.record = &record});
  const std::vector<CriticalPiece> path = critical_path(c.plan, record);
  const std::string svg = render_timeline(c.plan, record, {.critical = path});
  EXPECT_EQ(test::xml_fault(svg), "");
  EXPECT_EQ(count_of(svg, "<title>critical: "), path.size());
  EXPECT_EQ(count_of(svg, "class=\"critical\""), path.size() + 1) << "and in the legend";
  EXPECT_THAT(render_timeline(c.plan, record, {}), Not(HasSubstr("critical")));
}

// A page sets colours and runs no scripts; a file of its own does both, and is no other picture for it.
TEST(Timeline, StandsAlone) {
  const test::Case c = test::small_case();
  const std::string inside = render_timeline(c.plan, {}, {.title = "title"});
  const std::string alone = standalone_svg(inside);
  EXPECT_EQ(test::xml_fault(alone), "");
  EXPECT_THAT(inside, Not(HasSubstr("<script")));
  EXPECT_THAT(inside, Not(HasSubstr("<style")));
  EXPECT_THAT(alone, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(alone, HasSubstr("'wheel'"));
  EXPECT_EQ(alone.substr(0, inside.size() - 7), inside.substr(0, inside.size() - 7));
}

TEST(Timeline, LongNamesAreCutBetweenCharacters) {
  test::Case c = test::small_case();
  c.plan.node_names[0] = "ααααααααααααααααα";  // 17 of two bytes
  c.plan.node_names[1] = "ββββββββββββββββ";   // 16
  const std::string svg = render_timeline(c.plan, {}, {});
  EXPECT_THAT(svg, HasSubstr(">ααααααααααααααα…<"));
  EXPECT_THAT(svg, HasSubstr(">ββββββββββββββββ<"));
}

TEST(Timeline, AxisReachesAsFarAsAsked) {
  const test::Case c = test::small_case();
  EXPECT_THAT(render_timeline(c.plan, {}, {.end_s = 200}), HasSubstr(">200 s<"));
}

TEST(Axis, TicksAreRoundNumbers) {
  for (const auto& [length, count, distance, decimals] :
       std::vector<std::tuple<double, int, double, int>>{{1, 10, 0.1, 1},
                                                         {1.3, 10, 0.2, 1},
                                                         {80, 10, 10, 0},
                                                         {0.034, 5, 0.01, 2},
                                                         {2.6, 5, 1, 0},
                                                         {3e-5, 3, 1e-5, 5}}) {
    EXPECT_NEAR(ticks_for(length, count).distance, distance, distance * 1e-9) << length;
    EXPECT_EQ(ticks_for(length, count).decimals, decimals) << length;
  }
}

TEST(Timeline, DrawsAnEmptyRun) {
  const std::string svg = render_timeline(test::small_case().plan, {}, {.title = "nothing"});
  EXPECT_THAT(svg, HasSubstr("</svg>"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace skippipe
