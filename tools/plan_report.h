// What the verbs `plan` and `simulate` show of a plan.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "schedule/network.h"
#include "schedule/plan.h"

namespace skippipe {

// A table of the plan's prediction and its nodes, on standard output.
void print_plan(const Plan& plan);

// Files that show a plan; an empty name: not asked for.
struct PlanPictures {
  std::string timeline;
  std::string map;
};

// `pictures` must outlive the verb.
void add_picture_options(CLI::App& verb, PlanPictures& pictures);

// Writes those that are asked for.
void show_pictures(const Plan& plan, const Network& network, const PlanPictures& pictures);

}  // namespace skippipe
