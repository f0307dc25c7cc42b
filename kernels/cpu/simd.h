// Vectors of the machine's width through GCC's vector extensions, and the exponential that loops can inline.
#pragma once

#include <bit>
#include <cstdint>

namespace skippipe::cpu {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using Vec [[gnu::vector_size(kLanes * sizeof(float))]] = float;
using IntVec [[gnu::vector_size(kLanes * sizeof(int32_t))]] = int32_t;

inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

inline Vec splat(float x) { return x - Vec{}; }

// 0, 1, 2, ...
inline IntVec lane_numbers() {
  IntVec v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

inline float max_lanes(Vec v) {
#pragma GCC unroll 4
  for (int step = kLanes / 2; step > 0; step /= 2) v = max(v, __builtin_shuffle(v, lane_numbers() ^ step));
  return v[0];
}

inline float sum_lanes(Vec v) {
#pragma GCC unroll 4
  for (int step = kLanes / 2; step > 0; step /= 2) v = v + __builtin_shuffle(v, lane_numbers() ^ step);
  return v[0];
}

// e^x within 2 ulp of the true value (1.0 measured by tests/kernels); 0 below -104, infinity above 88.8, NaN for NaN.
// x = n ln 2 + r with |r| <= ln(2)/2; e^r is 1 + r + r^2 q(r), q minimax of degree 4 (3e-9); 2^n is applied in two
// factors, so that neither overflows before the result does and results below the smallest normal number round
// gradually.
inline float exp_lane(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * 1.44269504f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.38145378e-3f;
  p = p * r + 8.36874532e-3f;
  p = p * r + 4.16683908e-2f;
  p = p * r + 1.66665204e-1f;
  p = p * r + 0.499999934f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kShift));
  const int32_t half = exponent >> 1;
  const float low = std::bit_cast<float>(static_cast<uint32_t>(half + 127) << 23);
  const float high = std::bit_cast<float>(static_cast<uint32_t>(exponent - half + 127) << 23);
  return p * low * high;
}

}  // namespace skippipe::cpu
