#include "tools/verbs/go_on.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <iostream>

#include "base/error.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

// As a shell reads it back.
std::string quoted(const std::string& word) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("-_./,:=+@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

}  // namespace

std::string command_of(const CLI::App& verb, const std::vector<std::string>& without) {
  std::string command = "skippipe " + verb.get_name();
  for (const CLI::Option* option : verb.get_options()) {
    if (option->empty() || std::ranges::find(without, option->get_name()) != without.end()) continue;
    if (!option->get_positional()) command += " " + option->get_name();
    if (option->get_items_expected_max() > 0)
      command += " " + quoted(fmt::format("{}", fmt::join(option->results(), ",")));
  }
  return command;
}

std::string how_to_go_on(const std::filesystem::path& run_output, const CLI::App& verb) {
  const std::filesystem::path folder = checkpoints_folder(run_output);
  const std::string resume = command_of(verb, {"--resume", "--resume-from"}) + " --resume";
  std::string missing;
  std::vector<uint32_t> iterations = list_checkpoints(folder);
  for (auto iteration = iterations.rbegin(); iteration != iterations.rend(); ++iteration) {
    const std::vector<std::string> problems = missing_parts(folder / checkpoint_name(*iteration));
    if (problems.empty())
      return fmt::format("newest whole checkpoint: iteration {}; go on with: {}", *iteration, resume);
    if (missing.empty()) missing = problems.front();
  }
  if (!missing.empty())
    return fmt::format("no whole checkpoint here: {}; once all machines' parts are here, go on with: {}", missing,
                       resume);
  if (!std::filesystem::exists(run_output / "metrics.jsonl")) return {};
  return fmt::format("no whole checkpoint yet; begin again with: {}", command_of(verb));
}

void run_to_its_end(const std::filesystem::path& run_output, const CLI::App& verb, const std::function<void()>& work) {
  const auto advised = [&](const Error& error) {
    const std::string advice = how_to_go_on(run_output, verb);
    return advice.empty() ? error.what() : fmt::format("{}\n{}", error.what(), advice);
  };
  try {
    work();
  } catch (const PeerError& error) {
    throw PeerError(advised(error));
  } catch (const Exit&) {
    if (const std::string advice = how_to_go_on(run_output, verb); !advice.empty()) std::cerr << advice << "\n";
    throw;
  } catch (const Error& error) {
    throw RunError(advised(error));
  }
}

}  // namespace skippipe
