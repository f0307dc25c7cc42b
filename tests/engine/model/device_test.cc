#include "engine/model/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace skippipe {
namespace {

const CudaDevice kGpu{0, "NVIDIA H100", 90, int64_t{80} << 30, 132, true};

TEST(Device, NamesAreReadAndWritten) {
  EXPECT_EQ(parse_device("cpu"), DeviceName{});
  EXPECT_EQ(parse_device("cuda"), (DeviceName{Device::kCuda, 0}));
  EXPECT_EQ(parse_device("cuda:3"), (DeviceName{Device::kCuda, 3}));
  EXPECT_EQ(parse_device("cuda:3").to_string(), "cuda:3");
  EXPECT_EQ(DeviceName{}.to_string(), "cpu");
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda: 1", "cuda:99999999999", "cpu:0"})
    EXPECT_THROW(parse_device(wrong), ConfigError) << wrong;
}

TEST(Device, AttentionHasNames) {
  EXPECT_EQ(parse_attention_kernels("own"), AttentionKernels::kOwn);
  EXPECT_EQ(parse_attention_kernels("portable"), AttentionKernels::kPortable);
  EXPECT_EQ(parse_attention_kernels("cudnn"), AttentionKernels::kCudnn);
  EXPECT_THROW(parse_attention_kernels("CUDNN"), ConfigError);
}

TEST(Device, SaysWhyThereIsNoGpu) {
  EXPECT_EQ(describe_device({}, {{}, "this program was built without CUDA"}),
            "CPU (no GPU: this program was built without CUDA)");
  EXPECT_EQ(describe_device({}, {{}, "no NVIDIA driver is installed", "80, 90a"}),
            "CPU (no GPU: no NVIDIA driver is installed; built for 80, 90a)");
}

TEST(Device, SaysWhichGpuAndHowToUseOne) {
  EXPECT_EQ(describe_device({}, {{kGpu, kGpu}, "", "80, 90a"}),
            "CPU (2 GPUs found, --device cuda:0 computes on the first; built for 80, 90a)");
  EXPECT_EQ(describe_device({Device::kCuda, 0}, {{kGpu}, "", "80, 90a"}), "cuda:0 (NVIDIA H100)");
}

TEST(Device, SaysWhereBf16IsSlower) {
  EXPECT_EQ(describe_slow_bf16(1.8), "");
  EXPECT_EQ(describe_slow_bf16(0.97), "") << "that may be chance";
  EXPECT_THAT(describe_slow_bf16(0.634),
              ::testing::HasSubstr("bf16 products ran at 0.63 x f32's rate on a thread of this CPU"));
}

TEST(Device, MeasuresBf16OverF32) {
  const auto cpu = make_backend({});
  if (!cpu->computes_in(Dtype::kBf16)) GTEST_SKIP() << "this processor has no AVX-512";
  const double rate = bf16_over_f32_rate(*cpu);
  EXPECT_GT(rate, 0);
  EXPECT_LT(rate, 1000);
}

TEST(Device, OneThatIsNotThereIsRefused) {
  if (!find_cuda_devices().list.empty()) {
    EXPECT_THROW(make_backend({Device::kCuda, 4096}), DeviceError);
    return;
  }
  EXPECT_THROW(make_backend({Device::kCuda, 0}), DeviceError);
}

}  // namespace
}  // namespace skippipe
