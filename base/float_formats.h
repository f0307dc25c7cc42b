// Sixteen-bit floating-point numbers as bits: bfloat16 and IEEE half precision. Narrowing rounds to nearest, ties to
// even; what is too large becomes infinite. Widening and narrowing again gives every value back, NaNs included.
#pragma once

#include <bit>
#include <cstdint>

namespace skippipe {

constexpr float bf16_to_float(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

constexpr uint16_t float_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan =
      (bits >> 16) | ((bits & 0x7f0000u) == 0 ? 0x40u : 0u);  // one whose bits are all cut off stays one
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

constexpr float f16_to_float(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t exponent = (x >> 10) & 0x1fu;
  const uint32_t mantissa = x & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 0x1f ? 0xff : exponent + 127 - 15;
  return std::bit_cast<float>(sign | wide_exponent << 23 | mantissa << 13);
}

constexpr uint16_t float_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  constexpr uint32_t kInfinity = 0x7c00, kSmallestNormal = 113u << 23, kTooLarge = 0x477ff000;  // 2^-14, 65520
  if (magnitude > 0x7f800000u) {
    const uint32_t mantissa = (magnitude >> 13) & 0x3ffu;
    return static_cast<uint16_t>(sign | kInfinity | (mantissa == 0 ? 0x200u : mantissa));
  }
  if (magnitude >= kTooLarge) return static_cast<uint16_t>(sign | kInfinity);
  if (magnitude < kSmallestNormal) {
    // The sum's last bit is worth 2^-24, so that adding rounds as it should.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t rebiased = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | (rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13);
}

}  // namespace skippipe
