// What memory the host could still give, and which limit says so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

namespace skippipe {

// What could still be taken, in bytes, and the limit that it follows from, as users know it: "memory.max = 300000000 in
// /sys/fs/cgroup/batch". Where nothing limits it, as many bytes as there are numbers, and no name.
struct AvailableMemory {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  std::string bound;
};

struct HostMemory {
  // To all processes of the machine together, or of the control groups that this one is in.
  AvailableMemory shared;
  // To this process alone: `ulimit -v` and `ulimit -d`.
  AvailableMemory own;

  const AvailableMemory& tightest() const { return own.bytes < shared.bytes ? own : shared; }
};

// Linux. Of the machine: MemAvailable, and what may still be committed where vm.overcommit_memory is 2. Of the control
// groups, of both versions, from the process's own up to the topmost that is mounted: memory.max, memory.high and
// memory.limit_in_bytes less what is used, of which the file cache could be given back. Files that are missing or hold
// something else set no limit. `root` is where /proc and what is mounted lie.
HostMemory read_host_memory(const std::filesystem::path& root = "/");

}  // namespace skippipe
