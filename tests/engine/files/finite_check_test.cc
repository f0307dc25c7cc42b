#include "engine/files/finite_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;

TEST(FiniteCheck, CountsOverPiecesAndNamesTheFirstPlace) {
  const SafeTensor tensor = {"a", SafeDtype::kF32, {2, 3, 2}};
  FiniteCheck check;
  check.look_at(std::array{0.0f, -1.0f, 3e38f, 1e-45f, 5.0f});
  EXPECT_TRUE(check.finite());
  check.look_at({});
  check.look_at(std::array{1.0f, 2.0f, 3.0f, 4.0f, -INFINITY});
  EXPECT_FALSE(check.finite());
  check.look_at(std::array{NAN, INFINITY});
  EXPECT_EQ(check.problem(tensor),
            "tensor 'a': 3 of 12 values are not finite, the first, at [1, 1, 1], is minus infinite");
}

TEST(FiniteCheck, ReadsAllWeightsOfAFile) {
  const TempFolder folder;
  SafetensorsWriter writer(folder / "f", {{"good", SafeDtype::kF32, {2}},
                                          {"half", SafeDtype::kF16, {2}},
                                          {"ids", SafeDtype::kU8, {1}},
                                          {"one", SafeDtype::kBf16, {}}});
  writer.write(std::array{1.0f, 2.0f});
  writer.write(std::array{1.0f, INFINITY});
  writer.write(std::array{std::byte{255}});
  writer.write(std::array{-NAN});
  writer.finish();
  EXPECT_THAT(
      non_finite_tensors(SafetensorsFile(folder / "f")),
      ElementsAre(EndsWith("f: tensor 'half': 1 of 2 values are not finite, the first, at [1], is infinite"),
                  EndsWith("f: tensor 'one': 1 of 1 values are not finite, the first, at [], is not a number")));
}

}  // namespace
}  // namespace skippipe
