#include "engine/training_device.h"

#include <fmt/format.h>

namespace skippipe {

std::string training_device(const CudaDevices& found) {
  const std::string why = found.list.empty() ? "no GPU: " + found.why_none
                                             : fmt::format(
                                                   "training does not run on GPUs yet; {} found, `skippipe "
                                                   "devices` lists them",
                                                   found.list.size());
  return fmt::format("CPU ({}{}{})", why, found.built_for.empty() ? "" : "; built for ", found.built_for);
}

}  // namespace skippipe
