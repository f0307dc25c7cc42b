#include "engine/model/recompute.h"

#include "base/error.h"

namespace skippipe {

const char* recompute_name(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kAttention:
      return "attention";
    case Recompute::kBlock:
      return "block";
  }
  throw InternalError("no recomputation has the number {}", static_cast<int>(recompute));
}

Recompute parse_recompute(std::string_view name) {
  for (const Recompute recompute : kRecomputes)
    if (name == recompute_name(recompute)) return recompute;
  throw ConfigError("recompute: found '{}', expected none, attention or block", name);
}

double recomputed_share(Recompute recompute, const ModelConfig& config, int64_t tokens) {
  const auto channels = static_cast<double>(config.channels);
  const double attention_width = static_cast<double>(config.heads * config.head_dim);
  const double attention =
      channels * static_cast<double>(config.qkv_width()) + attention_width * static_cast<double>(tokens + 1);
  const double output = attention_width * channels;
  const double one_of_mlp = channels * static_cast<double>(config.feed_forward);
  const double forward = attention + output + 3 * one_of_mlp;
  switch (recompute) {
    case Recompute::kNone:
      return 0;
    case Recompute::kAttention:
      return attention / forward;
    case Recompute::kBlock:
      return (forward - one_of_mlp) / forward;
  }
  throw InternalError("no recomputation has the number {}", static_cast<int>(recompute));
}

}  // namespace skippipe
