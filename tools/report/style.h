// The report's style sheet: light, dark, and for paper.
#pragma once

#include <cstddef>
#include <string>

namespace skippipe {

// Series s0, s1, ... and categories c0, c1, ... have so many colours.
inline constexpr size_t kColourCount = 7;

std::string style_sheet();

}  // namespace skippipe
