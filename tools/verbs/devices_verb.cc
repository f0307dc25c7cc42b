// skippipe devices: the GPUs of this machine, or why there are none.
#include <fmt/format.h>

#include "engine/model/device.h"
#include "engine/model/memory.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

void print_devices(const CudaDevices& found) {
  for (const CudaDevice& device : found.list)
    fmt::print("GPU {}: {}, capability {}.{}, {}, {} multiprocessors, {}\n", device.index, device.name,
               device.capability / 10, device.capability % 10, human_bytes(device.memory_bytes), device.multiprocessors,
               device.has_images ? "runs this program's kernels" : "not among what this program was built for");
  fmt::print("device: {}\n", describe_device({}, found));
}

}  // namespace

void add_devices_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("devices", "List this machine's GPUs, or say why there are none");
  verb->footer("Example: skippipe devices");
  verb->callback([] { print_devices(find_cuda_devices()); });
}

}  // namespace skippipe
