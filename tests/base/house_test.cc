// The house: which folder, and which room in it, may include what, and that every folder says what lives in it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
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

// The rooms of a folder, floor by floor from the top. A room uses those on the floors below it and nothing beside it;
// what lies in the folder itself uses all of them, and they don't use it.
using Floor = std::set<std::string>;
const std::map<std::string, std::vector<Floor>> kRooms = {
    {"schedule", {{"pictures"}, {"search"}, {"machine"}, {"plan"}}},
    {"comm", {{"collectives", "point_to_point"}, {"transport"}, {"control"}, {"formats"}}},
    {"engine", {{"run", "probe"}, {"node"}, {"checkpoint", "inference"}, {"model"}, {"files", "trace"}}},
    {"tools", {{"verbs", "bench_kernels"}, {"bench", "report"}, {"processes"}}},
};

// Of its folder's rooms the one that a path leads into; "" outside of them.
std::string room_of(const std::filesystem::path& path) {
  const auto part = std::next(path.begin());
  return std::next(part) == path.end() ? "" : part->string();
}

// From the top; a folder itself is above its rooms. Nothing for what no floor has.
std::optional<size_t> floor_of(const std::vector<Floor>& floors, const std::string& room) {
  if (room.empty()) return 0;
  for (size_t floor = 0; floor < floors.size(); ++floor)
    if (floors[floor].contains(room)) return floor + 1;
  return std::nullopt;
}

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
  static std::map<std::string, std::vector<Include>> known;
  if (const auto found = known.find(folder); found != known.end()) return found->second;
  std::vector<Include>& result = known[folder];
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    std::ifstream stream(entry.path());
    std::string text;
    for (int line = 1; std::getline(stream, text); ++line) {
      const size_t begin = text.find_first_of("<\"");
      if (!text.starts_with("#") || text.find("include") == std::string::npos || begin == std::string::npos) continue;
      const size_t end = text.find_first_of(">\"", begin + 1);
      result.push_back({std::filesystem::relative(entry.path(), kRoot), line, text.substr(begin + 1, end - begin - 1)});
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

TEST(House, ArrowsBetweenRoomsRunDown) {
  for (const auto& [folder, floors] : kRooms) {
    Floor used;
    for (const Include& include : includes_in(folder)) {
      const std::string room = room_of(include.file);
      used.insert(room);
      const auto floor = floor_of(floors, room);
      ASSERT_TRUE(floor.has_value()) << include.file << " lies in a room without a floor";
      if (first_folder(include.header) != folder || !std::filesystem::exists(kRoot / include.header)) continue;
      const std::string target = room_of(include.header);
      const auto target_floor = floor_of(floors, target);
      ASSERT_TRUE(target_floor.has_value()) << include.header << " lies in a room without a floor";
      EXPECT_TRUE(target == room || *target_floor > *floor)
          << include.file << ":" << include.line << " includes " << include.header;
    }
    for (const Floor& floor : floors)
      for (const std::string& room : floor) EXPECT_TRUE(used.contains(room)) << folder << "/" << room << " is empty";
  }
}

// What a room tests stands in a room of the same name.
TEST(House, TestsMirrorTheRooms) {
  for (const auto& [folder, floors] : kRooms)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / "tests" / folder)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || !name.ends_with("_test.cc")) continue;
      const auto path = std::filesystem::relative(entry.path(), kRoot / "tests");
      EXPECT_FALSE(room_of(path).empty()) << "tests/" << path.string();
      EXPECT_TRUE(floor_of(floors, room_of(path)).has_value()) << "tests/" << path.string();
    }
}

// A folder that grows gets rooms.
TEST(House, NoRoomIsCrowded) {
  constexpr int kMostSources = 24;
  std::map<std::filesystem::path, int> sources;
  for (const auto& [folder, floors] : kRooms)
    for (const auto& parent : {kRoot / folder, kRoot / "tests" / folder})
      for (const auto& entry : std::filesystem::recursive_directory_iterator(parent))
        if (entry.path().extension() == ".cc" || entry.path().extension() == ".cu")
          ++sources[entry.path().parent_path()];
  for (const auto& [folder, count] : sources)
    EXPECT_TRUE(count <= kMostSources || folder == kRoot / "tools/verbs")
        << folder << " wants rooms";  // a file per verb
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

// Whoever moves a file finds the comments and documents that name it.
TEST(House, FilesThatAreNamedExist) {
  const std::set<std::string> kNamed = {".h", ".cc", ".md", ".sh", ".py"};
  std::vector<std::filesystem::path> files = {kRoot / "README.md"};
  for (const auto& [folder, allowed] : kMayInclude)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / folder))
      if (is_source(entry.path()) || entry.path().extension() == ".md") files.push_back(entry.path());
  for (const auto& file : files) {
    std::ifstream stream(file);
    std::string text((std::istreambuf_iterator<char>(stream)), {});
    for (char& c : text)
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '/' && c != '.') c = ' ';
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      if (word.ends_with('.')) word.pop_back();
      if (!kMayInclude.contains(first_folder(word)) || !kNamed.contains(std::filesystem::path(word).extension()))
        continue;
      EXPECT_TRUE(std::filesystem::exists(kRoot / word)) << file << " names " << word;
    }
  }
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
