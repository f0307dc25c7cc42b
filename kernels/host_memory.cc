#include "kernels/host_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "base/format.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBlanks = " \t\r\n";
constexpr int64_t kBytesPerKib = 1024;

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

bool has(const std::vector<std::string>& list, std::string_view name) {
  return std::ranges::find(list, name) != list.end();
}

// The number that the text begins with, if it is one of its own and not below zero.
std::optional<int64_t> first_number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = end == text.data() + text.size() || kBlanks.find(*end) != std::string_view::npos;
  if (error != std::errc() || !whole || number < 0) return std::nullopt;
  return number;
}

std::optional<int64_t> number_in(const fs::path& file) {
  const std::vector<std::string> lines = lines_of(file);
  return lines.size() == 1 ? first_number(lines.front()) : std::nullopt;
}

// Of the line that begins with the name, if there is one.
std::optional<int64_t> number_after(const std::vector<std::string>& lines, std::string_view name) {
  for (const std::string& line : lines)
    if (line.starts_with(name)) return first_number(std::string_view(line).substr(name.size()));
  return std::nullopt;
}

std::optional<int64_t> bytes_after(const std::vector<std::string>& lines, std::string_view name) {
  const auto kib = number_after(lines, name);
  if (!kib || *kib > std::numeric_limits<int64_t>::max() / kBytesPerKib) return std::nullopt;
  return *kib * kBytesPerKib;
}

void bind(AvailableMemory& memory, int64_t limit, int64_t used, const std::string& bound) {
  const int64_t left = limit > used ? limit - used : 0;
  if (left < memory.bytes) memory = {left, bound};
}

// ---- the machine

void bind_machine(AvailableMemory& memory, const fs::path& root) {
  const std::vector<std::string> lines = lines_of(root / "proc/meminfo");
  if (const auto available = bytes_after(lines, "MemAvailable:"))
    bind(memory, *available, 0, "the machine's MemAvailable");
  if (number_in(root / "proc/sys/vm/overcommit_memory") != 2) return;
  const auto limit = bytes_after(lines, "CommitLimit:"), committed = bytes_after(lines, "Committed_AS:");
  if (limit && committed) bind(memory, *limit, *committed, "CommitLimit, as vm.overcommit_memory = 2");
}

// ---- control groups

// The files of a version of them.
struct Version {
  std::vector<const char*> limits;
  const char* used;
  std::vector<std::string_view> reclaimable;  // of memory.stat, all of them part of what is used
};

const Version kFirst{
    {"memory.limit_in_bytes"}, "memory.usage_in_bytes", {"total_inactive_file ", "total_active_file "}};
const Version kSecond{
    {"memory.max", "memory.high"}, "memory.current", {"inactive_file ", "active_file ", "slab_reclaimable "}};

// One group. With the first version it also tells of groups above it, which may not be mounted here.
void bind_group(AvailableMemory& memory, const fs::path& folder, const std::string& shown, const Version& version) {
  const auto used = number_in(folder / version.used);
  if (!used) return;
  const std::vector<std::string> stat = lines_of(folder / "memory.stat");
  int64_t kept = *used;
  for (const std::string_view name : version.reclaimable) kept -= std::min(kept, number_after(stat, name).value_or(0));
  const auto bind_to = [&](const std::optional<int64_t>& limit, std::string_view name) {
    if (limit) bind(memory, *limit, kept, format("{} = {} in {}", name, *limit, shown));
  };
  for (const char* name : version.limits) bind_to(number_in(folder / name), name);
  bind_to(number_after(stat, "hierarchical_memory_limit "), "hierarchical_memory_limit");
}

// As mountinfo writes names: \040 for a space.
std::string unescape(const std::string& text) {
  const auto octal = [&](size_t at) {
    int code = -1;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + std::min(at + 3, text.size()), code, 8);
    return error == std::errc() && end == text.data() + at + 3 ? code : -1;
  };
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const int code = text[i] == '\\' ? octal(i + 1) : -1;
    result += code < 0 ? text[i] : static_cast<char>(code);
    if (code >= 0) i += 3;
  }
  return result;
}

struct Mount {
  std::string shown_from;  // the group that the mount point shows
  std::string point;
  bool second = false;
};

// Where groups that limit memory are mounted.
std::vector<Mount> group_mounts(const fs::path& root) {
  std::vector<Mount> mounts;
  for (const std::string& line : lines_of(root / "proc/self/mountinfo")) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> fields = split(line.substr(0, dash), ' ');
    const std::vector<std::string> filesystem = split(line.substr(dash + 3), ' ');
    if (fields.size() < 5 || filesystem.size() < 3) continue;
    const bool second = filesystem[0] == "cgroup2";
    if (second || (filesystem[0] == "cgroup" && has(split(filesystem[2], ','), "memory")))
      mounts.push_back({unescape(fields[3]), unescape(fields[4]), second});
  }
  return mounts;
}

// The process's group, in the hierarchy of the version.
std::optional<std::string> own_group(const fs::path& root, bool second) {
  for (const std::string& line : lines_of(root / "proc/self/cgroup")) {
    const size_t controllers = line.find(':');
    const size_t path = controllers == std::string::npos ? controllers : line.find(':', controllers + 1);
    if (path == std::string::npos) continue;
    const std::string names = line.substr(controllers + 1, path - controllers - 1);
    if (second ? names.empty() && line.starts_with("0:") : has(split(names, ','), "memory"))
      return line.substr(path + 1);
  }
  return std::nullopt;
}

// The group's folder below the mount point; empty where the group is the mount point's own or lies outside of what is
// mounted: then that is the nearest of its groups that can be seen.
fs::path below(const std::string& group, const std::string& shown_from) {
  const fs::path relative = fs::path(group).lexically_relative(shown_from);
  const bool outside = std::ranges::find(relative, "..") != relative.end() || relative == ".";
  return outside ? fs::path() : relative;
}

void bind_groups(AvailableMemory& memory, const fs::path& root) {
  for (const Mount& mount : group_mounts(root)) {
    const auto group = own_group(root, mount.second);
    if (!group) continue;
    for (fs::path at = below(*group, mount.shown_from);; at = at.parent_path()) {
      const std::string shown = at.empty() ? mount.point : (fs::path(mount.point) / at).string();
      bind_group(memory, root / fs::path(shown).relative_path(), shown, mount.second ? kSecond : kFirst);
      if (at.empty()) break;
    }
  }
}

// ---- the process

void bind_process(AvailableMemory& memory, const fs::path& root) {
  const std::vector<std::string> limits = lines_of(root / "proc/self/limits");
  const std::vector<std::string> status = lines_of(root / "proc/self/status");
  const auto bind_to = [&](std::string_view limit_name, std::string_view used_name, std::string_view option) {
    const auto limit = number_after(limits, limit_name), used = bytes_after(status, used_name);
    if (limit) bind(memory, *limit, used.value_or(0), format("ulimit {} = {} KiB", option, *limit / kBytesPerKib));
  };
  bind_to("Max address space", "VmSize:", "-v");
  bind_to("Max data size", "VmData:", "-d");
}

}  // namespace

HostMemory read_host_memory(const std::filesystem::path& root) {
  HostMemory memory;
  bind_machine(memory.shared, root);
  bind_groups(memory.shared, root);
  bind_process(memory.own, root);
  return memory;
}

}  // namespace skippipe
