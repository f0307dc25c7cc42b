// Vectors of the machine's width through GCC's vector extensions, loops over them, and their exponential.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/bf16.h"

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

// Keeps a loaded vector in a register: GCC would rather read it again from memory at each use, and a product that does
// so is bound by loads.
inline void keep(Vec& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  static_cast<void>(v);
#endif
}

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

// The float whose bits are those of x.
inline Vec as_float(IntVec x) {
  Vec y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

inline IntVec as_int(Vec x) {
  IntVec y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

// e^r for |r| <= ln(2)/2: 1 + r + r^2 q(r), q minimax of degree 4; 3e-9 off before rounding.
inline Vec exp_of_remainder(Vec r) {
  Vec q = splat(1.38145378e-3f);
  q = q * r + 8.36874532e-3f;
  q = q * r + 4.16683908e-2f;
  q = q * r + 1.66665204e-1f;
  q = q * r + 0.499999934f;
  return q * (r * r) + r + 1.0f;
}

inline constexpr float kLog2E = 1.44269504f, kLn2High = 0.693145752f, kLn2Low = 1.42860677e-6f;
// exp is 0 below the first and infinity from somewhat below the second; between them no step overflows early.
inline constexpr float kExpLowest = -104.0f, kExpHighest = 89.0f;

// e^x within 2 ulp of the true value (1.0 measured by tests/kernels); 0 below -104, infinity above 88.8, NaN for NaN.
// x = n ln 2 + r; 2^n is applied in two factors, so that neither overflows before the result does and results below the
// smallest normal number round gradually.
inline Vec exp_portable(Vec x) {
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  x = max(splat(kExpLowest), x);         // NaN stays
  x = x > kExpHighest ? splat(kExpHighest) : x;
  const Vec shifted = x * kLog2E + shift;
  const Vec n = shifted - shift;
  const IntVec exponent = as_int(shifted) - as_int(shift);
  const IntVec half = exponent >> 1;
  return exp_of_remainder((x - n * kLn2High) - n * kLn2Low) * as_float((half + 127) << 23) *
         as_float((exponent - half + 127) << 23);
}

// The same, at half the instructions where there is one that applies 2^n.
inline Vec exp(Vec x) {
#if defined(__AVX512F__)
  // The forms with a full mask: GCC 12 warns about the others' own undefined operand. Minimum and maximum keep a NaN.
  constexpr __mmask16 kAll = 0xffff;
  const Vec bounded = _mm512_maskz_min_ps(kAll, splat(kExpHighest), _mm512_maskz_max_ps(kAll, splat(kExpLowest), x));
  const Vec n = _mm512_maskz_roundscale_ps(kAll, bounded * kLog2E, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_maskz_scalef_ps(kAll, exp_of_remainder((bounded - n * kLn2High) - n * kLn2Low), n);
#else
  return exp_portable(x);
#endif
}

inline float exp_one(float x) { return exp(splat(x))[0]; }

using HalfVec [[gnu::vector_size(kLanes * sizeof(uint16_t))]] = uint16_t;
using UintVec [[gnu::vector_size(kLanes * sizeof(uint32_t))]] = uint32_t;

inline Vec load(const Bf16* p) {
  HalfVec bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return reinterpret_cast<Vec>(__builtin_convertvector(bits, UintVec) << 16);
}

// Rounds as Bf16 does; a NaN stays one.
inline void store_portable(Bf16* p, Vec v) {
  const UintVec bits = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
  const HalfVec halves = __builtin_convertvector(v == v ? rounded : quiet, HalfVec);
  __builtin_memcpy(p, &halves, sizeof halves);
}

// The same in one instruction where there is one; that makes zeros of numbers below the smallest normal one.
inline void store(Bf16* p, Vec v) {
#if defined(__AVX512BF16__)
  const __m256bh halves = _mm512_cvtneps_pbh(v);
  __builtin_memcpy(p, &halves, sizeof halves);
#else
  store_portable(p, v);
#endif
}

// Reads and writes whole vectors.
struct WholeVec {
  template <typename Element>
  Vec load(const Element* p, float = 0) const {
    return cpu::load(p);
  }
  template <typename Element>
  void store(Element* p, Vec v) const {
    cpu::store(p, v);
  }
};

// Reads and writes the first `lanes` of a vector; the rest reads as `fill`.
struct PartialVec {
  int64_t lanes;

  template <typename Element>
  Vec load(const Element* p, float fill = 0) const {
    Element whole[kLanes];
    std::fill_n(whole, kLanes, Element(fill));
    __builtin_memcpy(whole, p, static_cast<size_t>(lanes) * sizeof(Element));
    return cpu::load(whole);
  }
  template <typename Element>
  void store(Element* p, Vec v) const {
    Element whole[kLanes];
    cpu::store(whole, v);
    __builtin_memcpy(p, whole, static_cast<size_t>(lanes) * sizeof(Element));
  }
};

// body(i, access) for each vector of `count` elements: access is a WholeVec, or a PartialVec for the last ones.
template <typename Body>
inline void for_each_vec(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, WholeVec{});
  if (i < count) body(i, PartialVec{count - i});
}

}  // namespace skippipe::cpu
