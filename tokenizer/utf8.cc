#include "tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>

namespace skippipe {
namespace {

bool is_continuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

// Bytes of the character that `lead` begins, or 0 if it begins none.
size_t character_bytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

// Bytes of the valid character at the start of text, or 0.
size_t valid_character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t bytes = character_bytes(byte(0));
  if (bytes == 0 || bytes > text.size()) return 0;
  for (size_t i = 1; i < bytes; ++i)
    if (!is_continuation(byte(i))) return 0;
  if (byte(0) == 0xe0 && byte(1) < 0xa0) return 0;   // overlong
  if (byte(0) == 0xed && byte(1) >= 0xa0) return 0;  // surrogate
  if (byte(0) == 0xf0 && byte(1) < 0x90) return 0;   // overlong
  if (byte(0) == 0xf4 && byte(1) >= 0x90) return 0;  // beyond U+10FFFF
  return bytes;
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const size_t bytes = valid_character(text.substr(i));
    if (bytes == 0) break;
    i += bytes;
  }
  return i;
}

size_t first_character_bytes(std::string_view text) { return character_bytes(static_cast<unsigned char>(text[0])); }

size_t utf8_boundary(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(4, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (is_continuation(byte)) continue;
    return character_bytes(byte) > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace skippipe
