// Numbers in messages, also those that are none.
#pragma once

#include <cmath>
#include <string>

#include "base/format.h"

namespace skippipe {

// "0.25", and in words what printf calls -nan and inf.
inline std::string number_text(double value) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "infinite" : "minus infinite";
  return format("{}", value);
}

}  // namespace skippipe
