// Weights that are no numbers: found where they are read, written and looked at, and told of in one way.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/files/safetensors.h"

namespace skippipe {

// Looks at a tensor's values, piece by piece in their order, for NaN and infinity.
class FiniteCheck {
 public:
  void look_at(std::span<const float> values);
  bool finite() const { return count_ == 0; }
  // "tensor 'a': 2 of 12 values are not finite, the first, at [0, 3], is not a number"; for one that is not finite.
  std::string problem(const SafeTensor& tensor) const;

 private:
  uint64_t seen_ = 0;
  uint64_t count_ = 0;  // that are not finite
  uint64_t first_ = 0;
  float first_value_ = 0;
};

// Reads every weight of a file; a line for each tensor that has such values, naming the file.
std::vector<std::string> non_finite_tensors(const SafetensorsFile& file);

}  // namespace skippipe
