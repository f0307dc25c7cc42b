// Text inside HTML and SVG.
#pragma once

#include <string>
#include <string_view>

namespace skippipe {

// Safe between tags and inside quoted attributes; control characters become spaces.
std::string escape_markup(std::string_view text);

// At most `count` characters, which UTF-8 may store in several bytes each; the last is an ellipsis if some are missing.
std::string shorten_text(const std::string& text, size_t count);

}  // namespace skippipe
