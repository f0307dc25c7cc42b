#include "engine/files/finite_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/number_text.h"

namespace skippipe {
namespace {

// Where in a tensor its value of this index lies, in row-major order.
std::vector<uint64_t> place_of(uint64_t index, const std::vector<int64_t>& shape) {
  std::vector<uint64_t> place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    const auto extent = static_cast<uint64_t>(shape[i]);
    place[i] = index % extent;
    index /= extent;
  }
  return place;
}

}  // namespace

void FiniteCheck::look_at(std::span<const float> values) {
  const auto is_broken = [](float value) { return !std::isfinite(value); };
  const auto count = static_cast<uint64_t>(std::ranges::count_if(values, is_broken));
  if (finite() && count > 0) {
    const auto first = std::ranges::find_if(values, is_broken);
    first_ = seen_ + static_cast<uint64_t>(first - values.begin());
    first_value_ = *first;
  }
  count_ += count;
  seen_ += values.size();
}

std::string FiniteCheck::problem(const SafeTensor& tensor) const {
  return fmt::format("tensor '{}': {} of {} values are not finite, the first, at [{}], is {}", tensor.name, count_,
                     seen_, fmt::join(place_of(first_, tensor.shape), ", "), number_text(first_value_));
}

std::vector<std::string> non_finite_tensors(const SafetensorsFile& file) {
  std::vector<float> buffer(1 << 18);
  std::vector<std::string> problems;
  for (const SafeTensor& tensor : file.tensors()) {
    if (!is_float(tensor.dtype)) continue;
    FiniteCheck check;
    file.stream_f32(tensor.name, tensor.shape, buffer, [&](std::span<const float> values) { check.look_at(values); });
    if (!check.finite()) problems.push_back(fmt::format("{}: {}", file.path().string(), check.problem(tensor)));
  }
  return problems;
}

}  // namespace skippipe
