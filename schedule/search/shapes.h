// Shapes of a pipeline for a model and a network: how the layers are cut into stages, and how many nodes hold each.
#pragma once

#include <compare>
#include <functional>
#include <optional>
#include <vector>

#include "schedule/search/planner.h"

namespace skippipe {

struct Shape {
  std::vector<int> stage_layers;
  std::vector<int> nodes_per_stage;  // the data nodes first

  int stage_count() const { return static_cast<int>(stage_layers.size()); }
  auto operator<=>(const Shape&) const = default;
};

// What the shapes to choose from have in common.
struct ShapeRequest {
  // Network, rules, seed, progress, and the budget for all shapes together. What a shape decides is ignored: workload,
  // stages, nodes per stage, microbatches.
  PlanRequest plan;
  int layers = 0;  // of the model
  // What an iteration computes, moves and keeps in memory, for the layers of each stage.
  std::function<Workload(const std::vector<int>& stage_layers)> workload_of = {};
  // Microbatches of an iteration, over all data nodes.
  std::function<int(int data_nodes)> microbatches_of = {};
  // The skip ratio is for shapes that it fits: where its paths would leave stages out, they skip less.
  bool may_skip_less = false;
};

// Which nodes to make shapes of, ascending: all, first, and those that are left without such as stand out, in that they
// compute slowly, are far from most others, or have little memory. A slow node can hold up more than it helps.
std::vector<std::vector<int>> node_choices(const ShapeRequest& request);

// So many nodes, ascending: the fastest, and then always the one that computes a stage and reaches one of those before
// in the least time. Where there is one for each stage, no gradients are summed.
std::vector<int> close_nodes(const ShapeRequest& request, int count);

// The request for some of the network's nodes.
ShapeRequest request_for(const ShapeRequest& request, const std::vector<int>& nodes);

// Makes `plan`, a copy of request.plan, one for this shape, wherever its nodes are.
void set_shape(const ShapeRequest& request, const Shape& shape, PlanRequest& plan);

// The numbers of stages worth a try: all that layers and nodes can fill, or of many some, ever further apart.
std::vector<int> stage_counts(const ShapeRequest& request);

// Why no shape of so many stages can be, whatever its layers and nodes: C2, C3, C4.
std::optional<PlanResult> check_stage_count(const ShapeRequest& request, int stages);

// Shapes of so many stages, the even one first, none twice: nodes evenly, in proportion to the stages' work, and with
// more data nodes than others; layers evenly, and in proportion to what nodes compute in a second, within what their
// memory holds, should the fastest or the largest nodes come first. Stage 0 computes all losses and is never skipped,
// so it gets fewer layers or more nodes. All layers and all nodes are given out. Whether nodes can hold their stages is
// left to check_capacity. Empty: there are more data nodes than microbatches.
std::vector<Shape> candidate_shapes(const ShapeRequest& request, int stages);

// The shape of a plan with layers shifted from stages whose nodes have much to do for their speed to those that have
// little, within what their memory holds; the plan's nodes stay where they are.
Shape balance_layers(const ShapeRequest& request, const Plan& plan);

Shape shape_of(const Plan& plan);

// The shape of a plan with one node more for the stage that has most to do, and for stage 0, from the one that has
// least; without those that have no node to give.
std::vector<Shape> move_nodes(const ShapeRequest& request, const Plan& plan);

// Share of the model's layers that a microbatch computes, in the mean under C4.
double computed_share(const PlanRules& rules, const std::vector<int>& stage_layers);

}  // namespace skippipe
