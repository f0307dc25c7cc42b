#include "tools/bench_kernels/options.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <thread>

#include "base/error.h"

namespace skippipe::bench {
namespace {

constexpr int kMostThreads = 1024;

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Model& model : all_models()) names.emplace_back(model.name);
  return names;
}

std::string join(const std::vector<std::string>& words) {
  std::string joined;
  for (const std::string& word : words) joined += (joined.empty() ? "" : ",") + word;
  return joined;
}

// The indices in `known` of the words of a list with commas.
std::vector<size_t> choose(const std::string& option, const std::string& list, const std::vector<std::string>& known) {
  std::vector<size_t> chosen;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string word = list.substr(begin, end - begin);
    const auto found = std::find(known.begin(), known.end(), word);
    if (found == known.end()) throw UsageError("{}: found '{}', expected some of {}", option, word, join(known));
    chosen.push_back(static_cast<size_t>(found - known.begin()));
    begin = end + 1;
  }
  return chosen;
}

int parse_threads(const std::string& text) {
  int threads = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, threads);
  if (error != std::errc() || stopped != end || threads < 1 || threads > kMostThreads)
    throw UsageError("--threads: found '{}', expected 1 to {}", text, kMostThreads);
  return threads;
}

}  // namespace

Options parse_options(int argc, char** argv) {
  Options options;
  options.threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{kMostThreads}));
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string option = argument.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (option == "--backend") {
      const std::vector<std::string> known = {"cpu", "cuda"};
      for (const size_t index : choose(option, value, known)) options.backends.push_back(known[index]);
    } else if (option == "--dtype") {
      for (const size_t index : choose(option, value, {"f32", "bf16"}))
        options.dtypes.push_back(index == 0 ? Dtype::kF32 : Dtype::kBf16);
    } else if (option == "--shape") {
      for (const size_t index : choose(option, value, model_names())) options.models.push_back(&all_models()[index]);
    } else if (option == "--threads") {
      options.threads = parse_threads(value);
    } else {
      throw UsageError("'{}' is no option, or has a value that it cannot have; --help lists them", argument);
    }
  }
  return options;
}

void print_help() {
  std::printf(
      "bench_kernels: times every operation and relates it to the machine's ceilings, measured in the same run.\n"
      "Each is verified first; one that is wrong is not timed.\n\n"
      "  --backend=cpu,cuda   default: all that this machine has\n"
      "  --dtype=f32,bf16     default: all that the backend computes in\n"
      "  --shape=%s\n"
      "                       default: all on a GPU, 125M and 500M on a CPU\n"
      "  --threads=N          of the CPU; default: all\n\n"
      "Example: bench_kernels --backend=cuda --benchmark_filter=attention --benchmark_out=attention.json\n\n"
      "Google Benchmark's own (--benchmark_repetitions is 11 here):\n\n",
      join(model_names()).c_str());
  benchmark::PrintDefaultHelp();
}

}  // namespace skippipe::bench
