#include "base/float_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"

namespace skippipe {
namespace {

struct Format {
  const char* name;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
  uint16_t infinity;
};
constexpr Format kFormats[] = {{"bf16", bf16_to_float, float_to_bf16, 0x7f80},
                               {"f16", f16_to_float, float_to_f16, 0x7c00}};

TEST(FloatFormats, EveryValueComesBack) {
  for (const Format& format : kFormats)
    for (uint32_t x = 0; x < 0x10000; ++x)
      ASSERT_EQ(format.narrow(format.widen(static_cast<uint16_t>(x))), x) << format.name;
}

TEST(FloatFormats, WidensToTheValue) {
  EXPECT_EQ(f16_to_float(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_float(0xc500), -5.0f);
  EXPECT_EQ(f16_to_float(0x7bff), 65504.0f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_float(0x0400), 0x1p-14f);
  EXPECT_EQ(bf16_to_float(0x3f80), 1.0f);
  EXPECT_EQ(bf16_to_float(0x4049), 3.140625f);
  for (const Format& format : kFormats) {
    EXPECT_EQ(format.widen(format.infinity), std::numeric_limits<float>::infinity());
    EXPECT_TRUE(std::isnan(format.widen(format.infinity + 1)));
  }
}

// Neighbours in a format have neighbouring bits; halfway between two lies a tie.
TEST(FloatFormats, RoundsToNearestTiesToEven) {
  for (const Format& format : kFormats) {
    for (uint16_t low = 0; low + 1 < format.infinity; ++low) {
      const uint16_t high = low + 1;
      const float middle = static_cast<float>((static_cast<double>(format.widen(low)) + format.widen(high)) / 2);
      ASSERT_EQ(format.narrow(middle), low % 2 == 0 ? low : high) << format.name << " " << low;
      ASSERT_EQ(format.narrow(std::nextafter(middle, 0.0f)), low) << format.name << " " << low;
      ASSERT_EQ(format.narrow(std::nextafter(middle, HUGE_VALF)), high) << format.name << " " << low;
      ASSERT_EQ(format.narrow(-middle), 0x8000 | (low % 2 == 0 ? low : high)) << format.name << " " << low;
    }
  }
}

TEST(FloatFormats, TooLargeIsInfiniteAndNanStays) {
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  for (const Format& format : kFormats) {
    for (uint64_t seed = 0; seed < 1000; ++seed) {
      const auto payload = static_cast<uint32_t>(1 + Random(seed).below(0x7fffff));
      const uint16_t narrowed = format.narrow(std::bit_cast<float>(0x7f800000u | payload));
      ASSERT_GT(narrowed, format.infinity) << format.name << " seed " << seed;
      ASSERT_LT(narrowed, 0x8000) << format.name << " seed " << seed;
    }
  }
}

}  // namespace
}  // namespace skippipe
