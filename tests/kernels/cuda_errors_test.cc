// What builds with CUDA say of devices and failures, on machines with and without a GPU.
#include <cuda_runtime_api.h>

#include "base/error.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/late_cublaslt.h"
#include "kernels/cuda/targets.h"
#include "kernels/cuda_backend.h"
#ifdef SKIPPIPE_HAS_CUDNN
#include "kernels/cuda/late_cudnn.h"
#endif
#include "tests/expect_error.h"

namespace skippipe::cuda {
namespace {

void expect_message(cudaError_t code, const char* part) {
  const CallSite site{"cudaCall(x)", "/home/someone/kernels/skippipe/kernels/cuda/some.cu", 42};
  SKP_EXPECT_ERROR(check_cuda(code, site), DeviceError, "cudaCall(x) failed at kernels/cuda/some.cu:42");
  SKP_EXPECT_ERROR(check_cuda(code, site), DeviceError, cudaGetErrorName(code));
  SKP_EXPECT_ERROR(check_cuda(code, site), DeviceError, part);
}

TEST(CudaErrors, NameCallPlaceProblemAndAdvice) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, {"", "", 0}));
  expect_message(cudaErrorInvalidValue, "invalid argument");
  expect_message(cudaErrorInsufficientDriver, "driver");
  expect_message(cudaErrorNoKernelImageForDevice, built_targets().c_str());
  expect_message(cudaErrorMemoryAllocation, "need less");
  expect_message(cudaErrorInvalidDevice, "CUDA_VISIBLE_DEVICES");
  expect_message(cudaErrorIllegalAddress, "CUDA_LAUNCH_BLOCKING=1");
}

TEST(CudaErrors, ABackendThatCannotBeSaysSo) {
  const CudaDevices found = find_cuda_devices();
  EXPECT_EQ(found.built_for, built_targets());
  EXPECT_EQ(found.list.empty(), !found.why_none.empty());
  const auto none = static_cast<int>(found.list.size());
  SKP_EXPECT_ERROR(make_cuda_backend(none), DeviceError,
                   "cudaSetDevice(device) failed at kernels/cuda/cuda_backend.cc");
}

TEST(CudaErrors, AMissingLibraryIsNamed) {
  SKP_EXPECT_ERROR(LateLibrary("libnone-such.so.9"), DeviceError, "cannot load libnone-such.so.9");
  const LateLibrary c("libc.so.6");
  EXPECT_NE(c.find("malloc"), nullptr);
  SKP_EXPECT_ERROR(c.find("none_such"), DeviceError, "libc.so.6 has no none_such");
}

TEST(CudaErrors, TheLibrariesOfThisBuildAreFound) {
  EXPECT_NE(cublaslt().find("cublasLtMatmul"), nullptr);
#ifdef SKIPPIPE_HAS_CUDNN
  EXPECT_GE(cudnnGetVersion(), 90000u);
#endif
}

TEST(CudaTargets, RunWhereCudaRunsThem) {
  const std::string_view ours = "80-real,89,90a-real";
  for (const int capability : {80, 86, 87, 89, 90, 100, 120}) EXPECT_TRUE(any_target_runs_on(ours, capability));
  for (const int capability : {70, 75}) EXPECT_FALSE(any_target_runs_on(ours, capability));
  EXPECT_FALSE(any_target_runs_on("90a", 100)) << "neither code nor PTX of 90a is for others";
  EXPECT_FALSE(any_target_runs_on("86-real", 80));
  EXPECT_FALSE(any_target_runs_on("80-real", 90));
  EXPECT_TRUE(any_target_runs_on("80-virtual", 90));
  EXPECT_TRUE(any_target_runs_on("100f-real", 103));
  EXPECT_FALSE(any_target_runs_on("100f-real", 120));
  EXPECT_TRUE(any_target_runs_on("native", 120));
}

TEST(CudaTargets, VersionsReadAsUsersKnowThem) {
  EXPECT_EQ(version_text(12040), "12.4");
  EXPECT_EQ(version_text(13000), "13.0");
}

}  // namespace
}  // namespace skippipe::cuda
