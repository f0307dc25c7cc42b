// The sizes that operations are timed at.
#pragma once

#include <span>
#include <string>

#include "kernels/tensor.h"

namespace skippipe::bench {

// What operations notice of a model of tools/bench/model_shapes.h.
struct Model {
  const char* name;
  int64_t tokens;  // of one sequence
  int64_t channels, heads, kv_heads, head_dim, feed_forward, vocabulary;
  bool attention_only;  // differs from another model in what only attention notices
};
std::span<const Model> all_models();

// What an operation computes on. An operation takes what it needs.
struct Shape {
  int64_t batch, tokens, channels, heads, kv_heads, head_dim, feed_forward, vocabulary;
  int64_t flat;  // elements of operations that know no rows

  int64_t rows() const { return batch * tokens; }
};

// On a GPU, as many sequences as give 100 MB to bf16 tensors (N,C), so that no cache holds one; on a CPU 2,048 tokens,
// as its microbatches have, and flat tensors of 32 MB in f32.
Shape timed_shape(const Model& model, Device device);
// Small enough for the formulas in double precision, with the model's head dim and sharing of heads, and edges: no
// extent but those is a multiple of a usual tile.
Shape verified_shape(const Model& model);

}  // namespace skippipe::bench
