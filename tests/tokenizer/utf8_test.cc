#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace skippipe {
namespace {

TEST(Utf8, TakesEveryCharacterAndNothingElse) {
  // Encodes every number up to beyond Unicode's end by hand, and checks what RFC 3629 says of it.
  for (uint32_t c = 0; c < 0x120000; c += c < 0x11000 ? 1 : 61) {
    std::string text;
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += static_cast<char>(0xc0 | c >> 6), tail(0);
    } else if (c < 0x10000) {
      text += static_cast<char>(0xe0 | c >> 12), tail(6), tail(0);
    } else {
      text += static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0);
    }
    const bool valid = c < 0x110000 && !(c >= 0xd800 && c < 0xe000);
    ASSERT_EQ(valid_utf8_prefix("ab" + text), valid ? 2 + text.size() : 2) << std::hex << c;
    ASSERT_EQ(valid_utf8_prefix(text.substr(0, text.size() - 1)), 0u) << std::hex << c;
    if (valid) {
      ASSERT_EQ(utf8_boundary("ab" + text), 2 + text.size());
      ASSERT_EQ(utf8_boundary("ab" + text.substr(0, text.size() - 1)), 2u);
    }
  }
}

TEST(Utf8, RefusesOverlongAndStrayBytes) {
  for (const char* text :
       {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\x80", "\xbf",
        "\xf5\x80\x80\x80", "\xff", "\xc3(", "\xe2\x82(", "\xf0\x90\x80("})
    EXPECT_EQ(valid_utf8_prefix(std::string("ok ") + text), 3u) << text;
  EXPECT_EQ(valid_utf8_prefix(""), 0u);
  EXPECT_EQ(utf8_boundary(""), 0u);
}

}  // namespace
}  // namespace skippipe
