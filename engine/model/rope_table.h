// The rotary embedding's cosines and sines for positions 0 to T-1.
#pragma once

#include <vector>

#include "engine/model/model_config.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Angle per position of each pair of channels, D/2 values, with Llama 3's scaling if the model has it.
// Source: Su et al. 2021, arXiv:2104.09864; Grattafiori et al. 2024, arXiv:2407.21783. Computed in double and rounded
// to f32 once; transformers rounds each step to f32, and some of its values differ by a few units in the last place.
std::vector<float> rope_frequencies(const ModelConfig& config);

// cos, sin (T,D/2) f32 on the context's device; waits for its stream.
void fill_rope_table(Context& ctx, Tensor cos, Tensor sin, const ModelConfig& config);

}  // namespace skippipe
