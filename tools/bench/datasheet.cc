#include "tools/bench/datasheet.h"

namespace skippipe {
namespace {

struct Entry {
  std::string_view name;
  double teraflops;
};

// Dense rates of NVIDIA's data sheets: H100 (SXM5, PCIe, NVL), H200 (SXM5, NVL), A100, L40S, L4; of its whitepapers on
// the Ada and the Ampere GA102 architecture: RTX 4090, RTX 3090.
constexpr Entry kEntries[] = {
    {"NVIDIA H100 80GB HBM3", 989.4},
    {"NVIDIA H100 PCIe", 756},
    {"NVIDIA H100 NVL", 835},
    {"NVIDIA H200", 989.4},
    {"NVIDIA H200 NVL", 835},
    {"NVIDIA A100-SXM4-40GB", 312},
    {"NVIDIA A100-SXM4-80GB", 312},
    {"NVIDIA A100-PCIE-40GB", 312},
    {"NVIDIA A100 80GB PCIe", 312},
    {"NVIDIA L40S", 362},
    {"NVIDIA L4", 121},
    {"NVIDIA GeForce RTX 4090", 165.2},
    {"NVIDIA GeForce RTX 3090", 71},
};

}  // namespace

std::optional<double> datasheet_bf16_rate(std::string_view gpu_name) {
  for (const auto& [name, teraflops] : kEntries)
    if (gpu_name == name) return 1e12 * teraflops;
  return std::nullopt;
}

}  // namespace skippipe
