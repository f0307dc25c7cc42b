// Counter-based random numbers: every draw is a pure function of a key and a counter, so any process can compute any
// draw, and a run replays from the seed in its configuration. The mixer is SplitMix64 (Steele, Lea, Flood 2014).
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <numbers>

namespace skippipe {

constexpr uint64_t mix_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Satisfies UniformRandomBitGenerator, but the distributions below give the same numbers on every standard library.
class Random {
 public:
  using result_type = uint64_t;

  explicit constexpr Random(uint64_t seed) : key_(mix_bits(seed)) {}
  // An independent stream for each list of words, e.g. Random(seed, {iteration, microbatch}).
  constexpr Random(uint64_t seed, std::initializer_list<uint64_t> stream) : key_(mix_bits(seed)) {
    // The second mixing of the key keeps seed and word apart: (a, {b}) is another stream than (b, {a}).
    for (const uint64_t word : stream) key_ = mix_bits(mix_bits(key_) ^ mix_bits(word));
  }

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  constexpr uint64_t operator()() { return mix_bits(key_ + 0xd1342543de82ef95ull * ++counter_); }

  // Uniform in [0, 1), 53 bits.
  constexpr double uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // Uniform in [0, bound), bound > 0; the bias of at most bound / 2^64 does not matter here.
  constexpr uint64_t below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>((*this)()) * bound) >> 64);
  }
  // Standard normal (Box and Muller 1958); one value for two draws, so that the n-th value has a fixed counter.
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  template <typename Range>
  constexpr void shuffle(Range& range) {
    for (uint64_t i = range.size(); i > 1; --i) {
      using std::swap;
      swap(range[i - 1], range[below(i)]);
    }
  }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace skippipe
