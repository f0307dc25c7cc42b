#include "engine/model/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"
#include "engine/model/memory.h"
#include "kernels/cpu_backend.h"
#include "kernels/matmul.h"

namespace skippipe {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";

std::string why_no_gpu(const CudaDevices& found) {
  if (found.list.empty()) return "no GPU: " + found.why_none;
  return fmt::format("{} GPU{} found, --device {} computes on {}", found.list.size(), found.list.size() > 1 ? "s" : "",
                     DeviceName{Device::kCuda, found.list.front().index}.to_string(),
                     found.list.size() > 1 ? "the first" : "it");
}

}  // namespace

std::string DeviceName::to_string() const {
  return device == Device::kCpu ? "cpu" : fmt::format("{}{}", kCudaPrefix, index);
}

DeviceName parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {Device::kCuda, 0};
  DeviceName name{Device::kCuda, 0};
  if (text.starts_with(kCudaPrefix)) {
    const std::string_view number = text.substr(kCudaPrefix.size());
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), name.index);
    if (error == std::errc() && end == number.data() + number.size() && name.index >= 0) return name;
  }
  throw ConfigError("found device '{}', expected cpu, cuda, or cuda: and a number", text);
}

AttentionKernels parse_attention_kernels(std::string_view text) {
  if (text == "own") return AttentionKernels::kOwn;
  if (text == "portable") return AttentionKernels::kPortable;
  if (text == "cudnn") return AttentionKernels::kCudnn;
  throw ConfigError("found attention '{}', expected own, portable or cudnn", text);
}

std::unique_ptr<Backend> make_backend(const DeviceName& name, AttentionKernels attention) {
  if (name.device == Device::kCpu) return make_cpu_backend();
  const CudaDevices found = find_cuda_devices();
  if (found.list.empty()) throw DeviceError("device {}: no GPU: {}", name.to_string(), found.why_none);
  if (std::ranges::find(found.list, name.index, &CudaDevice::index) == found.list.end())
    throw DeviceError("device {}: this machine has {} GPU{}, `skippipe devices` lists what there is", name.to_string(),
                      found.list.size(), found.list.size() > 1 ? "s" : "");
  return make_cuda_backend(name.index, attention);
}

double bf16_over_f32_rate(Backend& backend) {
  constexpr int64_t kRows = 128, kColumns = 512;
  constexpr int kRuns = 5;
  Runtime& runtime = backend.runtime();
  const OwnedStream stream(runtime);
  Context context;
  context.backend = &backend;
  context.stream = stream.get();
  MemoryPlan plan(backend.device());
  plan.add(Region::kWorkspace, "products", (2 * kRows + kColumns) * kColumns * dtype_bytes(Dtype::kF32));
  Slab slab(plan, backend);
  const MemoryBlock memory = slab.take(Region::kWorkspace, "products");
  const auto seconds = [&](Dtype dtype) {
    Arena arena(memory);
    const Tensor y = arena.take({kRows, kColumns}, dtype), x = arena.take({kRows, kColumns}, dtype);
    const Tensor w = arena.take({kColumns, kColumns}, dtype);
    return runtime.seconds(stream.get(), [&] { linear_forward(context, y, x, w); });
  };
  double f32 = std::numeric_limits<double>::infinity(), bf16 = f32;
  for (int run = 0; run <= kRuns; ++run) {
    const double f32_now = seconds(Dtype::kF32), bf16_now = seconds(Dtype::kBf16);
    if (run == 0) continue;  // libraries prepare themselves
    f32 = std::min(f32, f32_now);
    bf16 = std::min(bf16, bf16_now);
  }
  return f32 / bf16;
}

std::string describe_slow_bf16(double rate) {
  constexpr double kSlower = 0.95;  // nearer to f32's rate may be chance
  if (rate >= kSlower) return "";
  return fmt::format(
      "bf16 products ran at {:.2f} x f32's rate on a thread of this CPU, which has {} for them: f32 is faster here; "
      "bf16 takes less memory and shorter messages",
      rate, cpu_has_bf16() ? "instructions" : "no instructions");
}

std::string describe_device(const DeviceName& name, const CudaDevices& found) {
  const std::string built = found.built_for.empty() ? "" : "; built for " + found.built_for;
  if (name.device == Device::kCpu) return fmt::format("CPU ({}{})", why_no_gpu(found), built);
  const auto device = std::ranges::find(found.list, name.index, &CudaDevice::index);
  return fmt::format("{} ({})", name.to_string(), device == found.list.end() ? "not there" : device->name);
}

}  // namespace skippipe
