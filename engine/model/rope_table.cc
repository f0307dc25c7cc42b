#include "engine/model/rope_table.h"

#include <cmath>
#include <numbers>

#include "kernels/copy.h"

namespace skippipe {
namespace {

// Long waves are stretched by `factor`, short ones stay, those between are blended.
double scale_frequency(double frequency, const RopeScaling& scaling) {
  const double original = static_cast<double>(scaling.original_max_position_embeddings);
  const double turns = original * frequency / (2 * std::numbers::pi);  // within the original context
  if (turns > scaling.high_freq_factor) return frequency;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  const double keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - keep) * frequency / scaling.factor + keep * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  for (int64_t d = 0; d < config.head_dim; d += 2) {
    const double exponent = static_cast<double>(d) / static_cast<double>(config.head_dim);
    const double frequency = std::pow(config.rope_theta, -exponent);
    frequencies.push_back(
        static_cast<float>(config.rope_scaling ? scale_frequency(frequency, *config.rope_scaling) : frequency));
  }
  return frequencies;
}

void fill_rope_table(Context& ctx, Tensor cos, Tensor sin, const ModelConfig& config) {
  const std::vector<float> frequencies = rope_frequencies(config);
  std::vector<float> cosines, sines;
  for (int64_t t = 0; t < cos.dim(0); ++t)
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(t) * frequency;  // f32, as in transformers
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
  copy(ctx, cos, host_tensor(std::span<const float>(cosines)));
  copy(ctx, sin, host_tensor(std::span<const float>(sines)));
  finish(ctx);
}

}  // namespace skippipe
