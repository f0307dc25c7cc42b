// The map of a plan: every node and path, lines side by side, names escaped, whatever the plan.
#include "schedule/pictures/plan_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "schedule/pictures/plan_layout.h"
#include "schedule/pictures/svg.h"
#include "tests/schedule/pictures/svg_checks.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string kHostile = "a<b> & \"c\" 'd' ]]> </svg>";

TEST(PlanMap, ShowsEveryNodeAndPath) {
  test::Case c = test::small_case();
  c.plan.node_names[1] = kHostile;
  c.network.nodes[1].region = kHostile;
  const std::string svg = standalone_svg(render_plan_map(c.plan, c.network, kHostile));
  EXPECT_EQ(test::xml_fault(svg), "");
  EXPECT_THAT(svg, Not(HasSubstr("a<b>")));
  EXPECT_EQ(test::count_of(svg, "<title>"), c.plan.node_names.size() + c.plan.microbatches.size());
  EXPECT_EQ(test::count_of(svg, "class=\"route\""), 4u);
  EXPECT_THAT(svg, HasSubstr("microbatch 2: node-0 (stage 0) → node-2 (stage 1)"));
  EXPECT_THAT(svg, HasSubstr("node-3, : stage 1, 2 slots, 2 visits (microbatches 1, 3)"));
  EXPECT_THAT(svg, HasSubstr("layers 2 to 3"));
  EXPECT_THAT(svg, Not(HasSubstr(">unused<")));
}

TEST(PlanMap, ColoursByPathWhereThereIsOneDataNode) {
  test::Case c = test::small_case();
  const auto has_colours = [&](size_t count) {
    const std::string svg = render_plan_map(c.plan, c.network, "");
    for (size_t colour = 0; colour <= count; ++colour)
      EXPECT_EQ(test::count_of(svg, fmt::format("class=\"line line-hue{}\"", colour)) > 0, colour < count) << colour;
    return svg;
  };
  EXPECT_THAT(has_colours(2), HasSubstr("in the colour of its data node"));
  c.plan.stages = {{0}, {1}, {2, 3}};
  c.plan.workload.stage_layers = {1, 1, 1};
  const std::vector<std::vector<int>> paths = {{0, 1}, {0, 1, 2}, {0, 3}, {0, 1}};
  for (size_t m = 0; m < paths.size(); ++m) {
    c.plan.microbatches[m].visits.clear();
    for (const int node : paths[m]) c.plan.microbatches[m].visits.push_back({.node = node});
  }
  const std::string svg = has_colours(3);
  EXPECT_THAT(svg, HasSubstr("in the colour of its path from the data node"));
  EXPECT_THAT(svg, HasSubstr(">0, 3</text>"));
  EXPECT_EQ(test::xml_fault(svg), "");
}

TEST(PlanMap, SetsUnusedNodesApart) {
  test::Case c = test::small_case();
  c.plan.node_names.push_back("spare");
  c.plan.node_slots.push_back(3);
  c.network.nodes.push_back({.name = "spare", .region = "attic"});
  const std::string svg = render_plan_map(c.plan, c.network, "");
  EXPECT_EQ(test::xml_fault(svg), "");
  EXPECT_THAT(svg, HasSubstr(">unused<"));
  EXPECT_THAT(svg, HasSubstr("spare, attic: in no stage"));
}

TEST(PlanMap, IsWellFormedForAnyPlan) {
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    const auto c = test::random_case(seed);
    if (!c) continue;
    const std::string svg = render_plan_map(c->plan, c->network, "map");
    EXPECT_EQ(test::xml_fault(svg), "");
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_EQ(test::count_of(svg, "class=\"route\""), c->plan.microbatches.size());
    EXPECT_EQ(svg, render_plan_map(c->plan, c->network, "map"));
  }
}

// No two lines stand on each other, and items of a column keep apart.
TEST(PlanLayout, KeepsLinesAndBoxesApart) {
  const LayoutSizes sizes;
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    const auto c = test::random_case(seed);
    if (!c) continue;
    const PlanLayout layout = lay_out_plan(c->plan, sizes);
    ASSERT_EQ(layout.routes.size(), c->plan.microbatches.size());
    std::vector<std::vector<double>> in(layout.items.size()), out(layout.items.size());
    for (const auto& route : layout.routes)
      for (const LayoutStop& stop : route) {
        in[static_cast<size_t>(stop.item)].push_back(stop.in_y);
        out[static_cast<size_t>(stop.item)].push_back(stop.out_y);
      }
    for (size_t i = 0; i < layout.items.size(); ++i) {
      const LayoutItem& item = layout.items[i];
      EXPECT_GE(item.y - extent_above(item, sizes), -1e-6);
      EXPECT_LE(item.y + extent_below(item, sizes), layout.height + 1e-6);
      for (std::vector<double>* side : {&in[i], &out[i]}) {
        ASSERT_EQ(side->size(), static_cast<size_t>(item.lines));
        std::ranges::sort(*side);
        for (size_t k = 0; k + 1 < side->size(); ++k) EXPECT_NEAR((*side)[k + 1] - (*side)[k], sizes.lane_pitch, 1e-6);
      }
      for (size_t j = 0; j < i; ++j) {
        const LayoutItem& other = layout.items[j];
        if (other.column != item.column) continue;
        const double distance = std::abs(item.y - other.y);
        const LayoutItem& upper = item.y < other.y ? item : other;
        const LayoutItem& lower = item.y < other.y ? other : item;
        EXPECT_GE(distance, extent_below(upper, sizes) + extent_above(lower, sizes));
      }
    }
  }
}

// Lines of the same hop run side by side: neighbours where they leave stay neighbours, in the same order.
TEST(PlanLayout, BundlesTheLinesOfAHop) {
  Plan plan;
  plan.node_names = {"a", "b", "c", "d"};
  plan.node_slots = {1, 1, 1, 1};
  plan.stages = {{0}, {1}, {2}, {3}};
  plan.workload.stage_layers = {1, 1, 1, 1};
  plan.microbatches.resize(6);
  for (size_t m = 0; m < 6; ++m) {
    plan.microbatches[m].visits.push_back({.node = 0});
    if (m % 2 == 0) plan.microbatches[m].visits.push_back({.node = 1});
    plan.microbatches[m].visits.push_back({.node = 3});
  }
  const PlanLayout layout = lay_out_plan(plan, {});
  // 0 -> 3 passes two columns.
  const double first_y = layout.routes[1][1].in_y;
  for (const size_t m : {1u, 3u, 5u}) {
    ASSERT_EQ(layout.routes[m].size(), 4u);
    const double offset = layout.routes[m][0].out_y - layout.routes[1][0].out_y;
    EXPECT_DOUBLE_EQ(layout.routes[m][1].in_y - first_y, offset);
    EXPECT_DOUBLE_EQ(layout.routes[m][3].in_y - layout.routes[1][3].in_y, offset);
  }
}

// Lines that come from different nodes and go the same way from there on need not cross.
TEST(PlanLayout, KeepsTheOrderOfLines) {
  Plan plan;
  plan.node_names = {"a", "b", "c", "d", "e"};
  plan.node_slots = {1, 1, 1, 1, 1};
  plan.stages = {{0, 1}, {2}, {3}, {4}};
  plan.workload.stage_layers = {1, 1, 1, 1};
  for (int m = 0; m < 6; ++m)
    plan.microbatches.push_back({.visits = {{.node = m % 2}, {.node = 2}, {.node = 3}, {.node = 4}}});
  const PlanLayout layout = lay_out_plan(plan, {});
  for (size_t m = 0; m < 6; ++m)
    for (size_t other = 0; other < m; ++other)
      for (size_t s = 0; s < 4; ++s) {
        const bool above = layout.routes[m][0].in_y < layout.routes[other][0].in_y;
        EXPECT_EQ(layout.routes[m][s].in_y < layout.routes[other][s].in_y, above);
        EXPECT_EQ(layout.routes[m][s].out_y < layout.routes[other][s].out_y, above);
      }
}

TEST(PlanLayout, TurnsBackAroundBothNodes) {
  Plan plan;
  plan.node_names = {"a", "b", "c"};
  plan.node_slots = {1, 1, 1};
  plan.stages = {{0}, {1}, {2}};
  plan.workload.stage_layers = {1, 1, 1};
  plan.microbatches = {{.visits = {{.node = 0}, {.node = 2}, {.node = 1}}}};
  const PlanLayout layout = lay_out_plan(plan, {});
  std::vector<int> columns;
  std::vector<bool> back;
  for (const LayoutStop& stop : layout.routes[0]) {
    columns.push_back(layout.items[static_cast<size_t>(stop.item)].column);
    back.push_back(layout.items[static_cast<size_t>(stop.item)].back);
  }
  EXPECT_EQ(columns, (std::vector<int>{0, 1, 2, 2, 1, 1}));
  EXPECT_EQ(back, (std::vector<bool>{false, false, false, true, true, false}));
}

}  // namespace
}  // namespace skippipe
