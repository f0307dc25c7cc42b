#include "schedule/pictures/axis.h"

#include <algorithm>
#include <cmath>

namespace skippipe {

Ticks ticks_for(double length, int count) {
  const double rough = length / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double distance = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power >= rough) distance = factor * power;
  return {distance, std::max(0, static_cast<int>(-std::floor(std::log10(distance) + 1e-9)))};
}

}  // namespace skippipe
