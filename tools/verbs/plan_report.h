// What the verbs `plan` and `simulate` show of a plan.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/search/planner.h"

namespace skippipe {

// A table of the plan's prediction and its nodes, on standard output. Nodes in no stage are told to be unused, but for
// those that are gone.
void print_plan(const Plan& plan, const std::vector<std::string>& gone = {});

// How far the plan that a request led to is above what can be proven of every plan (schedule/search/lower_bound.h): on
// its stages and, where it chose them, on any. On standard output.
void print_floor(PlanRequest request, const Plan& plan);

// What else shows a plan.
struct PlanViews {
  bool explain = false;
  std::string timeline;  // files; empty: not asked for
  std::string map;
};

// `views` must outlive the verb.
void add_view_options(CLI::App& verb, PlanViews& views);

// Prints and writes those that are asked for.
void show_views(const Plan& plan, const Network& network, const PlanViews& views);

}  // namespace skippipe
