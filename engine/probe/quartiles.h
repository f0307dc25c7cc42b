// The middle half of some measurements.
#pragma once

#include <vector>

namespace skippipe {

struct Quartiles {
  double median = 0;
  double low = 0;   // a quarter of the values are below
  double high = 0;  // a quarter are above

  // The middle half spreads over more than this share of the median: better measured again.
  static constexpr double kNoisyShare = 0.2;
  bool noisy() const { return high - low > kNoisyShare * median; }

  Quartiles scaled(double factor) const { return {factor * median, factor * low, factor * high}; }
};

// Of at least one value.
Quartiles quartiles(std::vector<double> values);

}  // namespace skippipe
