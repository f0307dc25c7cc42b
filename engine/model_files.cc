#include "engine/model_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int i = 0; i < tensor.rank(); ++i) shape.push_back(tensor.dim(i));
  return shape;
}

std::span<float> values_of(const Tensor& tensor) {
  SKP_CHECK(tensor.dtype() == Dtype::kF32 && tensor.device() == Device::kCpu && tensor.is_contiguous(),
            "weights are f32 on the host");
  return {tensor.as<float>(), static_cast<size_t>(tensor.elements())};
}

std::vector<fs::path> safetensors_in(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  if (error) throw FileError("{}: cannot list: {}", folder.string(), error.message());
  if (paths.empty()) throw FileError("{}: no *.safetensors file", folder.string());
  std::ranges::sort(paths);
  return paths;
}

// The folder that a path given by a user stands for.
fs::path find_model(const fs::path& path) {
  if (is_checkpoint(path) || !fs::is_directory(checkpoints_folder(path))) return path;
  std::string broken;
  const auto newest = newest_whole_checkpoint(path, [&](const fs::path&, const std::string& problem) {
    if (broken.empty()) broken = ": " + problem;
  });
  if (!newest) throw FileError("{}: no whole checkpoint{}", checkpoints_folder(path).string(), broken);
  return *newest;
}

}  // namespace

void write_checkpoint_part(const fs::path& folder, int stage, std::span<const Parameter> parameters, bool optimizer) {
  std::vector<SafeTensor> weights;
  for (const Parameter& parameter : parameters)
    weights.push_back({parameter.name, SafeDtype::kF32, shape_of(parameter.weight)});
  CheckpointPartWriter writer(folder, stage, std::move(weights), optimizer);
  for (const Parameter& parameter : parameters) {
    writer.write_weight(values_of(parameter.weight));
    if (optimizer) writer.write_moments(values_of(parameter.first_moment), values_of(parameter.second_moment));
  }
  writer.finish();
}

ModelFiles::ModelFiles(const fs::path& path, const fs::path& config_path)
    : folder_(find_model(path)),
      config_(load_model_config(config_path.empty() ? folder_ / "config.json" : config_path)) {
  if (!is_checkpoint(folder_)) {
    for (const fs::path& file : safetensors_in(folder_)) open(file);
    return;
  }
  manifest_ = load_checkpoint_manifest(folder_);
  if (std::accumulate(manifest_->layers_per_stage.begin(), manifest_->layers_per_stage.end(), int64_t{0}) !=
      config_.layers)
    throw FileError("{}: manifest.json has {} layers in its stages, expected {} as config.json says", folder_.string(),
                    fmt::join(manifest_->layers_per_stage, " + "), config_.layers);
  std::vector<std::string> names;
  for (int stage = 0; stage < manifest_->stages(); ++stage) {
    names.push_back(stage_weights_file(stage));
    if (manifest_->optimizer) names.push_back(stage_optimizer_file(stage));
  }
  for (const std::string& name : names) {
    if (fs::exists(folder_ / name))
      open(folder_ / name);
    else
      missing_.push_back(name);
  }
}

std::optional<fs::path> ModelFiles::tokenizer() const {
  const fs::path path = folder_ / "tokenizer.model";
  return fs::exists(path) ? std::optional(path) : std::nullopt;
}

void ModelFiles::open(const fs::path& path) {
  const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(path));
  for (const SafeTensor& tensor : file->tensors()) {
    const auto [entry, inserted] = file_of_.emplace(tensor.name, file.get());
    if (!inserted)
      throw FileError("{}: tensor '{}' is in {}, too", path.string(), tensor.name, entry->second->path().string());
  }
}

void ModelFiles::read(const std::string& name, const Tensor& tensor) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end() && !missing_.empty())
    throw FileError("{}: {} not there, tensor '{}' is in none of the other files", folder_.string(),
                    fmt::join(missing_, ", "), name);
  if (found == file_of_.end())
    throw FileError("{}: tensor '{}' is in none of the {} files", folder_.string(), name, files_.size());
  found->second->read_f32(name, shape_of(tensor), values_of(tensor));
}

void ModelFiles::load(std::span<const Parameter> parameters) const {
  for (const Parameter& parameter : parameters) read(parameter.name, parameter.weight);
}

void ModelFiles::load_training_state(std::span<const Parameter> parameters) const {
  load(parameters);
  for (const Parameter& parameter : parameters) {
    read(first_moment_name(parameter.name), parameter.first_moment);
    read(second_moment_name(parameter.name), parameter.second_moment);
  }
}

}  // namespace skippipe
