// The house: which folder may include what, and that every folder says what lives in it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace skippipe {
namespace {

const std::filesystem::path kRoot = SKIPPIPE_SOURCE_DIR;

// Folder by folder, whose headers it may include besides its own.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"base", {}},
    {"kernels", {"base"}},
    {"schedule", {"base"}},
    {"comm", {"base"}},
    {"tokenizer", {"base"}},
    {"engine", {"base", "kernels", "schedule", "comm", "tokenizer"}},
    {"tools", {"base", "kernels", "schedule", "comm", "tokenizer", "engine"}},
};

struct Include {
  std::filesystem::path file;  // relative to the root
  int line = 0;
  std::string header;
};

bool is_source(const std::filesystem::path& path) {
  static const std::set<std::string> kExtensions = {".h", ".cc", ".cu", ".cuh"};
  return kExtensions.contains(path.extension().string());
}

std::vector<Include> includes_in(const std::string& folder) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<Include> result;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    std::ifstream stream(entry.path());
    std::string text;
    for (int line = 1; std::getline(stream, text); ++line) {
      std::smatch match;
      if (std::regex_search(text, match, kInclude))
        result.push_back({std::filesystem::relative(entry.path(), kRoot), line, match[1].str()});
    }
  }
  return result;
}

// Benchmarks (a file, or a folder of them) compare with the libraries themselves, count with the tests' counters, and
// verify with the tests' formulas.
bool is_benchmark(const Include& include) {
  return std::any_of(include.file.begin(), include.file.end(),
                     [](const auto& part) { return part.string().starts_with("bench_"); });
}

std::string first_folder(const std::string& header) { return header.substr(0, header.find('/')); }

TEST(House, ArrowsRunDown) {
  for (const auto& [folder, allowed] : kMayInclude) {
    const auto includes = includes_in(folder);
    EXPECT_FALSE(includes.empty()) << folder;
    for (const Include& include : includes) {
      const std::string target = first_folder(include.header);
      EXPECT_TRUE(target != "tests" || is_benchmark(include)) << include.file << ":" << include.line;
      if (!kMayInclude.contains(target) || !std::filesystem::exists(kRoot / include.header)) continue;  // a library's
      EXPECT_TRUE(target == folder || allowed.contains(target))
          << include.file << ":" << include.line << " includes " << include.header;
    }
  }
}

TEST(House, OurHeadersAreIncludedFromTheRoot) {
  for (const auto& [folder, allowed] : kMayInclude)
    for (const Include& include : includes_in(folder)) {
      EXPECT_EQ(include.header.find(".."), std::string::npos) << include.file << ":" << include.line;
      EXPECT_FALSE(std::filesystem::exists(kRoot / include.file.parent_path() / include.header))
          << include.file << ":" << include.line << " includes " << include.header << " without its folder";
    }
}

// Planners may join the threads they start; machine, simulator and plans know none.
TEST(House, ScheduleIsPure) {
  const std::set<std::string> kForbidden = {"thread", "mutex",         "shared_mutex", "condition_variable",
                                            "future", "chrono",        "sys/socket.h", "unistd.h",
                                            "omp.h",  "cuda_runtime.h"};
  for (const Include& include : includes_in("schedule")) {
    // Searches may use threads and keep to a limit of seconds.
    const std::string file = include.file.filename().string();
    const bool planner = file.find("planner") != std::string::npos || file == "budget_meter.h";
    if (planner && (include.header == "thread" || include.header == "chrono")) continue;
    EXPECT_FALSE(kForbidden.contains(include.header))
        << include.file << ":" << include.line << " includes " << include.header;
  }
}

// One file speaks SentencePiece's processor and one its trainer, so that the library can be exchanged.
TEST(House, LibrariesStayBehindTheirFolder) {
  const std::map<std::string, std::string> kOwner = {{"sentencepiece", "tokenizer"},
                                                     {"ucp", "comm"},
                                                     {"ucs", "comm"},
                                                     {"dnnl", "kernels"},
                                                     {"oneapi", "kernels"},
                                                     {"CLI", "tools"},
                                                     {"cuda_runtime", "kernels"},
                                                     {"cublas", "kernels"},
                                                     {"cudnn", "kernels"},
                                                     {"nccl", "kernels"}};
  for (const auto& [folder, allowed] : kMayInclude)
    for (const Include& include : includes_in(folder))
      for (const auto& [library, owner] : kOwner) {
        if (std::filesystem::exists(kRoot / include.header) || !include.header.starts_with(library)) continue;
        EXPECT_TRUE(folder == owner || is_benchmark(include))
            << include.file << ":" << include.line << " includes " << include.header;
      }
}

TEST(House, EveryFolderHasAReadme) {
  for (const auto& [folder, allowed] : kMayInclude)
    EXPECT_TRUE(std::filesystem::exists(kRoot / folder / "README.md")) << folder;
  EXPECT_TRUE(std::filesystem::exists(kRoot / "tests" / "README.md"));
}

TEST(House, HeadersAreGuarded) {
  for (const auto& [folder, allowed] : kMayInclude)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / folder)) {
      if (entry.path().extension() != ".h") continue;
      std::ifstream stream(entry.path());
      const std::string text((std::istreambuf_iterator<char>(stream)), {});
      EXPECT_NE(text.find("#pragma once"), std::string::npos) << entry.path();
    }
}

}  // namespace
}  // namespace skippipe
