// Checks of UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF).
#pragma once

#include <cstddef>
#include <string_view>

namespace skippipe {

// The offset of the first byte that does not begin a valid character, or text.size() if all of text is valid.
size_t valid_utf8_prefix(std::string_view text);

// The largest n <= text.size() such that no character of the (valid) text is cut at n.
size_t utf8_boundary(std::string_view text);

// Of the (valid, not empty) text's first character.
size_t first_character_bytes(std::string_view text);

}  // namespace skippipe
