// Time that passes only while a process runs, with a clock of the test's own.
#include "comm/control/awake_clock.h"

#include <gtest/gtest.h>

namespace skippipe {
namespace {

using namespace std::chrono_literals;

constexpr Clock::time_point kStart{100s};

TEST(AwakeClock, StepsAsLongAsTheyShouldBeCountInFull) {
  AwakeClock clock(2s, kStart);
  EXPECT_EQ(clock.at(kStart + 1s), kStart + 1s);
  EXPECT_EQ(clock.at(kStart + 3s), kStart + 3s);
  EXPECT_EQ(clock.last_sleep(), 0s);
  EXPECT_EQ(clock.steady(kStart + 9s), kStart + 9s);
}

TEST(AwakeClock, ALongStepCountsAsTheLongest) {
  AwakeClock clock(2s, kStart);
  EXPECT_EQ(clock.at(kStart + 1s), kStart + 1s);
  EXPECT_EQ(clock.at(kStart + 101s), kStart + 3s);  // stopped for 100 s
  EXPECT_EQ(clock.last_sleep(), 98s);
  EXPECT_EQ(clock.woke(), kStart + 3s);
  EXPECT_EQ(clock.at(kStart + 102s), kStart + 4s);
  EXPECT_EQ(clock.steady(kStart + 4s), kStart + 102s);
  EXPECT_EQ(clock.at(kStart + 202s), kStart + 6s);  // and again
  EXPECT_EQ(clock.steady(kStart + 6s), kStart + 202s);
}

// A loop that is always too slow sees a limit late, but sees it.
TEST(AwakeClock, NoLimitIsPutOffForEver) {
  AwakeClock clock(2s, kStart);
  Clock::time_point steady = kStart, here = kStart;
  int looks = 0;
  for (; here < kStart + 10s; ++looks) here = clock.at(steady += 7s);
  EXPECT_EQ(looks, 5);
}

TEST(Patience, EndsAfterItsLimitInTimeAwake) {
  Patience patience(10s, kStart);
  for (int s = 1; s < 10; ++s) EXPECT_FALSE(patience.is_over(kStart + s * 1s)) << s;
  EXPECT_EQ(patience.due(), kStart + 10s);
  EXPECT_TRUE(patience.is_over(kStart + 10s));
}

TEST(Patience, ASleepIsNoWait) {
  Patience patience(10s, kStart);
  EXPECT_FALSE(patience.is_over(kStart + 1s));
  EXPECT_FALSE(patience.is_over(kStart + 1001s));  // 3 s have passed
  for (int s = 1; s < 7; ++s) EXPECT_FALSE(patience.is_over(kStart + 1001s + s * 1s)) << s;
  EXPECT_TRUE(patience.is_over(kStart + 1008s));
}

TEST(Patience, IsAskedAgainWithinASecondHoweverFarItsEnd) {
  Patience patience(3600s, kStart);
  EXPECT_EQ(patience.due(), kStart + 1s);
  EXPECT_FALSE(patience.is_over(kStart + 1s));
  EXPECT_EQ(patience.due(), kStart + 2s);
}

TEST(Patience, BeginsAnew) {
  Patience patience(2s, kStart);
  patience.restart(kStart + 1s);
  EXPECT_FALSE(patience.is_over(kStart + 2500ms));
  EXPECT_TRUE(patience.is_over(kStart + 3s));
  patience.restart(kStart + 500s);
  EXPECT_FALSE(patience.is_over(kStart + 501s));
  EXPECT_TRUE(patience.is_over(kStart + 502s));
}

}  // namespace
}  // namespace skippipe
