#include "base/error.h"

#include <gtest/gtest.h>

#include "tests/expect_error.h"

namespace skippipe {
namespace {

TEST(Error, FormatsItsMessage) {
  const FileError error("{}: {} bytes, expected {}", "a.bin", 3, 4);
  EXPECT_STREQ(error.what(), "a.bin: 3 bytes, expected 4");
}

TEST(Error, OneArgumentIsTakenLiterally) { EXPECT_STREQ(ShapeError(std::string("100 {} %s")).what(), "100 {} %s"); }

TEST(Check, PassesInSilence) { SKP_CHECK(1 + 1 == 2); }

TEST(Check, NamesConditionPlaceAndMessage) {
  const auto fail = [](int n) { SKP_CHECK(n == 2, "n is {}", n); };
  SKP_EXPECT_ERROR(fail(3), InternalError, "n == 2");
  SKP_EXPECT_ERROR(fail(3), InternalError, "n is 3");
  SKP_EXPECT_ERROR(fail(3), InternalError, "error_test.cc");
}

}  // namespace
}  // namespace skippipe
