// Plans and the networks that they name, for verbs that take the one with or without the other.
#pragma once

#include <initializer_list>
#include <string>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// The file of the network that is asked for or, if `asked` is empty, that the plan from `file` names. Throws UsageError
// for a plan that names none.
std::string network_file_of(const Plan& plan, const std::string& file, const std::string& asked);

// Before a search that may take long: throws FileError unless the files can be written. Empty names count as none.
void require_writable(std::initializer_list<std::string> files);

// Writes a plan that names its network's file relative to its own folder. An empty `file`: does nothing.
void save_plan_beside(Plan plan, const std::string& network_file, const std::string& file);

}  // namespace skippipe
