#include "kernels/cuda/arithmetic.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace skippipe::simt {
namespace {

TEST(ArithmeticTest, DividesAllThatItMay) {
  for (const int by : {1, 2, 3, 5, 7, 8, 12, 31, 32, 33, 100, 641, 65535, 65536, 65537, INT32_MAX - 1, INT32_MAX}) {
    const Divisor divisor(by);
    EXPECT_EQ(divisor.value(), by);
    // Around multiples, where a rounding error would show first.
    for (int64_t multiple = 0; multiple <= INT32_MAX; multiple += (INT32_MAX / by / 997 + 1) * int64_t{by})
      for (const int64_t x : {multiple - 1, multiple, multiple + 1, multiple + by - 1}) {
        if (x < 0 || x > INT32_MAX) continue;
        ASSERT_EQ(divisor.quotient(static_cast<int>(x)), x / by) << x << " / " << by;
      }
    ASSERT_EQ(divisor.quotient(INT32_MAX), INT32_MAX / by) << by;
  }
}

}  // namespace
}  // namespace skippipe::simt
