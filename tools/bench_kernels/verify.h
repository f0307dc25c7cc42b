#pragma once

#include <string>

#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {

enum class Way { kOperation, kPeer };

// Runs the operation, or its peer where that computes the same, once at the model's verified_shape (a peer with
// tokens enough for it) and compares the outputs with the formulas. Empty if all are right, otherwise which is wrong by
// how much.
std::string find_mistake(BenchDevice& device, const Operation& operation, Dtype dtype, const Model& model, Way way);

}  // namespace skippipe::bench
