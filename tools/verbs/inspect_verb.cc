// skippipe inspect: what a file or folder is, what it holds, and whether it is whole.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/memory.h"
#include "engine/run/inspect.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

constexpr size_t kShortTable = 24;
constexpr size_t kShortProblems = 8;

void print_tensors(const std::vector<SafeTensor>& tensors, size_t count) {
  size_t width = 0;
  for (size_t i = 0; i < count; ++i) width = std::max(width, tensors[i].name.size());
  for (size_t i = 0; i < count; ++i)
    fmt::print("  {:<{}}  {:<4}  {:>10}  {}\n", tensors[i].name, width, safe_dtype_name(tensors[i].dtype),
               human_bytes(static_cast<int64_t>(tensors[i].bytes())), fmt::join(tensors[i].shape, " x "));
  if (count < tensors.size()) fmt::print("  ... and {} more: --all shows them\n", tensors.size() - count);
}

void run(const std::string& path, bool all) {
  const Inspection found = inspect(path);
  fmt::print("{}: {}\n", path, found.kind.empty() ? "unknown" : found.kind);
  for (const auto& [label, value] : found.facts) fmt::print("  {:<14} {}\n", label, value);
  print_tensors(found.tensors, all ? found.tensors.size() : std::min(found.tensors.size(), kShortTable));
  const size_t shown = all ? found.problems.size() : std::min(found.problems.size(), kShortProblems);
  for (size_t i = 1; i < shown; ++i) fmt::print("also: {}\n", found.problems[i]);
  if (found.problems.size() > shown)
    fmt::print("... and {} more problems: --all shows them\n", found.problems.size() - shown);
  fmt::print("{}\n", found.whole() ? "whole" : "not whole: " + found.problems.front());
  if (!found.whole()) throw Exit{1};
}

}  // namespace

void add_inspect_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("inspect", "Say what a file or folder is, what it holds, and whether it is whole");
  struct Options {
    std::string path;
    bool all = false;
  };
  auto options = std::make_shared<Options>();
  verb->add_option("path", options->path, "Any file or folder of skippipe, or a Hugging Face model")->required();
  verb->add_flag("--all", options->all, "Every tensor and every problem");
  verb->footer("Example: skippipe inspect run");
  verb->callback([options] { run(options->path, options->all); });
}

}  // namespace skippipe
