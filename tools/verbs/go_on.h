// What a user is told when a run has failed: what is left of it, and the command that goes on from there.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>

namespace skippipe {

// The command line that the verb was called with, for a shell, without the options named.
std::string command_of(const CLI::App& verb, const std::vector<std::string>& without = {});

// "newest whole checkpoint: iteration 150; go on with: skippipe launch run.toml --resume", or that there is none; empty
// before a run has begun in the folder.
std::string how_to_go_on(const std::filesystem::path& run_output, const CLI::App& verb);

// Does the work of a run; what it throws ends with how to go on.
void run_to_its_end(const std::filesystem::path& run_output, const CLI::App& verb, const std::function<void()>& work);

}  // namespace skippipe
