// Networks drawn at random, for tests, benchmarks and those who plan before they have machines.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/plan/network.h"

namespace skippipe {

struct NetworkShape {
  int nodes = 12;
  int clusters = 4;         // regions; node i is in region i mod clusters
  double forward_s = 0.05;  // per layer and sample, of the fastest class
  // Device classes: how many times the fastest's forward time. Each node is of one of them, drawn evenly.
  std::vector<double> classes = {1};
  // Speeds within a class, and links besides, differ by up to this factor either way (uniform in the logarithm), links
  // in each direction for itself.
  double spread = 1;
  double overhead_s = 0.02;      // of every message
  double uplink_mbit_per_s = 0;  // of every node; 0: not shared
  int slots = 3;
  uint64_t seed = 0;
};

// Regions lie in a square of 150 ms one-way latency; bandwidth falls with latency as between the 12 regions of
// arXiv:2502.19913 (about 8,000 Mbit/s x ms); within a region 1 ms and 2 GiB/s. The same shape gives the same network.
// Throws ConfigError naming the field that makes no sense.
Network generate_network(const NetworkShape& shape);

}  // namespace skippipe
