// The sections of a report, each a piece of HTML about all its runs.
#pragma once

#include <string>
#include <vector>

#include "tools/report/run_data.h"

namespace skippipe {

using Runs = std::vector<RunData>;

std::string headline_section(const Runs& runs);
std::string curves_section(const Runs& runs);
std::string evaluation_section(const Runs& runs);
// Planned and measured timeline of an iteration, one run.
std::string timelines_section(const RunData& run);
std::string node_time_section(const RunData& run);
std::string links_section(const RunData& run);
std::string memory_section(const RunData& run);
std::string configuration_section(const Runs& runs);

// The whole page.
std::string render_report(const Runs& runs);

}  // namespace skippipe
