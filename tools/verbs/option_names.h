// What a user is told who gives an option that a verb does not have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace skippipe {

// CLI11's one line for wrong use, with the nearest name of an option where one is unknown.
std::string failure_message(const CLI::App* app, const CLI::Error& error);

}  // namespace skippipe
