// What somebody who misspelt a name may have meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace skippipe {

// The name with the fewest letters inserted, left out, replaced or swapped with their neighbour (optimal string
// alignment), the first of equals; "" if it takes more than a third of them.
std::string closest_name(std::string_view found, const std::vector<std::string>& names);

// "; did you mean 'name'?", or "" where nothing is close.
std::string did_you_mean(std::string_view found, const std::vector<std::string>& names);

}  // namespace skippipe
