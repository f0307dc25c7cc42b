// Activation recomputation: what slots do not keep of forward, because backward computes it again.
// Source: Chen et al. 2016, arXiv:1604.06174; Korthikanti et al. 2022, arXiv:2205.05198.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/model/model_config.h"

namespace skippipe {

enum class Recompute : uint8_t {
  kNone,
  kAttention,  // queries, keys, values and attention's output, from the layer's input
  kBlock,      // the whole layer, from its input
};
// The cheapest first, which takes most memory.
inline constexpr std::array kRecomputes = {Recompute::kNone, Recompute::kAttention, Recompute::kBlock};

const char* recompute_name(Recompute recompute);  // "attention", as the run file has it
// Throws ConfigError. There is no "auto": whoever knows the memory has chosen by then.
Recompute parse_recompute(std::string_view name);

// The part of a layer's forward, in [0, 1), that its backward does again, for samples of T tokens. Counts the
// multiplications of a token's products: C (H+2K)D + HD (T+1) for causal attention + HD C + 3 C F. What backward never
// needs is not computed again: the layer's output, so the last C F are missing from a block's share.
double recomputed_share(Recompute recompute, const ModelConfig& config, int64_t tokens);

}  // namespace skippipe
