// The models that benchmarks measure, by name.
#pragma once

#include <cstdint>

namespace skippipe {

// Llama's architecture throughout: RMSNorm, rotary embedding, SwiGLU, grouped queries, no biases.
struct ModelShape {
  const char* name;
  int64_t channels, feed_forward, layers, heads, kv_heads, head_dim, vocabulary;  // C, F, L, H, K, D, V
  bool tied_embeddings;
};

// Llama-like models with about as many parameters as they are called after (134, 478, 1,490 and 8,030 million), 8B
// being Llama 3.1 8B (arXiv:2407.21783). Then the two of Qwen 2.5 (arXiv:2412.15115) that others publish training rates
// of, without the biases of queries, keys and values, which we don't compute: 494 and 1,544 million.
inline constexpr ModelShape kModelShapes[] = {
    // Name, C, F, L, H, K, D, V, tied.
    {"125M", 768, 2048, 12, 12, 12, 64, 32000, false},
    {"500M", 1280, 3456, 20, 20, 20, 64, 32000, false},
    {"1.5B", 2048, 7168, 24, 16, 8, 128, 32000, false},
    {"8B", 4096, 14336, 32, 32, 8, 128, 128256, false},
    {"Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 64, 151936, true},
    {"Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 128, 151936, true},
};

}  // namespace skippipe
