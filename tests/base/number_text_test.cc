#include "base/number_text.h"

#include <gtest/gtest.h>

#include <limits>

namespace skippipe {
namespace {

TEST(NumberText, SaysInWordsWhatIsNone) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(number_text(0.25), "0.25");
  EXPECT_EQ(number_text(std::nan("")), "not a number");
  EXPECT_EQ(number_text(-std::nan("")), "not a number");
  EXPECT_EQ(number_text(kInfinity), "infinite");
  EXPECT_EQ(number_text(-kInfinity), "minus infinite");
}

TEST(NumberText, BytesHaveHumanUnits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_bytes(int64_t{3} << 30), "3.00 GiB");
}

}  // namespace
}  // namespace skippipe
