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
#ifdef SKIPPIPE_HAS_NCCL
#include <semaphore>

#include "kernels/cuda/nccl_communicator.h"
#include "kernels/host_runtime.h"
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
                   "cudaSetDevice(device) failed at kernels/cuda/device_runtime.cc");
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

#ifdef SKIPPIPE_HAS_NCCL
// NCCL itself: with a GPU a group of one connects, without one it says so; in both cases it ends.
TEST(CudaErrors, ACommunicatorConnectsOrSaysWhyNot) {
  HostRuntime runtime;
  const auto library = load_nccl(runtime);
  EXPECT_EQ(library->name(), format("NCCL {}.{}.{}", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH));
  std::binary_semaphore woken(0);
  const auto communicator = library->connect(library->make_id(), 0, 1, [&] { woken.release(); });
  ASSERT_TRUE(woken.try_acquire_for(std::chrono::seconds(60)));
  if (communicator->state() == Communicator::State::kReady) return;
  ASSERT_EQ(communicator->state(), Communicator::State::kFailed);
  EXPECT_TRUE(find_cuda_devices().list.empty()) << communicator->status().message();
  EXPECT_TRUE(communicator->status().message().starts_with("ncclCommInitRankConfig: "))
      << communicator->status().message();
}
#endif

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
