// Choosing the next token from a model's logits.
#pragma once

#include <cstdint>
#include <span>

#include "base/random.h"

namespace skippipe {

// Applied in this order, which is that of transformers.
struct TokenChoice {
  double temperature = 0;  // logits are divided by it; 0: always the most probable token
  int64_t top_k = 0;       // only so many of the most probable tokens; 0: all
  // Only the most probable tokens that together reach this share of what is left, in (0, 1].
  double top_p = 1;
};

// Throws ConfigError naming the value that is out of range.
void check_token_choice(const TokenChoice& choice);

// An index into logits. Of equal logits the one with the lower index counts as more probable. A pure function of its
// arguments and the state of `random`, of which it takes one draw unless the temperature is 0.
// Throws ConfigError (as above) and RunError (a logit that is not finite).
// Source: Fan et al. 2018, arXiv:1805.04833 (top k); Holtzman et al. 2020, arXiv:1904.09751 (top p).
int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, Random& random);

}  // namespace skippipe
