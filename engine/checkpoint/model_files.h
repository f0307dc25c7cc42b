// Models in folders, in any of the forms that the verbs take:
//
// - a checkpoint (checkpoint_files.h);
// - a run's output folder, which stands for its newest whole checkpoint;
// - a Hugging Face model: config.json and the weights in model.safetensors, in the files that
//   model.safetensors.index.json names, or else in all *.safetensors there are.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint_files.h"
#include "engine/files/safetensors.h"
#include "engine/model/model_config.h"
#include "engine/model/stage.h"

namespace skippipe {

// Writes a stage's part of a checkpoint from memory of the host: the weights, with the optimizer's state the moments as
// well. Throws FileError.
void write_checkpoint_part(const OutputPath& folder, int stage, std::span<const Parameter> parameters, bool optimizer);

// What a checkpoint of these parameters could not be resumed from, in memory of the host: the first weight or moment
// that has values that are not finite; empty: none.
std::string non_finite_state(std::span<const Parameter> parameters);

// The model of a folder, memory-mapped. Immutable, so any thread may use it.
class ModelFiles {
 public:
  // config_path: where a Hugging Face model's config.json is if not in the folder. Throws FileError (no model there, a
  // bad file, a tensor in two files), ConfigError. Parts of a checkpoint may be missing, until they are asked for.
  explicit ModelFiles(const std::filesystem::path& path, const std::filesystem::path& config_path = {});

  // The checkpoint or the Hugging Face model.
  const std::filesystem::path& folder() const { return folder_; }
  const ModelConfig& config() const { return config_; }
  // Of a checkpoint.
  const std::optional<CheckpointManifest>& manifest() const { return manifest_; }
  // The folder's tokenizer.model, if there is one.
  std::optional<std::filesystem::path> tokenizer() const;

  // What keeps this from being a whole model of its configuration, a line each: tensors that are missing, of another
  // shape or of no floating-point dtype, and those that such a model does not have (biases, adapters). Buffers that
  // older versions of transformers stored, and an LM head that repeats the embedding it is tied to, are no problem.
  std::vector<std::string> problems() const;
  // Throws FileError with the first of them.
  void require_whole() const;

  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  // Reads a tensor piece by piece, see SafetensorsFile::stream_f32. Returns what is wrong with its values
  // (FiniteCheck), naming the file; empty: all are finite.
  [[nodiscard]] std::string stream_f32(const SafeTensor& tensor, std::span<float> buffer,
                                       const std::function<void(std::span<const float>)>& sink) const;

  // Reads the weights of a stage's parameters, F32, F16 or BF16, to where they lie; waits for ctx's stream. Throws
  // FileError naming file, tensor, what was found and expected; also where a file of a checkpoint has changed, the
  // model has tensors that this one would ignore, or a weight is not finite.
  void load(std::span<const Parameter> parameters, Context& ctx) const;
  // Reads the moments, too; of a checkpoint with the optimizer's state.
  void load_training_state(std::span<const Parameter> parameters, Context& ctx) const;

 private:
  void open(const std::filesystem::path& path);
  void open_hugging_face();
  void check_index(const std::filesystem::path& path, const std::map<std::string, std::string>& file_names) const;
  const SafetensorsFile& file_of(const std::string& name) const;
  void read(const std::string& name, const Tensor& tensor, Context& ctx) const;
  bool repeats_embedding(const std::string& name) const;
  std::vector<std::string> foreign_tensors() const;
  void require_intact(const std::set<std::string>& tensors) const;

  std::filesystem::path folder_;
  ModelConfig config_;
  std::optional<CheckpointManifest> manifest_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> file_of_;
  std::vector<std::string> missing_;  // files of the checkpoint that are not there
  std::vector<std::string> foreign_;  // tensors that such a model does not have, a problem each
};

}  // namespace skippipe
