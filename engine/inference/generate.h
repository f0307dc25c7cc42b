// Generating tokens behind a prompt.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/inference/decoder.h"
#include "engine/inference/token_choice.h"

namespace skippipe {

struct GenerationSettings {
  TokenChoice choice;
  uint64_t seed = 1;
  int64_t max_tokens = 256;
  std::vector<int32_t> end_tokens;   // each ends the text
  int32_t vocabulary = 0;            // choose below this token only: the tokenizer may know fewer than the model
  std::vector<int32_t> more_tokens;  // ... and from these, which are not below it
};

enum class GenerationEnd : uint8_t { kEndToken, kMaxTokens, kNoRoom };

struct Generation {
  int64_t tokens = 0;  // without the end token
  GenerationEnd end = GenerationEnd::kMaxTokens;
  double prompt_s = 0;  // until the prompt was read
  double tokens_s = 0;  // from then on
};

// Reads the prompt and then chooses tokens, each of which it hands to `take` and reads as well, until an end token,
// max_tokens or the end of the decoder's room. Throws ConfigError (settings out of range, a prompt that is empty or
// too long) and RunError (logits that are not finite).
Generation generate(Decoder& decoder, std::span<const int32_t> prompt, const GenerationSettings& settings,
                    const std::function<void(int32_t token)>& take);

}  // namespace skippipe
