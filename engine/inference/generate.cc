#include "engine/inference/generate.h"

#include <algorithm>
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
  for (const int32_t token : settings.more_tokens)
    if (token < settings.vocabulary || token >= vocabulary)
      throw ConfigError("the token {} to choose, expected {} to {}", token, settings.vocabulary, vocabulary - 1);
  if (settings.max_tokens < 1) throw ConfigError("{} tokens to generate, expected at least 1", settings.max_tokens);
  if (prompt.empty()) throw ConfigError("an empty prompt, expected at least one token");
}

// A token of those that may be chosen, which `allowed` collects.
int32_t choose(std::span<const float> logits, const GenerationSettings& settings, Random& random,
               std::vector<float>& allowed) {
  const auto vocabulary = static_cast<size_t>(settings.vocabulary);
  allowed.assign(logits.begin(), logits.begin() + settings.vocabulary);
  for (const int32_t token : settings.more_tokens) allowed.push_back(logits[static_cast<size_t>(token)]);
  const auto place = static_cast<size_t>(choose_token(allowed, settings.choice, random));
  return place < vocabulary ? static_cast<int32_t>(place) : settings.more_tokens[place - vocabulary];
}

}  // namespace

Generation generate(Decoder& decoder, std::span<const int32_t> prompt, const GenerationSettings& settings,
                    const std::function<void(int32_t token)>& take) {
  check_settings(decoder, prompt, settings);
  Random random(settings.seed);
  Generation result;
  std::vector<float> allowed;
  auto start = std::chrono::steady_clock::now();
  std::span<const float> logits = decoder.read(prompt);
  result.prompt_s = seconds_since(start);
  start = std::chrono::steady_clock::now();
  for (;;) {
    const int32_t token = choose(logits, settings, random, allowed);
    result.end = GenerationEnd::kEndToken;
    if (std::ranges::find(settings.end_tokens, token) != settings.end_tokens.end()) break;
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
