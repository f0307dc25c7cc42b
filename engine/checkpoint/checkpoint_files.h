// Checkpoints: the state of a run, or a converted model, in a folder.
//
//   manifest.json             {"format": "skippipe-checkpoint", "version": 1, "iteration": 20,
//                              "layers_per_stage": [2, 2, 3], "optimizer": true,
//                              "replicas": [2, 2, 1], "microbatches": 12, "samples": 960,
//                              "run": {"run.seed": "1", ...}, "contents": {"plan.file": "0123456789abcdef", ...},
//                              "files": [{"name": "config.json", "bytes": 812, "xxh3": "0123456789abcdef"}, ...]}
//   config.json               the model's shape, as Hugging Face writes it
//   tokenizer.model, tokenizer.json, tokenizer_config.json, generation_config.json, ...
//                             what came with the model and its tokenizer, as it was (companion_files.h), chat templates
//                             in additional_chat_templates/ among them; listed in "files" as config.json is
//   stage-00.safetensors ...  the weights of each stage, f32, under Hugging Face names; together the whole model
//   optimizer-00.safetensors  AdamW's moments, f32: NAME.first_moment and NAME.second_moment of every weight
//   stage-00.json ...         {"format": "skippipe-checkpoint-part", "version": 1, "stage": 0, "files": [...]}: the two
//                             files above
//
// "iteration" counts the optimizer steps done, "samples" those of the data that they have read
// (engine/files/sampler.h), the position from which a resumed run goes on; a checkpoint without has read as many as its
// iterations, microbatches and data.samples make. "replicas", "microbatches", "run" and "contents" tell of the run that
// wrote it, so that a resumed one can say what changed; a converted model has none. The learning rate is a function of
// the iteration. "xxh3" is XXH3 (64 bits) of a file's bytes.
//
// A stage's part is written by one node; machines that share no folder have each only the parts of their own nodes.
// All of it is written in a folder of another name (partial_checkpoint), which becomes the checkpoint by renaming.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/companion_files.h"
#include "engine/files/safetensors.h"
#include "engine/model/model_config.h"

namespace skippipe {

struct CheckpointFile {
  std::string name;
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};

struct CheckpointManifest {
  uint32_t iteration = 0;  // optimizer steps done
  std::vector<int> layers_per_stage;
  bool optimizer = false;                       // the moments are there
  std::vector<int> replicas;                    // nodes of each stage; empty if no run wrote it
  int64_t microbatches = 0;                     // of an iteration; 0 if no run wrote it
  std::optional<uint64_t> samples;              // of the data, read so far; none if no run wrote it, or an old one
  std::map<std::string, std::string> run;       // the run file's fields as TOML literals; empty if no run wrote it
  std::map<std::string, std::string> contents;  // of files that the run file names, by field: a checksum
  std::vector<CheckpointFile> files;            // those that belong to no stage; set by the functions below

  int stages() const { return static_cast<int>(layers_per_stage.size()); }
};

// Where a run with this output folder keeps its checkpoints, and the name of one there: "iteration-00000020".
std::filesystem::path checkpoints_folder(const std::filesystem::path& run_output);
std::string checkpoint_name(uint32_t iteration);
// The name under which it is written: not that of a checkpoint.
std::filesystem::path partial_checkpoint(const std::filesystem::path& checkpoint);

std::string stage_weights_file(int stage);    // "stage-00.safetensors"
std::string stage_optimizer_file(int stage);  // "optimizer-00.safetensors"
std::string first_moment_name(const std::string& weight);
std::string second_moment_name(const std::string& weight);
// Both moments of each weight, in the order of the weights, as the optimizer's file holds them.
std::vector<SafeTensor> moment_tensors(std::span<const SafeTensor> weights);

// Writes manifest.json, config.json and the companions; creates the folder. Several nodes may write the same. Throws
// FileError.
void write_checkpoint_description(const OutputPath& folder, CheckpointManifest manifest, const ModelConfig& config,
                                  const CompanionFiles& companions);

// Writes a stage's part, tensor by tensor: all weights in their order, then, with the optimizer's state, both moments
// of each weight in that order. Nothing stays without finish(). One thread. Throws FileError.
class CheckpointPartWriter {
 public:
  // `weights`: names and shapes; dtypes are ignored.
  CheckpointPartWriter(const OutputPath& folder, int stage, std::vector<SafeTensor> weights, bool optimizer);

  // The next values, in pieces of any size that ends with a tensor or before.
  void write_weights(std::span<const float> values);
  void write_moments(std::span<const float> values);
  void finish();

 private:
  OutputPath folder_;
  int stage_;
  std::unique_ptr<SafetensorsWriter> weights_;
  std::unique_ptr<SafetensorsWriter> moments_;  // null without
};

// Removes what is no file of the checkpoint (left by a write that was killed), syncs the folder and renames it; what
// has the checkpoint's name already is replaced. No error if another node has published it. Throws FileError.
void publish_checkpoint(const std::filesystem::path& partial, const std::filesystem::path& checkpoint);
// A reader never sees half of a checkpoint, also when it goes. No error if it can't be removed.
void remove_checkpoint(const std::filesystem::path& checkpoint);
// What removals that were killed have left.
void finish_removals(const std::filesystem::path& folder);

bool is_checkpoint(const std::filesystem::path& folder);  // it has a manifest.json
// Throws FileError naming the field, what was found and what was expected.
CheckpointManifest load_checkpoint_manifest(const std::filesystem::path& folder);
// Throws FileError unless the file is the JSON of a checkpoint or of a part of one, whatever its name.
void check_checkpoint_json(const std::filesystem::path& path);
// The files of a stage's part. Throws FileError.
std::vector<CheckpointFile> load_checkpoint_part(const std::filesystem::path& folder, int stage);
// What is wrong with one of the files: it is missing, of another size or has other content; empty: nothing. Reads it.
std::string file_problem(const std::filesystem::path& folder, const CheckpointFile& file,
                         const std::function<void()>& poll = {});
// What keeps a checkpoint from being whole, a line each. Reads every file. `poll` is called every MiB and may throw.
std::vector<std::string> checkpoint_problems(const std::filesystem::path& folder,
                                             const std::function<void()>& poll = {});

// The same as far as it can be seen without reading what the files hold: they are missing or of another size.
std::vector<std::string> missing_parts(const std::filesystem::path& folder);

// The iterations of the checkpoints in a folder, ascending. Nothing but their names is looked at.
std::vector<uint32_t> list_checkpoints(const std::filesystem::path& folder);
std::vector<uint32_t> list_partial_checkpoints(const std::filesystem::path& folder);
// The newest one without problems in a run's output folder. `on_broken` is told of those that are passed over.
std::optional<std::filesystem::path> newest_whole_checkpoint(
    const std::filesystem::path& run_output,
    const std::function<void(const std::filesystem::path& checkpoint, const std::string& problem)>& on_broken = {});

}  // namespace skippipe
