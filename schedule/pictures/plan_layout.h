// Where nodes and paths stand on the map of a plan: a drawing in layers (Sugiyama, Tagawa and Toda 1981), a column per
// stage.
#pragma once

#include <vector>

#include "schedule/plan/plan.h"

namespace skippipe {

// Something in a column that lines pass through: a node, or a bundle of all lines of one hop that pass the column by. A
// node stands in its box; the lanes of its lines are below the box's header.
struct LayoutItem {
  int column = 0;
  int node = -1;      // -1: a bundle
  int lines = 0;      // how many pass
  bool back = false;  // a bundle that runs from right to left, towards an earlier stage
  double y = 0;       // of the middle of its lanes
};

// A line passes an item: it comes in at one side and goes out at the other; of a bundle both are the same.
struct LayoutStop {
  int item = 0;
  double in_y = 0;
  double out_y = 0;
};

struct LayoutSizes {
  double lane_pitch = 8;      // between the middles of neighbouring lines
  double header_height = 34;  // of a node's box, above its lanes
  double min_lanes_height = 8;
  double padding = 6;     // of a node's box, above and below its lanes
  double node_gap = 14;   // between items, of which one is a node
  double bundle_gap = 4;  // between two bundles
};

struct PlanLayout {
  std::vector<LayoutItem> items;                // the used nodes' first
  std::vector<int> item_of_node;                // -1: an unused node
  std::vector<std::vector<LayoutStop>> routes;  // per microbatch; a stop is a visit where its item is a node
  double height = 0;                            // all y lie in [0, height], boxes included
};

// What a node's box adds above and below the middle of its lanes; without header and padding for a bundle.
double extent_above(const LayoutItem& item, const LayoutSizes& sizes);
double extent_below(const LayoutItem& item, const LayoutSizes& sizes);

// Places items so that lines cross little and run straight where they can. Deterministic.
PlanLayout lay_out_plan(const Plan& plan, const LayoutSizes& sizes);

}  // namespace skippipe
