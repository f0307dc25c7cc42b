// What a file or folder of ours is, what it holds, and whether it is whole.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "engine/files/safetensors.h"

namespace skippipe {

struct Inspection {
  std::string kind;                                        // "checkpoint", "token shard", ...; empty: none of ours
  std::vector<std::pair<std::string, std::string>> facts;  // label and value, a line each
  std::vector<SafeTensor> tensors;                         // that it holds
  std::vector<std::string> problems;                       // what keeps it from being whole, a line each

  bool whole() const { return problems.empty(); }
};

// Recognizes by content: checkpoints, runs' output folders, Hugging Face models and their config.json, safetensors,
// token shards, tokenizers, networks, plans, run files, run descriptions, metrics, evaluations, traces. Reads
// all of it; what is wrong becomes a problem. Throws FileError if there is nothing at the path or it cannot be read.
Inspection inspect(const std::filesystem::path& path);

}  // namespace skippipe
