// What the verbs `plan` and `simulate` show of a plan.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "schedule/network.h"
#include "schedule/plan.h"

namespace skippipe {

// A table of the plan's prediction and its nodes, on standard output.
void print_plan(const Plan& plan);

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
