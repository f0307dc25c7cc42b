// Models from one folder into another: Hugging Face's way, or as a checkpoint of any cut. Tensor by tensor through a
// buffer: memory does not grow with the model or its tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/companion_files.h"
#include "engine/checkpoint/model_files.h"
#include "engine/files/safetensors.h"

namespace skippipe {

// Told of the bytes written so far and in all; may throw to end the work.
using ConvertProgress = std::function<void(uint64_t bytes, uint64_t total_bytes)>;

struct HuggingFaceOutput {
  SafeDtype dtype = SafeDtype::kF32;         // of the stored weights: F32, F16 or BF16
  uint64_t max_shard_bytes = 5'000'000'000;  // of tensors in a file; one that is larger has a file of its own
  CompanionFiles companions;                 // they go along; see below
};

// Both copy values that are not finite as they are, and return a line for each tensor that has some (FiniteCheck): such
// a model is of no use but to see what went wrong.

// Writes a folder that transformers loads: config.json, generation_config.json, model.safetensors (or several files and
// their index) and the companions. Where these have a SentencePiece tokenizer.model and nothing else about tokens, the
// other files of its tokenizer are made (hugging_face_tokenizer.h), and config.json learns from it where texts begin
// and end, unless it knows. What `folder` was before is gone afterwards; unless all is written, nothing changes. Throws
// FileError (also where a weight is too large for the dtype), ConfigError (also for a tokenizer that such files can't
// express).
std::vector<std::string> write_hugging_face_model(const std::filesystem::path& folder, const ModelFiles& model,
                                                  const HuggingFaceOutput& output,
                                                  const ConvertProgress& progress = {});

// Writes a checkpoint whose stages have so many layers each. The weights are stored as f32; a checkpoint's iteration,
// optimizer state and the fields of its run are carried along, another model begins at iteration 0 without optimizer
// state. The companions are checked as above and go along as they are.
std::vector<std::string> write_model_checkpoint(const std::filesystem::path& folder, const ModelFiles& model,
                                                std::span<const int> layers_per_stage, const CompanionFiles& companions,
                                                const ConvertProgress& progress = {});

// Names of what is in the model's folder and never goes into another: neither weights, nor shape, nor a companion.
std::vector<std::string> left_behind(const ModelFiles& model);

// Throws FileError if there is something at `folder`, other than an empty folder.
void require_nothing_at(const std::filesystem::path& folder);
// Throws FileError if there is something at `folder` that is no model: it must not be replaced.
void require_model_or_nothing_at(const std::filesystem::path& folder);

}  // namespace skippipe
