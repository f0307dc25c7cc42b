#include "engine/inference/generate.h"

#include <chrono>

#include "base/error.h"

namespace skippipe {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_settings(const Decoder& decoder, std::span<const int32_t> prompt, const GenerationSettings& settings) {
  check_token_choice(settings.choice);
  const int64_t vocabulary = decoder.spec().config.vocabulary;
  if (settings.vocabulary < 1 || settings.vocabulary > vocabulary)
    throw ConfigError("a vocabulary of {}, expected 1 to the model's {}", settings.vocabulary, vocabulary);
  if (settings.max_tokens < 1) throw ConfigError("{} tokens to generate, expected at least 1", settings.max_tokens);
  if (prompt.empty()) throw ConfigError("an empty prompt, expected at least one token");
}

}  // namespace

Generation generate(Decoder& decoder, std::span<const int32_t> prompt, const GenerationSettings& settings,
                    const std::function<void(int32_t token)>& take) {
  check_settings(decoder, prompt, settings);
  Random random(settings.seed);
  Generation result;
  auto start = std::chrono::steady_clock::now();
  std::span<const float> logits = decoder.read(prompt);
  result.prompt_s = seconds_since(start);
  start = std::chrono::steady_clock::now();
  for (;;) {
    const int32_t token = choose_token(logits.first(static_cast<size_t>(settings.vocabulary)), settings.choice, random);
    result.end = GenerationEnd::kEndToken;
    if (token == settings.end_token) break;
    take(token);
    ++result.tokens;
    result.end = GenerationEnd::kMaxTokens;
    if (result.tokens == settings.max_tokens) break;
    result.end = GenerationEnd::kNoRoom;
    if (decoder.room() == 0) break;
    logits = decoder.read({&token, 1});
  }
  result.tokens_s = seconds_since(start);
  return result;
}

}  // namespace skippipe
