#include "tools/verbs/number_options.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <string>

#include "base/format.h"

namespace skippipe {
namespace {

bool is_letter(unsigned char c) { return std::isalpha(c) != 0; }

// Words are left to what comes after: an option may know some ("auto"), and CLI11 takes none for a number.
template <typename Number>
CLI::Validator whole_number(const char* expected) {
  return CLI::Validator(
      [expected](std::string& text) {
        if (!text.empty() && std::ranges::all_of(text, is_letter)) return std::string();
        Number number = 0;
        if (!parse_number(text, number)) return format("found '{}', expected {}", text, expected);
        text = std::to_string(number);  // without zeros in front, which CLI11 takes for another base
        return std::string();
      },
      std::string());
}

CLI::Validator size() {
  return CLI::Validator(
      [](std::string& text) {
        const auto is_digit = [](unsigned char c) { return std::isdigit(c) != 0; };
        const auto unit = std::ranges::find_if_not(text, is_digit);
        const bool is_unit = std::all_of(unit, text.end(), is_letter);
        uint64_t number = 0;
        const std::string digits(text.begin(), unit);
        if (!is_unit || !parse_number(digits, number))
          return format("found '{}', expected a whole number with or without a unit, such as 2GB", text);
        text = std::to_string(number) + text.substr(digits.size());
        return std::string();
      },
      std::string());
}

CLI::Validator decimal_number() {
  return CLI::Validator(
      [](std::string& text) {
        double number = 0;
        if (parse_number(text, number) && std::isfinite(number)) return std::string();
        return format("found '{}', expected a number", text);
      },
      std::string());
}

void require_plain_numbers(CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type.starts_with("UINT:SIZE"))
    option.transform(size());
  else if (type.starts_with("UINT"))
    option.transform(whole_number<uint64_t>("a whole number from 0 to 18446744073709551615"));
  else if (type.starts_with("INT"))
    option.transform(whole_number<int64_t>("a whole number"));
  else if (type.starts_with("FLOAT"))
    option.transform(decimal_number());
}

}  // namespace

void require_plain_numbers(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) require_plain_numbers(*option);
  for (CLI::App* verb : app.get_subcommands([](CLI::App*) { return true; })) require_plain_numbers(*verb);
}

}  // namespace skippipe
