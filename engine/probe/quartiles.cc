#include "engine/probe/quartiles.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace skippipe {

Quartiles quartiles(std::vector<double> values) {
  SKP_CHECK(!values.empty(), "nothing was measured");
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[static_cast<size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
  };
  return {at(0.5), at(0.25), at(0.75)};
}

}  // namespace skippipe
