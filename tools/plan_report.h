// What the verbs `plan` and `simulate` show of a plan.
#pragma once

#include <filesystem>
#include <string>

#include "schedule/network.h"
#include "schedule/plan.h"
#include "schedule/planner.h"

namespace skippipe {

// A table of the plan's prediction and its nodes, on standard output.
void print_plan(const Plan& plan);

// How far the plan that a request led to is above what can be proven of every plan (schedule/lower_bound.h): on its
// stages and, where it chose them, on any. On standard output.
void print_floor(PlanRequest request, const Plan& plan);

// The first iteration as an SVG.
void write_timeline(const Plan& plan, const Network& network, const std::filesystem::path& path);

}  // namespace skippipe
