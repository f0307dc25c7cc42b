#include "engine/inference/token_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace skippipe {
namespace {

void check_logits(std::span<const float> logits) {
  SKP_CHECK(!logits.empty(), "no logits");
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isfinite(logits[i]))
      throw RunError("the model's logit of token {} is {}, expected a finite number", i, logits[i]);
}

struct MoreProbable {
  std::span<const float> logits;

  bool operator()(int32_t a, int32_t b) const {
    const float left = logits[static_cast<size_t>(a)], right = logits[static_cast<size_t>(b)];
    return left != right ? left > right : a < b;
  }
};

// Tokens with weights in proportion to their probabilities.
class Candidates {
 public:
  Candidates(std::span<const float> logits, double temperature) : logits_(logits), tokens_(logits.size()) {
    std::iota(tokens_.begin(), tokens_.end(), 0);
    const float top = std::ranges::max(logits);
    for (const float logit : logits) weights_.push_back(std::exp((static_cast<double>(logit) - top) / temperature));
  }

  void keep_most_probable(size_t count) {
    if (count >= tokens_.size()) return;
    const auto end = tokens_.begin() + static_cast<std::ptrdiff_t>(count);
    std::partial_sort(tokens_.begin(), end, tokens_.end(), MoreProbable{logits_});
    tokens_.erase(end, tokens_.end());
  }

  // The fewest of the most probable ones that reach the share of the weight.
  void keep_share(double share) {
    if (share >= 1) return;
    const double wanted = share * total();
    double reached = 0;
    const auto less_probable = [more = MoreProbable{logits_}](int32_t a, int32_t b) { return more(b, a); };
    std::ranges::make_heap(tokens_, less_probable);  // few are needed, as a rule, of many
    auto rest = tokens_.end();
    while (reached < wanted && rest != tokens_.begin()) {
      std::pop_heap(tokens_.begin(), rest, less_probable);
      reached += weight(*--rest);
    }
    tokens_.erase(tokens_.begin(), rest);
  }

  int32_t draw(Random& random) const {
    const double at = random.uniform() * total();
    double passed = 0;
    for (const int32_t token : tokens_)
      if ((passed += weight(token)) > at) return token;
    return tokens_.back();  // rounding
  }

 private:
  double weight(int32_t token) const { return weights_[static_cast<size_t>(token)]; }
  double total() const {
    double sum = 0;
    for (const int32_t token : tokens_) sum += weight(token);
    return sum;
  }
  std::span<const float> logits_;
  std::vector<int32_t> tokens_;
  std::vector<double> weights_;  // of all tokens
};

}  // namespace

void check_token_choice(const TokenChoice& choice) {
  if (!(choice.temperature >= 0 && std::isfinite(choice.temperature)))
    throw ConfigError("a temperature of {}, expected 0 or more", choice.temperature);
  if (choice.top_k < 0) throw ConfigError("top k of {}, expected 0 or more", choice.top_k);
  if (!(choice.top_p > 0 && choice.top_p <= 1))
    throw ConfigError("top p of {}, expected more than 0 and at most 1", choice.top_p);
}

int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, Random& random) {
  check_token_choice(choice);
  check_logits(logits);
  if (choice.temperature == 0) return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
  Candidates candidates(logits, choice.temperature);
  if (choice.top_k > 0) candidates.keep_most_probable(static_cast<size_t>(choice.top_k));
  candidates.keep_share(choice.top_p);
  return candidates.draw(random);
}

}  // namespace skippipe
