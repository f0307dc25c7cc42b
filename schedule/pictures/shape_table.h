// The shapes that were planned for, as a table for people.
#pragma once

#include <string>

#include "schedule/search/shape_search.h"

namespace skippipe {

// At most 12 rows for people, the best of each number of stages before others, the first marked; the rest counted.
std::string shape_table(const ShapeChoice& choice);

}  // namespace skippipe
