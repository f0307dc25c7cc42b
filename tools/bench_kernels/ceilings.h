// What the machine can do at best, measured in the same run as the operations.
#pragma once

#include <map>

#include "tools/bench_kernels/device.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {

struct Ceilings {
  double bytes_per_s;
  std::map<Dtype, double> flops_per_s;  // for each dtype that the backend computes in

  double of(Unit unit, Dtype dtype) const { return unit == Unit::kBytes ? bytes_per_s : flops_per_s.at(dtype); }
};

// On a CPU the triad of STREAM (McCalpin 1995) and products of 2048 x 2048 matrices; on a GPU the library's copy of
// 512 MiB, bytes read and written, and products of 8192 x 8192 matrices. Medians. Products are the backend's, as the
// operations call them.
Ceilings measure_ceilings(BenchDevice& device);

}  // namespace skippipe::bench
