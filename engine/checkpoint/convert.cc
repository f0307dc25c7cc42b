#include "engine/checkpoint/convert.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/folder_writer.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "engine/model/model_config.h"
#include "engine/model/parameters.h"
#include "tokenizer/hugging_face_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferValues = 1 << 20;

const char* torch_name(SafeDtype dtype) {
  switch (dtype) {
    case SafeDtype::kF32:
      return "float32";
    case SafeDtype::kF16:
      return "float16";
    case SafeDtype::kBf16:
      return "bfloat16";
    default:
      throw ConfigError("weights as {}: expected F32, F16 or BF16", safe_dtype_name(dtype));
  }
}

uint64_t total_bytes(std::span<const SafeTensor> tensors) {
  uint64_t bytes = 0;
  for (const SafeTensor& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

void require_space(const fs::path& folder, uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < bytes)
    throw FileError("{}: {} bytes are free, {} are needed", folder.parent_path().string(), space.available, bytes);
}

// Hands tensors of a model to writers and counts.
class TensorStream {
 public:
  TensorStream(const ModelFiles& model, const ConvertProgress& progress, uint64_t total_bytes)
      : model_(model), progress_(progress), total_bytes_(total_bytes), buffer_(kBufferValues) {}

  // Calls write(values) with each piece of the tensor.
  template <typename Write>
  void copy(const SafeTensor& tensor, const Write& write) {
    std::string problem = model_.stream_f32(tensor, buffer_, [&](std::span<const float> values) {
      write(values);
      bytes_ += values.size() * static_cast<size_t>(safe_dtype_bytes(tensor.dtype));
      if (progress_) progress_(bytes_, total_bytes_);
    });
    if (!problem.empty()) problems_.push_back(std::move(problem));
  }

  // What is not finite, a line for each tensor.
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  const ModelFiles& model_;
  const ConvertProgress& progress_;
  uint64_t total_bytes_;
  uint64_t bytes_ = 0;
  std::vector<float> buffer_;
  std::vector<std::string> problems_;
};

struct Shard {
  std::string name;
  std::vector<SafeTensor> tensors;
};

std::vector<Shard> cut_into_shards(const std::vector<SafeTensor>& tensors, uint64_t max_bytes) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (const SafeTensor& tensor : tensors) {
    if (!shards.back().tensors.empty() && tensor.bytes() > max_bytes - std::min(bytes, max_bytes)) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(tensor);
    bytes += tensor.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i)
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05d}-of-{:05d}.safetensors", i + 1, shards.size());
  return shards;
}

std::string index_json(const std::vector<Shard>& shards, uint64_t bytes) {
  nlohmann::json weight_map;
  for (const Shard& shard : shards)
    for (const SafeTensor& tensor : shard.tensors) weight_map[tensor.name] = shard.name;
  const nlohmann::json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(weight_map)}};
  return index.dump(2) + "\n";
}

// A SentencePiece model that stands alone must be one, and fit; what comes with a tokenizer.json is transformers'
// matter.
void check_tokenizer(const CompanionFiles& companions, const ModelConfig& config) {
  const auto file = companions.find(kSentencePieceFile);
  if (file == companions.end() || companions.contains("tokenizer.json")) return;
  const std::string name = file->second.source.string();
  const Tokenizer tokenizer(file->second.content, name);
  if (tokenizer.vocabulary_size() > config.vocabulary)
    throw ConfigError("{}: a vocabulary of {}, but the model's is {}", name, tokenizer.vocabulary_size(),
                      config.vocabulary);
}

// The files that transformers wants of a SentencePiece model that stands alone. The configuration learns from it where
// texts begin and end, unless it knows.
void complete_tokenizer(CompanionFiles& companions, ModelConfig& config) {
  const auto file = companions.find(kSentencePieceFile);
  if (file == companions.end() || describes_tokens(companions)) return;
  const auto& [content, source] = file->second;
  const Tokenizer tokenizer(content, source.string());
  if (!config.bos_token_id && tokenizer.bos_id() >= 0) config.bos_token_id = tokenizer.bos_id();
  if (config.eos_token_ids.empty() && tokenizer.eos_id() >= 0) config.eos_token_ids = {tokenizer.eos_id()};
  try {
    for (auto& [name, text] : hugging_face_tokenizer(content, source.string()))
      companions.emplace(name, CompanionFile{std::move(text), source});
  } catch (const ConfigError& error) {
    throw ConfigError("{} (--tokenizer none converts without it)", error.what());
  }
}

std::string generation_config_json(const ModelConfig& config) {
  nlohmann::json document = {{"_from_model_config", true}};
  if (config.bos_token_id) document["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) document["eos_token_id"] = config.eos_token_ids.front();
  if (config.eos_token_ids.size() > 1) document["eos_token_id"] = config.eos_token_ids;
  return document.dump(2) + "\n";
}

void require_intact(const ModelFiles& model, const ConvertProgress& progress, uint64_t bytes) {
  model.require_whole();
  if (!model.manifest()) return;
  const auto still_here = [&] {
    if (progress) progress(0, bytes);
  };
  const std::vector<std::string> problems = checkpoint_problems(model.folder(), still_here);
  if (!problems.empty()) throw FileError(problems.front());
}

CheckpointManifest manifest_of(const ModelFiles& model, std::span<const int> layers_per_stage) {
  CheckpointManifest manifest = model.manifest().value_or(CheckpointManifest());
  const std::vector<int> cut(layers_per_stage.begin(), layers_per_stage.end());
  if (manifest.layers_per_stage != cut) manifest.replicas.clear();  // those of stages that are no more
  manifest.layers_per_stage = cut;
  return manifest;
}

// A model's folder and nothing else: no run, no project that has a config.json as well.
bool is_model(const fs::path& folder) {
  if (!is_checkpoint(folder) && !fs::exists(folder / "config.json")) return false;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory() && entry.path().filename() != kChatTemplatesFolder) return false;
  try {
    const ModelFiles model(folder);
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool is_nothing(const fs::path& path) {
  return !fs::exists(fs::symlink_status(path)) || (fs::is_directory(path) && fs::is_empty(path));
}

}  // namespace

std::vector<std::string> write_hugging_face_model(const fs::path& folder, const ModelFiles& model,
                                                  const HuggingFaceOutput& output, const ConvertProgress& progress) {
  ModelConfig config = model.config();
  CompanionFiles files = output.companions;
  check_tokenizer(files, config);
  complete_tokenizer(files, config);
  files["config.json"].content = model_config_json(config, torch_name(output.dtype));
  files.emplace(kGenerationConfigFile, CompanionFile{generation_config_json(config), {}});
  std::vector<SafeTensor> tensors = stage_tensors(config, {0, 0, static_cast<int>(config.layers)});
  for (SafeTensor& tensor : tensors) tensor.dtype = output.dtype;
  const uint64_t bytes = total_bytes(tensors);
  const std::vector<Shard> shards = cut_into_shards(tensors, output.max_shard_bytes);
  if (shards.size() > 1) files["model.safetensors.index.json"].content = index_json(shards, bytes);
  require_intact(model, progress, bytes);

  FolderWriter out(folder);
  require_space(out.folder().place, bytes);
  write_companions(out.folder(), files);
  TensorStream stream(model, progress, bytes);
  for (const Shard& shard : shards) {
    const std::map<std::string, std::string> metadata = {{"format", "pt"}};  // transformers asks for it
    SafetensorsWriter writer(out.folder() / shard.name, shard.tensors, metadata);
    for (const SafeTensor& tensor : shard.tensors)
      stream.copy(tensor, [&](std::span<const float> values) { writer.write(values); });
    writer.finish();
  }
  out.publish();
  return stream.problems();
}

std::vector<std::string> write_model_checkpoint(const fs::path& folder, const ModelFiles& model,
                                                std::span<const int> layers_per_stage, const CompanionFiles& companions,
                                                const ConvertProgress& progress) {
  const auto layouts = stage_layouts(model.config(), layers_per_stage);
  check_tokenizer(companions, model.config());
  const CheckpointManifest manifest = manifest_of(model, layers_per_stage);
  const uint64_t bytes =
      static_cast<uint64_t>(model.config().parameters()) * sizeof(float) * (manifest.optimizer ? 3 : 1);
  require_intact(model, progress, bytes);

  FolderWriter out(folder);
  require_space(out.folder().place, bytes);
  write_checkpoint_description(out.folder(), manifest, model.config(), companions);
  TensorStream stream(model, progress, bytes);
  for (const StageLayout& layout : layouts) {
    const std::vector<SafeTensor> weights = stage_tensors(model.config(), layout);
    CheckpointPartWriter writer(out.folder(), layout.index, weights, manifest.optimizer);
    for (const SafeTensor& tensor : weights)
      stream.copy(tensor, [&](std::span<const float> values) { writer.write_weights(values); });
    if (manifest.optimizer)
      for (const SafeTensor& tensor : moment_tensors(weights))
        stream.copy(tensor, [&](std::span<const float> values) { writer.write_moments(values); });
    writer.finish();
  }
  out.publish();
  return stream.problems();
}

std::vector<std::string> left_behind(const ModelFiles& model) {
  std::vector<std::string> names;
  if (model.manifest()) return names;  // nothing but a checkpoint's files are in its folder
  std::set<std::string> known = {"config.json", "model.safetensors.index.json"};
  for (const auto& file : model.files()) known.insert(file->path().filename().string());
  std::error_code error;
  for (fs::directory_iterator entry(model.folder(), error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with('.') && !known.contains(name) && !is_companion(name) && name != kChatTemplatesFolder)
      names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

void require_nothing_at(const fs::path& folder) {
  follow_links(folder);
  if (!is_nothing(folder)) throw FileError("{}: exists; --force replaces it if it is a model", folder.string());
}

void require_model_or_nothing_at(const fs::path& folder) {
  follow_links(folder);
  if (!is_nothing(folder) && !is_model(folder))
    throw FileError("{}: exists and is no model, so that --force does not replace it", folder.string());
}

}  // namespace skippipe
