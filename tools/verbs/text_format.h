// --format, and what was found out about files without it.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "tokenizer/text_reader.h"

namespace skippipe {

inline constexpr char kTextFiles[] = "UTF-8 text, or JSON lines with a `text` field; pipes too";

inline void add_format_option(CLI::App& verb, TextFormat& format) {
  const std::map<std::string, TextFormat> names = {
      {"auto", TextFormat::kAutomatic}, {"text", TextFormat::kPlain}, {"jsonl", TextFormat::kJsonLines}};
  verb.add_option_function<std::string>(
          "--format", [&format, names](const std::string& name) { format = names.at(name); },
          "What the files hold: text, jsonl, or auto: JSON lines by a name that ends with .jsonl or .ndjson or by "
          "the first line, else text")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}))
      ->default_str("auto");
}

inline void print_guesses(const TextReader& text) {
  for (const std::string& guess : text.guesses()) fmt::print("{} (by what it holds; --format says otherwise)\n", guess);
  if (text.more_guesses() > 0) fmt::print("... and so on for {} more files\n", text.more_guesses());
}

}  // namespace skippipe
