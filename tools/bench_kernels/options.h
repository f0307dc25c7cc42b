#pragma once

#include <string>
#include <vector>

#include "tools/bench_kernels/shapes.h"

namespace skippipe::bench {

// What the command line asks for. An empty list: no choice was made.
struct Options {
  std::vector<std::string> backends;
  std::vector<Dtype> dtypes;
  std::vector<const Model*> models;
  int threads;
};

// Of what Google Benchmark left of the command line. Throws UsageError.
Options parse_options(int argc, char** argv);
void print_help();

}  // namespace skippipe::bench
