#include "base/closest.h"

#include <algorithm>
#include <utility>

namespace skippipe {
namespace {

constexpr size_t kLongestName = 100;  // nothing longer is compared

size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last, last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last = std::exchange(last, row);
  }
  return last[b.size()];
}

}  // namespace

std::string closest_name(std::string_view found, const std::vector<std::string>& names) {
  if (found.size() > kLongestName) return "";
  std::string closest;
  size_t least = found.size() / 3 + 1;
  for (const std::string& name : names) {
    if (name.size() > kLongestName) continue;
    const size_t changes = distance(found, name);
    if (changes < least) {
      least = changes;
      closest = name;
    }
  }
  return closest;
}

std::string did_you_mean(std::string_view found, const std::vector<std::string>& names) {
  const std::string closest = closest_name(found, names);
  return closest.empty() ? "" : "; did you mean '" + closest + "'?";
}

}  // namespace skippipe
