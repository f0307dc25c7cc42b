// What the verbs `plan` and `simulate` show of a plan.
#pragma once

#include <filesystem>
#include <string>

#include "schedule/network.h"
#include "schedule/plan.h"

namespace skippipe {

// A table of the plan's prediction and its nodes, on standard output.
void print_plan(const Plan& plan);

// The first iteration as an SVG.
void write_timeline(const Plan& plan, const Network& network, const std::filesystem::path& path);
// Stages, nodes and paths as an SVG.
void write_map(const Plan& plan, const Network& network, const std::filesystem::path& path);

}  // namespace skippipe
