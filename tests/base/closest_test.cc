#include "base/closest.h"

#include <gtest/gtest.h>

namespace skippipe {
namespace {

const std::vector<std::string> kNames = {"latency_ms", "bandwidth_mbit_per_s", "overhead_ms", "from", "to"};

TEST(Closest, FindsWhatWasMeant) {
  EXPECT_EQ(closest_name("bandwith_mbit_per_s", kNames), "bandwidth_mbit_per_s");    // left out
  EXPECT_EQ(closest_name("bandwidth_mbits_per_s", kNames), "bandwidth_mbit_per_s");  // inserted
  EXPECT_EQ(closest_name("latency-ms", kNames), "latency_ms");                       // replaced
  EXPECT_EQ(closest_name("form", kNames), "from");                                   // swapped
  EXPECT_EQ(closest_name("overhead_s", kNames), "overhead_ms");
  EXPECT_EQ(closest_name("from", kNames), "from");
}

TEST(Closest, FindsNothingWhereNothingIsClose) {
  EXPECT_EQ(closest_name("colour", kNames), "");
  EXPECT_EQ(closest_name("x", kNames), "");
  EXPECT_EQ(closest_name("", kNames), "");
  EXPECT_EQ(closest_name("from", {}), "");
  EXPECT_EQ(closest_name(std::string(100000, 'f'), kNames), "");
  EXPECT_EQ(did_you_mean("colour", kNames), "");
  EXPECT_EQ(did_you_mean("form", kNames), "; did you mean 'from'?");
}

TEST(Closest, TakesTheFirstOfEquals) { EXPECT_EQ(closest_name("abcx", {"abcd", "abce"}), "abcd"); }

}  // namespace
}  // namespace skippipe
