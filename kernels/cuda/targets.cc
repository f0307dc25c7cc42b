#include "kernels/cuda/targets.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "base/error.h"

namespace skippipe::cuda {
namespace {

constexpr std::string_view kTargets = SKIPPIPE_CUDA_ARCHITECTURES;

std::vector<std::string_view> split(std::string_view targets) {
  std::vector<std::string_view> list;
  for (size_t begin = 0; begin < targets.size();) {
    const size_t end = std::min(targets.find(',', begin), targets.size());
    list.push_back(targets.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

// One of CMake's CUDA_ARCHITECTURES: a number; 'a' for one capability alone or 'f' for its family; -real for machine
// code only, -virtual for PTX only. Machine code runs on its own major capability, PTX on all that came later.
bool target_runs_on(std::string_view target, int capability) {
  int built = 0;
  const char* const number_end = std::from_chars(target.data(), target.data() + target.size(), built).ptr;
  if (number_end == target.data()) return true;  // all, all-major, native
  const std::string_view suffix = target.substr(static_cast<size_t>(number_end - target.data()));
  if (suffix.starts_with('a')) return capability == built;
  const bool later = capability >= built, same_major = capability / 10 == built / 10;
  if (suffix.starts_with('f') || suffix.ends_with("-real")) return later && same_major;
  return later;
}

}  // namespace

std::string built_targets() {
  std::string list;
  for (const std::string_view target : split(kTargets)) {
    if (!list.empty()) list += ", ";
    list += target.substr(0, target.find("-real"));
  }
  return list;
}

bool any_target_runs_on(std::string_view targets, int capability) {
  return std::ranges::any_of(split(targets),
                             [&](std::string_view target) { return target_runs_on(target, capability); });
}

bool runs_on(int capability) { return capability >= kLeastCapability && any_target_runs_on(kTargets, capability); }

// What only 90a has can't be compiled for less.
bool has_hopper_kernels(int capability) {
  return capability == 90 &&
         std::ranges::any_of(split(kTargets), [](std::string_view t) { return t.starts_with("90a"); });
}

std::string version_text(int version) { return format("{}.{}", version / 1000, version % 1000 / 10); }

std::string driver_problem() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no NVIDIA driver is installed";
  return format("NVIDIA's driver knows CUDA {}, this program needs {}: update the driver", version_text(driver),
                version_text(CUDART_VERSION / 1000 * 1000));
}

}  // namespace skippipe::cuda
