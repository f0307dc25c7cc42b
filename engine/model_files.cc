#include "engine/model_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

constexpr char kConfigFile[] = "config.json";
constexpr char kStagesFile[] = "stages.json";
constexpr char kStagesFormat[] = "skippipe-stages";
constexpr int64_t kStagesVersion = 1;

void create_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError("{}: cannot create: {}", folder.string(), error.message());
}

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

std::vector<std::filesystem::path> safetensors_in(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  if (error) throw FileError("{}: cannot list: {}", folder.string(), error.message());
  if (paths.empty()) throw FileError("{}: no *.safetensors file", folder.string());
  std::ranges::sort(paths);
  return paths;
}

std::string stage_file(int stage) { return fmt::format("stage-{:02d}.safetensors", stage); }

// Others may lie there from an earlier run that had more stages.
std::vector<std::filesystem::path> stage_files(const std::filesystem::path& folder, size_t stages) {
  std::vector<std::filesystem::path> paths;
  for (size_t stage = 0; stage < stages; ++stage) paths.push_back(folder / stage_file(static_cast<int>(stage)));
  return paths;
}

std::vector<int> read_layers_per_stage(const std::filesystem::path& path, int64_t layers) {
  const nlohmann::json document = load_json(path, 1 << 20);
  const JsonReader root(document, path.string());
  const JsonReader format = root.at("format");
  if (format.as_string() != kStagesFormat) format.fail(kStagesFormat);
  root.at("version").as_int(kStagesVersion, kStagesVersion);
  const JsonReader field = root.at("layers_per_stage");
  std::vector<int> result;
  int64_t sum = 0;
  for (const JsonReader& item : field.items()) {
    result.push_back(static_cast<int>(item.as_int(0, layers)));
    sum += result.back();
  }
  if (sum != layers) field.fail(fmt::format("{} layers in all, as {} says", layers, kConfigFile));
  return result;
}

}  // namespace

std::filesystem::path model_folder(const std::filesystem::path& run_output) { return run_output / "model"; }

void write_stage_weights(const std::filesystem::path& folder, const Stage& stage) {
  create_folder(folder);
  std::vector<SafeTensor> tensors;
  for (const Parameter& parameter : stage.parameters())
    tensors.push_back({parameter.name, SafeDtype::kF32, shape_of(parameter.weight)});
  SafetensorsWriter writer(folder / stage_file(stage.layout().index), std::move(tensors), {{"format", "pt"}});
  for (const Parameter& parameter : stage.parameters()) writer.write(values_of(parameter.weight));
  writer.finish();
}

void write_model_description(const std::filesystem::path& folder, const ModelConfig& config,
                             const std::vector<int>& layers_per_stage) {
  create_folder(folder);
  save_model_config(folder / kConfigFile, config);
  const nlohmann::ordered_json stages = {
      {"format", kStagesFormat}, {"version", kStagesVersion}, {"layers_per_stage", layers_per_stage}};
  write_file_atomically(folder / kStagesFile, stages.dump(2) + "\n");
}

ModelFiles::ModelFiles(const std::filesystem::path& folder, const std::filesystem::path& config_path)
    : folder_(folder), config_(load_model_config(config_path.empty() ? folder / kConfigFile : config_path)) {
  if (std::filesystem::exists(folder / kStagesFile))
    layers_per_stage_ = read_layers_per_stage(folder / kStagesFile, config_.layers);
  const auto paths = layers_per_stage_ ? stage_files(folder, layers_per_stage_->size()) : safetensors_in(folder);
  for (const auto& path : paths) {
    const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(path));
    for (const SafeTensor& tensor : file->tensors()) {
      const auto [entry, inserted] = file_of_.emplace(tensor.name, file.get());
      if (!inserted)
        throw FileError("{}: tensor '{}' is in {}, too", path.string(), tensor.name, entry->second->path().string());
    }
  }
}

void ModelFiles::load(Stage& stage) const {
  for (const Parameter& parameter : stage.parameters()) {
    const auto found = file_of_.find(parameter.name);
    if (found == file_of_.end())
      throw FileError("{}: tensor '{}' is in none of the {} files", folder_.string(), parameter.name, files_.size());
    found->second->read_f32(parameter.name, shape_of(parameter.weight), values_of(parameter.weight));
  }
}

}  // namespace skippipe
