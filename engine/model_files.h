// A model in a folder, as a run leaves it at its end:
//
//   config.json              the model's shape, as Hugging Face writes it
//   stage-00.safetensors ... the weights of each stage, f32, under Hugging Face names; together the whole model
//   stages.json              {"format": "skippipe-stages", "version": 1, "layers_per_stage": [2, 2, 3]}
//
// A Hugging Face model folder (config.json and *.safetensors) is read as well: the weights may be cut in any way.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/safetensors.h"
#include "engine/stage.h"

namespace skippipe {

// Where a run with this output folder leaves its model.
std::filesystem::path model_folder(const std::filesystem::path& run_output);

// Writes stage-NN.safetensors into the folder, creating it. One node of each stage calls it. Throws FileError.
void write_stage_weights(const std::filesystem::path& folder, const Stage& stage);
// Writes config.json and stages.json into the folder, creating it. One node of the run calls it. Throws FileError.
void write_model_description(const std::filesystem::path& folder, const ModelConfig& config,
                             const std::vector<int>& layers_per_stage);

// The model of a folder, memory-mapped. Immutable, so any thread may use it.
class ModelFiles {
 public:
  // config_path: where config.json is if not in the folder. Throws FileError (no safetensors, a bad file, a tensor in
  // two files), ConfigError.
  explicit ModelFiles(const std::filesystem::path& folder, const std::filesystem::path& config_path = {});

  const ModelConfig& config() const { return config_; }
  // How the run had cut the model, if stages.json says so.
  const std::optional<std::vector<int>>& layers_per_stage() const { return layers_per_stage_; }
  // Reads the weights of a stage, F32, F16 or BF16. Throws FileError naming file, tensor, what was found and expected.
  void load(Stage& stage) const;

 private:
  std::filesystem::path folder_;
  ModelConfig config_;
  std::optional<std::vector<int>> layers_per_stage_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> file_of_;
};

}  // namespace skippipe
