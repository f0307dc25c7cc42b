// The options of `launch` and `train` that say how a run begins.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/resume.h"

namespace skippipe {

inline void add_start_options(CLI::App& verb, StartChoice& choice) {
  verb.add_flag("--resume", choice.resume, "go on from the newest whole checkpoint of the run's output folder");
  verb.add_option("--resume-from", choice.resume_from, "go on from this checkpoint");
}

}  // namespace skippipe
