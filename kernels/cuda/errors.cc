#include "kernels/cuda/errors.h"

#include <cuda_runtime_api.h>

#include <string_view>

#include "base/error.h"
#include "kernels/cuda/targets.h"

namespace skippipe::cuda {
namespace {

// From the source tree's root on.
std::string_view short_path(std::string_view file) {
  const auto start = file.rfind("kernels/");
  return start == std::string_view::npos ? file : file.substr(start);
}

// " on device 0 (NVIDIA H100)", or as much of it as CUDA knows at this point.
std::string current_device() {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return "";
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) return format(" on device {}", device);
  return format(" on device {} ({})", device, properties.name);
}

std::string capability_advice() {
  int device = 0, major = 0, minor = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
  const int capability = 10 * major + minor;
  if (known && capability < kLeastCapability)
    return format("the device has capability {}, our kernels need at least {}", capability, kLeastCapability);
  return format(
      "the device has capability {}, this program's kernels were built for {}: build them with "
      "-DSKIPPIPE_CUDA_ARCHITECTURES={}-real",
      known ? std::to_string(capability) : "unknown", built_targets(), known ? std::to_string(capability) : "N");
}

std::string memory_advice() {
  constexpr double kGiB = 1 << 30;
  size_t free = 0, total = 0;
  std::string there;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess)
    there =
        format("{:.1f} of {:.1f} GiB are free: ", static_cast<double>(free) / kGiB, static_cast<double>(total) / kGiB);
  return there +
         "fewer samples or tokens per microbatch, fewer slots, more stages or bf16 need less; other programs "
         "on this device may hold some";
}

std::string advice_for(cudaError_t code) {
  switch (code) {
    case cudaErrorInsufficientDriver:
      return driver_problem();
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorUnsupportedPtxVersion:
      return format("update NVIDIA's driver to one for CUDA {} or newer", version_text(CUDART_VERSION));
    case cudaErrorNoKernelImageForDevice:
      return capability_advice();
    case cudaErrorMemoryAllocation:
      return memory_advice();
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "`skippipe devices` lists what there is; CUDA_VISIBLE_DEVICES may hide some";
    case cudaErrorDevicesUnavailable:
      return "another program may have the device for itself: nvidia-smi shows its compute mode and who uses it";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return "the cause may be any kernel queued before (CUDA_LAUNCH_BLOCKING=1 tells which); this process can use the "
             "device no more";
    default:
      return "";
  }
}

}  // namespace

void throw_device_error(const CallSite& site, const std::string& problem, const std::string& advice) {
  const std::string device = current_device();
  (void)cudaGetLastError();  // forgets it, where it can be forgotten
  throw DeviceError("{} failed at {}:{}{}: {}{}{}", site.call, short_path(site.file), site.line, device, problem,
                    advice.empty() ? "" : "; ", advice);
}

void check_cuda(int code, const CallSite& site) {
  if (code == cudaSuccess) [[likely]]
    return;
  const auto error = static_cast<cudaError_t>(code);
  throw_device_error(site, format("{} ({})", cudaGetErrorString(error), cudaGetErrorName(error)), advice_for(error));
}

}  // namespace skippipe::cuda
