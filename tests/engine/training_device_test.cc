#include "engine/training_device.h"

#include <gtest/gtest.h>

namespace skippipe {
namespace {

TEST(TrainingDevice, SaysWhyThereIsNoGpu) {
  EXPECT_EQ(training_device({{}, "this program was built without CUDA"}),
            "CPU (no GPU: this program was built without CUDA)");
  EXPECT_EQ(training_device({{}, "no NVIDIA driver is installed", "80, 90a"}),
            "CPU (no GPU: no NVIDIA driver is installed; built for 80, 90a)");
}

TEST(TrainingDevice, GpusDoNotTrainYet) {
  const CudaDevice gpu{0, "NVIDIA H100", 90, int64_t{80} << 30, 132, true};
  EXPECT_EQ(training_device({{gpu, gpu}, "", "80, 90a"}),
            "CPU (training does not run on GPUs yet; 2 found, `skippipe devices` lists them; built for 80, 90a)");
}

}  // namespace
}  // namespace skippipe
