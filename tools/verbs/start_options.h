// The options of `launch` and `train` that say how a run begins, and the reference of what a run file may have.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "engine/run/resume.h"
#include "engine/run/run_file.h"

namespace skippipe {

inline void add_start_options(CLI::App& verb, StartChoice& choice) {
  verb.add_flag("--resume", choice.resume, "go on from the newest whole checkpoint of the run's output folder");
  verb.add_option("--resume-from", choice.resume_from, "go on from this checkpoint");
  const auto print_fields = [] {
    fmt::print("{}", run_file_reference());
    throw CLI::Success();
  };
  verb.add_flag_callback("--fields", print_fields, "print the fields of a run file and exit")->trigger_on_parse();
}

}  // namespace skippipe
