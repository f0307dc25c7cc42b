// Chooses the shape of a pipeline by planning for many: briefly for all, at length for those that do best.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "schedule/search/shapes.h"

namespace skippipe {

struct ShapeRow {
  Shape shape;                // without a plan maybe only its number of stages says something
  int left_out = 0;           // of the network's nodes
  int64_t samples = 0;        // of an iteration, over all data nodes
  double computed_share = 0;  // of the layers, by a sample
  double floor_s = 0;         // of an iteration (lower_bound.h)
  std::optional<double> iteration_s = {};
  // What shapes are ranked by: samples per second; of a shape that skips more layers than the rules ask for, because
  // stages are skipped whole, in proportion fewer, so that skipping more is no gain.
  double score = 0;
  std::string rule = {};  // without a plan: the rule that can't be met, and why
  std::string why = {};

  double samples_per_s() const { return iteration_s ? static_cast<double>(samples) / *iteration_s : 0; }
};

struct ShapeChoice {
  std::vector<ShapeRow> rows;  // the best first, those without a plan last
  int untried = 0;             // shapes whose floors were the least promising
  double skip_ratio = 0;       // that was asked for; the plan may skip less
  std::optional<Plan> plan;    // of the first row; none: no shape has one
  PlanRequest request;         // that the plan answers, with the whole budget
};

// Successive halving (Jamieson and Talwalkar 2016) over candidate_shapes of node_choices: each round spends the same
// share of request.plan.budget, on fewer shapes, joined by neighbours of the best; of the half that is left the last
// few get one part, planned anew, and the best of them the other. A planner that improves plans goes on from the best
// plan of a shape, and may then move nodes from stage to stage, leave them out or use them again: a row tells where
// that has led. Deterministic where the planner is. Throws ConfigError for a request that makes no sense.
ShapeChoice choose_shape(const Planner& planner, const ShapeRequest& request);

}  // namespace skippipe
