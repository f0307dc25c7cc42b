#include "engine/checkpoint/model_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json_reader.h"
#include "engine/files/finite_check.h"
#include "engine/model/parameters.h"
#include "kernels/copy.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kRotaryBuffer[] = "rotary_emb.inv_freq";

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

// File name by tensor, as the index of a sharded model says.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json document = load_json(path);
  const JsonReader weight_map = JsonReader(document, path.string()).at("weight_map");
  std::map<std::string, std::string> file_of;
  for (const std::string& tensor : weight_map.keys()) {
    const JsonReader field = weight_map.at(tensor);
    const std::string name = field.as_string();
    if (name.empty() || name.starts_with('.') || fs::path(name).filename() != name)
      field.fail("the name of a file in the same folder");
    file_of.emplace(tensor, name);
  }
  if (file_of.empty()) weight_map.fail("at least one tensor");
  return file_of;
}

// The whole model's tensors as one stage has them; with the optimizer's state, their moments as well.
std::vector<SafeTensor> model_tensors(const ModelConfig& config, bool moments) {
  std::vector<SafeTensor> tensors = stage_tensors(config, {0, 0, static_cast<int>(config.layers)});
  if (!moments) return tensors;
  const std::vector<SafeTensor> others = moment_tensors(tensors);
  tensors.insert(tensors.end(), others.begin(), others.end());
  return tensors;
}

// The folder that a path given by a user stands for.
fs::path find_model(const fs::path& path) {
  const bool is_run = fs::is_directory(checkpoints_folder(path)) || fs::exists(path / "run.json");
  if (is_checkpoint(path) || !is_run) return path;
  std::string broken;
  const auto newest = newest_whole_checkpoint(path, [&](const fs::path&, const std::string& problem) {
    if (broken.empty()) broken = ": " + problem;
  });
  if (!newest) throw FileError("{}: no whole checkpoint{}", checkpoints_folder(path).string(), broken);
  return *newest;
}

}  // namespace

void write_checkpoint_part(const OutputPath& folder, int stage, std::span<const Parameter> parameters, bool optimizer) {
  std::vector<SafeTensor> weights;
  for (const Parameter& parameter : parameters)
    weights.push_back({parameter.name, SafeDtype::kF32, shape_of(parameter.weight)});
  CheckpointPartWriter writer(folder, stage, std::move(weights), optimizer);
  for (const Parameter& parameter : parameters) {
    writer.write_weights(values_of(parameter.weight));
    if (!optimizer) continue;
    writer.write_moments(values_of(parameter.first_moment));
    writer.write_moments(values_of(parameter.second_moment));
  }
  writer.finish();
}

std::string non_finite_state(std::span<const Parameter> parameters) {
  const auto problem_of = [](const std::string& name, const Tensor& tensor) {
    FiniteCheck check;
    check.look_at(values_of(tensor));
    return check.finite() ? "" : check.problem({name, SafeDtype::kF32, shape_of(tensor)});
  };
  for (const Parameter& parameter : parameters)
    for (const auto& [name, tensor] : {std::pair(parameter.name, parameter.weight),
                                       std::pair(first_moment_name(parameter.name), parameter.first_moment),
                                       std::pair(second_moment_name(parameter.name), parameter.second_moment)})
      if (std::string problem = problem_of(name, tensor); !problem.empty()) return problem;
  return {};
}

ModelFiles::ModelFiles(const fs::path& path, const fs::path& config_path)
    : folder_(find_model(path)),
      config_(load_model_config(config_path.empty() ? folder_ / "config.json" : config_path)) {
  if (!is_checkpoint(folder_)) {
    open_hugging_face();
    foreign_ = foreign_tensors();
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
  foreign_ = foreign_tensors();
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

void ModelFiles::open_hugging_face() {
  const fs::path single = folder_ / "model.safetensors", index = folder_ / "model.safetensors.index.json";
  if (fs::exists(single)) {
    open(single);
  } else if (fs::exists(index)) {
    const auto file_names = read_index(index);
    std::set<std::string> names;
    for (const auto& [tensor, name] : file_names) names.insert(name);
    for (const std::string& name : names) open(folder_ / name);
    check_index(index, file_names);
  } else {
    for (const fs::path& file : safetensors_in(folder_)) open(file);
  }
}

void ModelFiles::check_index(const fs::path& path, const std::map<std::string, std::string>& file_names) const {
  for (const auto& [tensor, name] : file_names) {
    const auto found = file_of_.find(tensor);
    if (found == file_of_.end() || found->second->path().filename() != name)
      throw FileError("{}: says that tensor '{}' is in {}, but it is not", path.string(), tensor, name);
  }
  for (const auto& [tensor, file] : file_of_)
    if (!file_names.contains(tensor))
      throw FileError("{}: does not say that tensor '{}' is in {}", path.string(), tensor, file->path().string());
}

const SafetensorsFile& ModelFiles::file_of(const std::string& name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end() && !missing_.empty())
    throw FileError("{}: {} not there, tensor '{}' is in none of the other files", folder_.string(),
                    fmt::join(missing_, ", "), name);
  if (found == file_of_.end())
    throw FileError("{}: tensor '{}' is in none of the {} files", folder_.string(), name, files_.size());
  return *found->second;
}

void ModelFiles::read(const std::string& name, const Tensor& tensor, Context& ctx) const {
  constexpr int64_t kPiece = 1 << 18;
  std::vector<float> piece(static_cast<size_t>(std::min(kPiece, tensor.elements())));
  const Tensor flat = tensor.reshape({tensor.elements()});
  int64_t done = 0;
  const SafeTensor stored = {name, SafeDtype::kF32, shape_of(tensor)};
  const std::string problem = stream_f32(stored, piece, [&](std::span<const float> values) {
    const auto count = static_cast<int64_t>(values.size());
    copy(ctx, flat.slice(0, done, count), host_tensor(values));
    finish(ctx);
    done += count;
  });
  if (!problem.empty()) throw FileError(problem);
}

bool ModelFiles::repeats_embedding(const std::string& name) const {
  if (!config_.tied_embeddings || name != kHead || !file_of_.contains(kEmbedding)) return false;
  const SafetensorsFile &file = file_of(name), &other = file_of(kEmbedding);
  return file.equal(static_cast<size_t>(file.find(name)), other, static_cast<size_t>(other.find(kEmbedding)));
}

std::vector<std::string> ModelFiles::foreign_tensors() const {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const SafeTensor& tensor : model_tensors(config_, manifest_ && manifest_->optimizer)) known.insert(tensor.name);
  for (const auto& [name, file] : file_of_) {
    if (known.contains(name) || name.ends_with(kRotaryBuffer) || repeats_embedding(name)) continue;
    problems.push_back(
        fmt::format("{}: tensor '{}' is none of a Llama model of this configuration (biases and adapters are not "
                    "supported)",
                    file->path().string(), name));
  }
  return problems;
}

std::vector<std::string> ModelFiles::problems() const {
  std::vector<std::string> problems;
  for (const SafeTensor& tensor : model_tensors(config_, manifest_ && manifest_->optimizer)) {
    try {
      file_of(tensor.name).require(tensor.name, tensor.shape);
    } catch (const FileError& error) {
      problems.emplace_back(error.what());
    }
  }
  problems.insert(problems.end(), foreign_.begin(), foreign_.end());
  return problems;
}

// Of a checkpoint, the files that hold the tensors: as when they were written.
void ModelFiles::require_intact(const std::set<std::string>& tensors) const {
  if (!manifest_) return;
  for (int stage = 0; stage < manifest_->stages(); ++stage) {
    for (const std::string& name : {stage_weights_file(stage), stage_optimizer_file(stage)}) {
      const auto holds = [&](const std::string& tensor) { return file_of(tensor).path().filename() == name; };
      if (std::ranges::none_of(tensors, holds)) continue;
      const std::vector<CheckpointFile> files = load_checkpoint_part(folder_, stage);
      const auto file = std::ranges::find(files, name, &CheckpointFile::name);
      if (file == files.end()) throw FileError("{}: the part of stage {} does not list it", name, stage);
      if (const std::string problem = file_problem(folder_, *file); !problem.empty()) throw FileError(problem);
    }
  }
}

void ModelFiles::require_whole() const {
  const std::vector<std::string> found = problems();
  if (found.size() > 1) throw FileError("{} (and {} more such problems)", found.front(), found.size() - 1);
  if (!found.empty()) throw FileError(found.front());
}

std::string ModelFiles::stream_f32(const SafeTensor& tensor, std::span<float> buffer,
                                   const std::function<void(std::span<const float>)>& sink) const {
  const SafetensorsFile& file = file_of(tensor.name);
  FiniteCheck check;
  file.stream_f32(tensor.name, tensor.shape, buffer, [&](std::span<const float> values) {
    check.look_at(values);
    sink(values);
  });
  return check.finite() ? "" : fmt::format("{}: {}", file.path().string(), check.problem(tensor));
}

void ModelFiles::load(std::span<const Parameter> parameters, Context& ctx) const {
  if (!foreign_.empty()) throw FileError(foreign_.front());
  std::set<std::string> names;
  for (const Parameter& parameter : parameters) names.insert(parameter.name);
  require_intact(names);
  for (const Parameter& parameter : parameters) read(parameter.name, parameter.weight, ctx);
}

void ModelFiles::load_training_state(std::span<const Parameter> parameters, Context& ctx) const {
  load(parameters, ctx);
  std::set<std::string> names;
  for (const Parameter& parameter : parameters)
    names.insert({first_moment_name(parameter.name), second_moment_name(parameter.name)});
  require_intact(names);
  for (const Parameter& parameter : parameters) {
    read(first_moment_name(parameter.name), parameter.first_moment, ctx);
    read(second_moment_name(parameter.name), parameter.second_moment, ctx);
  }
}

}  // namespace skippipe
