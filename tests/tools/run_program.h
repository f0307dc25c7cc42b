// Runs the `skippipe` program as a user does.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace skippipe {

struct ProgramResult {
  int exit_code = -1;
  std::string output;  // standard output; of `skippipe`, standard error with it
};

// A shell's command: what it writes to standard output.
inline ProgramResult run_command(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run " + command);
  ProgramResult result;
  std::array<char, 4096> block{};
  while (const size_t count = fread(block.data(), 1, block.size(), pipe)) result.output.append(block.data(), count);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

// `arguments` is a shell's: quote what needs it. `input` is the file that it reads as standard input; `before` is for
// the shell: limits, or a pipe (then without `input`).
inline ProgramResult run_skippipe(const std::string& arguments, const std::string& input = "/dev/null",
                                  const std::string& before = "") {
  return run_command(before + " '" SKIPPIPE_PROGRAM "' " + arguments + " 2>&1" +
                     (input.empty() ? "" : " <'" + input + "'"));
}

}  // namespace skippipe
