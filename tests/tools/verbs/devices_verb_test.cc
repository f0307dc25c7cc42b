// devices, as a user calls it, on whatever machine this is.
#include "engine/model/device.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using DevicesVerbTest = VerbTest;

TEST_F(DevicesVerbTest, ListsGpusOrSaysWhyThereAreNone) {
  const CudaDevices found = find_cuda_devices();
  const ProgramResult result = run("devices");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(std::ranges::count(result.output, '\n'), static_cast<int64_t>(found.list.size()) + 1) << result.output;
  for (const CudaDevice& device : found.list) EXPECT_THAT(result.output, ::testing::HasSubstr(device.name));
  EXPECT_THAT(result.output, ::testing::EndsWith("device: " + describe_device({}, found) + "\n"));
}

}  // namespace
}  // namespace skippipe
