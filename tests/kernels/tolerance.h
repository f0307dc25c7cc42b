// How far a result may lie from the formulas of tests/reference: what the tests and the benchmarks hold results to.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/tensor.h"
#include "tests/reference/operations.h"

namespace skippipe::testing {

// Relative error that an operation may make, beyond rounding its result. One table; f32 sums of some hundred terms.
inline double tolerance(Dtype dtype) { return dtype == Dtype::kBf16 ? 1e-2 : 1e-5; }

struct Difference {
  double worst;
  size_t at;
};

// The largest difference of an element from the expected one, relative to its size and to the root mean square of all
// (or to term_size, if that is greater). Of equally many elements. A NaN is infinitely far.
inline Difference largest_difference(const reference::Array& actual, const reference::Array& expected,
                                     double term_size) {
  double squares = 0;
  for (const double value : expected) squares += value * value;
  const double typical = std::sqrt(squares / static_cast<double>(expected.size()));
  Difference result{0, 0};
  for (size_t i = 0; i < actual.size(); ++i) {
    const double size = std::abs(expected[i]) + std::max(typical, term_size) + std::numeric_limits<float>::min();
    const double error =
        std::isnan(actual[i]) ? std::numeric_limits<double>::infinity() : std::abs(actual[i] - expected[i]) / size;
    if (error > result.worst) result = {error, i};
  }
  return result;
}

}  // namespace skippipe::testing
