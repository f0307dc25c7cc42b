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

}  // namespace
}  // namespace skippipe
