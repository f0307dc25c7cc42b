#include "kernels/host_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "tests/temp_folder.h"

namespace skippipe::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

using Files = std::map<std::string, std::string>;

HostMemory memory_of(const Files& files) {
  const TempFolder folder;
  for (const auto& [name, text] : files) {
    const auto path = folder.path() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  return read_host_memory(folder.path());
}

void expect_shared(const Files& files, int64_t bytes, const std::string& bound) {
  const HostMemory memory = memory_of(files);
  EXPECT_EQ(memory.shared.bytes, bytes);
  EXPECT_EQ(memory.shared.bound, bound);
  EXPECT_EQ(memory.own.bytes, kUnlimited);
  EXPECT_EQ(memory.tightest().bytes, bytes);
}

Files with(Files files, const Files& more) {
  for (const auto& [name, text] : more) files[name] = text;
  return files;
}

const Files kMachine{{"proc/meminfo", "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   4000 kB\n"}};
constexpr int64_t kMachineBytes = 4000 * 1024;
constexpr char kMachineBound[] = "the machine's MemAvailable";

// A process of a batch system's job: job is limited, step in it is not.
const Files kSecond = with(
    kMachine,
    {{"proc/self/cgroup", "0::/slurm/job/step\n"},
     {"proc/self/mountinfo",
      "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"},
     {"sys/fs/cgroup/memory.stat", "inactive_file 1\n"},  // the root group has no limit
     {"sys/fs/cgroup/slurm/memory.max", "max\n"},
     {"sys/fs/cgroup/slurm/memory.current", "100\n"},
     {"sys/fs/cgroup/slurm/job/memory.max", "100000\n"},
     {"sys/fs/cgroup/slurm/job/memory.high", "max\n"},
     {"sys/fs/cgroup/slurm/job/memory.current", "60000\n"},
     {"sys/fs/cgroup/slurm/job/memory.stat",
      "anon 30000\nfile 29000\ninactive_file 10000\nactive_file 5000\nslab_reclaimable 1000\n"},
     {"sys/fs/cgroup/slurm/job/step/memory.max", "max\n"},
     {"sys/fs/cgroup/slurm/job/step/memory.high", "max\n"},
     {"sys/fs/cgroup/slurm/job/step/memory.current", "60000\n"}});
constexpr char kJobBound[] = "memory.max = 100000 in /sys/fs/cgroup/slurm/job";

TEST(HostMemory, WithoutGroupsIsWhatTheMachineHas) {
  expect_shared(kMachine, kMachineBytes, kMachineBound);
  expect_shared(with(kMachine, {{"proc/self/cgroup", "0::/\n"}}), kMachineBytes, kMachineBound);
  expect_shared({}, kUnlimited, "");
}

TEST(HostMemory, IsNoMoreThanMayBeCommitted) {
  const Files files =
      with(kMachine, {{"proc/meminfo", kMachine.at("proc/meminfo") + "CommitLimit:  3000 kB\nCommitted_AS:  1000 kB\n"},
                      {"proc/sys/vm/overcommit_memory", "0\n"}});
  expect_shared(files, kMachineBytes, kMachineBound);
  expect_shared(with(files, {{"proc/sys/vm/overcommit_memory", "2\n"}}), 2000 * 1024,
                "CommitLimit, as vm.overcommit_memory = 2");
}

TEST(HostMemory, OfNestedGroupsTheTightestCountsAndItsFileCacheCanGo) {
  expect_shared(kSecond, 100000 - 44000, kJobBound);
  expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/step/memory.high", "70000\n"}}), 10000,
                "memory.high = 70000 in /sys/fs/cgroup/slurm/job/step");
  expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/memory.max", "600\n"}}), 500,
                "memory.max = 600 in /sys/fs/cgroup/slurm");
  expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/memory.max", "30000\n"}}), 0,
                "memory.max = 30000 in /sys/fs/cgroup/slurm/job");
  expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/memory.max", "1000000000000\n"}}), kMachineBytes,
                kMachineBound);
}

// In a namespace of its own a container sees its group as the root.
TEST(HostMemory, ANamespaceShowsItsOwnGroupAtTheMountPoint) {
  expect_shared(with(kMachine, {{"proc/self/cgroup", "0::/\n"},
                                {"proc/self/mountinfo", "31 22 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"},
                                {"sys/fs/cgroup/memory.max", "5000\n"},
                                {"sys/fs/cgroup/memory.current", "2000\n"}}),
                3000, "memory.max = 5000 in /sys/fs/cgroup");
  // Or it was moved into a group beside the root of its namespace.
  expect_shared(with(kMachine, {{"proc/self/cgroup", "0::/../other\n"},
                                {"proc/self/mountinfo", "31 22 0:27 /.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n"},
                                {"sys/fs/cgroup/memory.max", "5000\n"},
                                {"sys/fs/cgroup/memory.current", "2000\n"}}),
                3000, "memory.max = 5000 in /sys/fs/cgroup");
}

const Files kFirst = with(
    kMachine, {{"proc/self/cgroup", "5:cpu,cpuacct:/elsewhere\n4:hugetlb,memory:/docker/ab:c\n0::/\n"},
               {"proc/self/mountinfo",
                "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory,hugetlb\n"
                "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"},
               {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
               {"sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n"},
               {"sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "9223372036854771712\n"},
               {"sys/fs/cgroup/memory/docker/memory.usage_in_bytes", "1000\n"},
               {"sys/fs/cgroup/memory/docker/ab:c/memory.limit_in_bytes", "9000\n"},
               {"sys/fs/cgroup/memory/docker/ab:c/memory.usage_in_bytes", "4000\n"},
               {"sys/fs/cgroup/memory/docker/ab:c/memory.stat",
                "cache 9\ninactive_file 7\nactive_file 7\nhierarchical_memory_limit 9000\ntotal_inactive_file 300\n"
                "total_active_file 700\n"}});

TEST(HostMemory, GroupsOfTheFirstVersionToo) {
  expect_shared(kFirst, 6000, "memory.limit_in_bytes = 9000 in /sys/fs/cgroup/memory/docker/ab:c");
  expect_shared(with(kFirst, {{"sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "1500\n"}}), 500,
                "memory.limit_in_bytes = 1500 in /sys/fs/cgroup/memory/docker");
  // The kernel tells of a limit above what is mounted.
  expect_shared(with(kFirst, {{"proc/self/mountinfo",
                               "35 31 0:32 /docker/ab:c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"},
                              {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"},
                              {"sys/fs/cgroup/memory/memory.usage_in_bytes", "4000\n"},
                              {"sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 5000\n"}}),
                1000, "hierarchical_memory_limit = 5000 in /sys/fs/cgroup/memory");
}

// Version 2 for some things, version 1 for memory, or the other way round: whichever limits.
TEST(HostMemory, BothVersionsAtOnce) {
  const Files both = with(kFirst, {{"proc/self/cgroup", "4:memory:/docker/ab:c\n0::/unit\n"},
                                   {"sys/fs/cgroup/unified/unit/memory.max", "2500\n"},
                                   {"sys/fs/cgroup/unified/unit/memory.current", "500\n"}});
  expect_shared(both, 2000, "memory.max = 2500 in /sys/fs/cgroup/unified/unit");
  expect_shared(with(both, {{"sys/fs/cgroup/unified/unit/memory.max", "max\n"}}), 6000,
                "memory.limit_in_bytes = 9000 in /sys/fs/cgroup/memory/docker/ab:c");
}

TEST(HostMemory, NamesWithSpacesAreFound) {
  expect_shared(with(kMachine, {{"proc/self/cgroup", "0::/my job\n"},
                                {"proc/self/mountinfo", "31 22 0:27 / /odd\\040place rw - cgroup2 cgroup2 rw\n"},
                                {"odd place/my job/memory.max", "5000\n"},
                                {"odd place/my job/memory.current", "1000\n"}}),
                4000, "memory.max = 5000 in /odd place/my job");
}

TEST(HostMemory, NonsenseLimitsNothing) {
  for (const std::string nonsense : {"", "\n", "max", "-1\n", "1e3\n", "12 monkeys\nmore\n", "0x10\n", "5000kB\n",
                                     "99999999999999999999999\n", "\xff\xfe\n"}) {
    SCOPED_TRACE(nonsense);
    expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/memory.max", nonsense}}), kMachineBytes, kMachineBound);
    expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/memory.current", nonsense}}), kMachineBytes, kMachineBound);
    expect_shared(with(kSecond, {{"proc/self/cgroup", nonsense}}), kMachineBytes, kMachineBound);
    expect_shared(with(kSecond, {{"proc/self/mountinfo", nonsense}}), kMachineBytes, kMachineBound);
    expect_shared(with(kSecond, {{"sys/fs/cgroup/slurm/job/memory.stat", nonsense}}), 40000, kJobBound);
  }
  for (const std::string nonsense :
       {"", "-1 kB\n", "many kB\n", "99999999999999999999999 kB\n", "9223372036854775807 kB\n"})
    expect_shared(with(kSecond, {{"proc/meminfo", "MemAvailable: " + nonsense}}), 56000, kJobBound);
  const Files odd_lines = {
      {"proc/self/mountinfo", "31 - cgroup2\n - \n1 2 3 4 5 - cgroup\n31 22 0:27 \\ \\9 - cgroup2 a b\n"},
      {"proc/self/cgroup", ":\n0:\n0::\n0::../..\n"}};
  expect_shared(with(kSecond, odd_lines), kMachineBytes, kMachineBound);
  // Out of the mount point, and back in by another way.
  expect_shared(with(kSecond, {{"proc/self/cgroup", "0::/a/../../../sys/fs/cgroup/slurm/job\n"}}), kMachineBytes,
                kMachineBound);
}

TEST(HostMemory, AProcessHasLimitsOfItsOwn) {
  const std::string unlimited =
      "Limit                     Soft Limit           Hard Limit           Units\n"
      "Max data size             unlimited            unlimited            bytes\n"
      "Max address space         unlimited            unlimited            bytes\n";
  const Files files =
      with(kSecond, {{"proc/self/status", "VmPeak:\t 90 kB\nVmSize:\t      40 kB\nVmData:\t      10 kB\n"},
                     {"proc/self/limits", unlimited}});
  expect_shared(files, 56000, kJobBound);
  HostMemory memory = memory_of(with(
      files, {{"proc/self/limits", "Max data size  51200 unlimited bytes\nMax address space 61440 102400 bytes\n"}}));
  EXPECT_EQ(memory.own.bytes, 20 * 1024);
  EXPECT_EQ(memory.own.bound, "ulimit -v = 60 KiB");
  EXPECT_EQ(memory.tightest().bound, "ulimit -v = 60 KiB");
  EXPECT_EQ(memory.shared.bytes, 56000);
  memory = memory_of(with(files, {{"proc/self/limits", "Max data size  20480 unlimited bytes\n"}}));
  EXPECT_EQ(memory.own.bytes, 10 * 1024);
  EXPECT_EQ(memory.own.bound, "ulimit -d = 20 KiB");
}

// Here and now.
TEST(HostMemory, OfThisMachine) {
  const HostMemory memory = read_host_memory();
  EXPECT_GT(memory.shared.bytes, 0);
  EXPECT_LT(memory.shared.bytes, int64_t{1} << 50);
  EXPECT_NE(memory.shared.bound, "");
}

}  // namespace
}  // namespace skippipe::testing
