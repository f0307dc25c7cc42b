// Numbers in messages, also those that are none.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/format.h"

namespace skippipe {

// "0.25", and in words what printf calls -nan and inf.
inline std::string number_text(double value) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "infinite" : "minus infinite";
  return format("{}", value);
}

// "1.50 GiB"
inline std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? format("{} B", bytes) : format("{:.2f} {}", value, kUnits[unit]);
}

}  // namespace skippipe
