// How numbers stand on the command line: one rule for every option of every verb.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <string_view>
#include <system_error>

namespace skippipe {

// Whether all of `text` is a number that fits: a plain decimal, without spaces or a plus before it.
template <typename Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// Has each option with a numeric value refuse what is no plain decimal number of its kind, before anything else looks
// at it: CLI11 by itself takes -1 for the largest unsigned number, 0x10 and 010 for other bases, and what is too large
// for the largest there is. Whole numbers may have a sign and, for sizes, a unit; others may also have a point and an
// exponent. Call it when all verbs have their options.
void require_plain_numbers(CLI::App& app);

}  // namespace skippipe
