#include "engine/run/inspect.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/file_kind.h"
#include "base/json_reader.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "engine/checkpoint/companion_files.h"
#include "engine/checkpoint/model_files.h"
#include "engine/files/finite_check.h"
#include "engine/files/token_shards.h"
#include "engine/files/tokenize_text.h"
#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/run/run_description.h"
#include "engine/run/run_file.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

// Traces are the largest of our text files.
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

void add(Inspection& result, const char* label, std::string value) {
  result.facts.emplace_back(label, std::move(value));
}

// Each look_at_ function fills in what it finds; what it throws becomes a problem.

void add_shape(Inspection& result, const ModelConfig& config) {
  add(result, "model",
      fmt::format("Llama, {:.4g} million parameters: {} layers, {} channels, {} heads ({} for keys), vocabulary {}{}",
                  static_cast<double>(config.parameters()) / 1e6, config.layers, config.channels, config.heads,
                  config.kv_heads, config.vocabulary, config.tied_embeddings ? ", tied embeddings" : ""));
}

void add_tensors(Inspection& result, const ModelFiles& model) {
  int64_t bytes = 0;
  for (const auto& file : model.files()) {
    result.tensors.insert(result.tensors.end(), file->tensors().begin(), file->tensors().end());
    for (const SafeTensor& tensor : file->tensors()) bytes += static_cast<int64_t>(tensor.bytes());
  }
  add(result, "tensors",
      fmt::format("{} in {} files, {}", result.tensors.size(), model.files().size(), human_bytes(bytes)));
}

// The files that came with the model.
void add_tokenizer(Inspection& result, const fs::path& folder) {
  const CompanionFiles files = read_companions(folder);
  add(result, "tokenizer", has_tokenizer(files) ? fmt::format("{}", fmt::join(companion_names(files), ", ")) : "none");
}

void add_problems_of_values(Inspection& result, const SafetensorsFile& file) {
  const std::vector<std::string> problems = non_finite_tensors(file);
  result.problems.insert(result.problems.end(), problems.begin(), problems.end());
}

void look_at_weights(Inspection& result, const ModelFiles& model) {
  result.problems = model.problems();
  for (const auto& file : model.files()) add_problems_of_values(result, *file);
}

void look_at_checkpoint(Inspection& result, const fs::path& path) {
  result.problems = checkpoint_problems(path);
  const CheckpointManifest manifest = load_checkpoint_manifest(path);
  add(result, "iteration", fmt::format("{}", manifest.iteration));
  add(result, "stages",
      fmt::format("{} with {} layers", manifest.stages(), fmt::join(manifest.layers_per_stage, " + ")));
  add(result, "optimizer", manifest.optimizer ? "with its state" : "without its state");
  const ModelFiles model(path);
  add_shape(result, model.config());
  add_tensors(result, model);
  add_tokenizer(result, model.folder());
  if (result.whole()) look_at_weights(result, model);
}

void look_at_hugging_face_model(Inspection& result, const fs::path& path) {
  const ModelFiles model(path);
  add_shape(result, model.config());
  add_tensors(result, model);
  add_tokenizer(result, path);
  look_at_weights(result, model);
}

// Something in a folder, if it is there.
void look_at_part(Inspection& result, const fs::path& folder, const fs::path& part) {
  if (!fs::exists(folder / part)) return;
  const Inspection found = inspect(folder / part);
  add(result, found.whole() ? "whole" : "not whole", fmt::format("{} ({})", part.string(), found.kind));
  result.problems.insert(result.problems.end(), found.problems.begin(), found.problems.end());
}

void look_at_run_folder(Inspection& result, const fs::path& path) {
  for (const char* name : {"run.json", "metrics.jsonl", "evaluation.json"}) look_at_part(result, path, name);
  const std::vector<uint32_t> checkpoints = list_checkpoints(checkpoints_folder(path));
  if (checkpoints.empty()) add(result, "checkpoint", "none yet: nothing to resume from, to evaluate or to convert");
  for (const uint32_t iteration : checkpoints)
    look_at_part(result, path, fs::path("checkpoints") / checkpoint_name(iteration));
  std::error_code no_traces;
  for (const auto& entry : fs::directory_iterator(path / "trace", no_traces))
    look_at_part(result, path, fs::path("trace") / entry.path().filename());
}

void look_at_safetensors(Inspection& result, const fs::path& path) {
  const SafetensorsFile file(path);
  result.tensors = file.tensors();
  for (const auto& [key, value] : file.metadata()) add(result, "metadata", fmt::format("{}: {}", key, value));
  add(result, "tensors", fmt::format("{}", file.tensors().size()));
  add_problems_of_values(result, file);
}

void look_at_token_shard(Inspection& result, const fs::path& path) {
  const TokenShard shard(path);
  const TokenShardInfo& info = shard.info();
  add(result, "tokens", fmt::format("{} of {} bytes", info.tokens, info.token_bytes));
  add(result, "documents", fmt::format("{}", info.documents));
  add(result, "vocabulary", fmt::format("{}", info.vocabulary));
  add(result, "tokenizer", fmt::format("{:016x}", info.tokenizer_fingerprint));
  std::vector<int32_t> tokens(1 << 20);
  for (uint64_t begin = 0; begin < info.tokens; begin += tokens.size())
    shard.read(begin, std::span(tokens).first(std::min<uint64_t>(tokens.size(), info.tokens - begin)));
  for (uint64_t document = 0; document < info.documents; ++document) shard.document_begin(document);
}

void look_at_tokenizer(Inspection& result, const fs::path& path) {
  const Tokenizer tokenizer(path);
  add(result, "vocabulary", fmt::format("{}", tokenizer.vocabulary_size()));
  add(result, "BOS, EOS", fmt::format("{}, {}", tokenizer.bos_id(), tokenizer.eos_id()));
  add(result, "fingerprint", fmt::format("{:016x}", tokenizer.fingerprint()));
}

void look_at_tokens_folder(Inspection& result, const fs::path& path) {
  for (const char* shard : {kTrainShard, kValidationShard}) look_at_part(result, path, shard);
}

void look_at_tokenizer_folder(Inspection& result, const fs::path& path) {
  add_tokenizer(result, path);
  if (fs::exists(path / kSentencePieceFile)) look_at_tokenizer(result, path / kSentencePieceFile);
}

void look_at_hugging_face_tokenizer(Inspection& result, const fs::path& path) {
  const nlohmann::json document = load_json(path, kMaxTextBytes);
  const JsonReader vocabulary = JsonReader(document, path.string()).at("model").at("vocab");
  add(result, "vocabulary", fmt::format("{}", vocabulary.value().size()));
}

void look_at_config(Inspection& result, const fs::path& path) { add_shape(result, load_model_config(path)); }

void look_at_network(Inspection& result, const fs::path& path) {
  const Network network = load_network(path);
  add(result, "nodes", fmt::format("{}", network.size()));
  const auto unmeasured = std::ranges::count(network.nodes, 0.0, &NetworkNode::forward_s);
  if (unmeasured > 0) add(result, "not measured", fmt::format("{} nodes", unmeasured));
}

void look_at_plan(Inspection& result, const fs::path& path) {
  const Plan plan = load_plan(path);
  add(result, "method", plan.method);
  add(result, "nodes", fmt::format("{} in {} stages", plan.node_count(), plan.stage_count()));
  add(result, "microbatches", fmt::format("{}", plan.microbatches.size()));
  add(result, "planned",
      fmt::format("{:.4g} s per iteration of a long run, {:.4g} s for one by itself", plan.predicted.steady_iteration_s,
                  plan.predicted.iteration_s));
  const fs::path network = path.parent_path() / plan.network;
  const bool has_network = !plan.network.empty() && fs::exists(network);
  add(result, "network", has_network ? plan.network : plan.network + " (not there: the plan is checked by itself)");
  for (const Violation& violation : has_network ? validate(plan, load_network(network)) : validate(plan))
    result.problems.push_back(fmt::format("{} {}: {}", path.string(), broken(violation.rule), violation.what));
}

void look_at_run_file(Inspection& result, const fs::path& path) {
  for (const auto& [field, value] : run_file_values(load_run_file(path))) add(result, field.c_str(), value);
}

void look_at_evaluation(Inspection& result, const fs::path& path) {
  const nlohmann::json document = load_json(path);
  const JsonReader root(document, path.string());
  add(result, "tokens", fmt::format("{}", root.at("predicted_tokens").as_int(0)));
  for (const JsonReader& item : root.at("results").items())
    add(result, "perplexity",
        fmt::format("{:.4g}, {}", item.at("perplexity").as_double(0), item.at("label").as_string()));
}

void look_at_description(Inspection& result, const fs::path& path) {
  add(result, "run", load_run_description_file(path).run_id);
}

void look_at_manifest(Inspection& result, const fs::path& path) {
  add(result, "folder", "inspect it to see whether the checkpoint is whole");
  check_checkpoint_json(path);
}

void look_at_index(Inspection& result, const fs::path& path) {
  add(result, "folder", "inspect it to see whether the model is whole");
  const nlohmann::json document = load_json(path);
  add(result, "tensors", fmt::format("{}", JsonReader(document, path.string()).at("weight_map").keys().size()));
}

void look_at_trace(Inspection& result, const fs::path& path) {
  const nlohmann::json document = load_json(path, kMaxTextBytes);
  const JsonReader root(document, path.string());
  const auto events = root.at("traceEvents").items();
  add(result, "events", fmt::format("{}", events.size()));
  for (const JsonReader& event : events) event.at("ph").as_string();
}

// JSON that is none, or of no kind that is known.
void look_at_json(Inspection&, const fs::path& path) {
  const nlohmann::json document = load_json(path, kMaxTextBytes);
  const JsonReader root(document, path.string());
  const auto format = root.find("format");
  throw FileError("{}: no file of skippipe or a Hugging Face model: found JSON {}", path.string(),
                  format ? "whose format is " + format->found() : "that has no format");
}

void look_at_metrics(Inspection& result, const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  int64_t lines = 0, last = -1;
  double first_loss = 0, loss = 0;
  while (std::getline(file, line)) {
    const std::string where = fmt::format("{}:{}", path.string(), ++lines);
    if (file.eof()) throw FileError("{}: the line is not complete", where);
    const nlohmann::json document = parse_json(line, where);
    const JsonReader root(document, where);
    last = root.at("iteration").as_int(last + 1);
    loss = root.at("loss").as_double();
    if (lines == 1) first_loss = loss;
  }
  add(result, "iterations", lines > 0 ? fmt::format("{}, of {} that the run has done", lines, last + 1) : "none yet");
  if (lines == 0) return;
  add(result, "loss", fmt::format("{:.4f} to {:.4f}", first_loss, loss));
}

struct Kind {
  const char* name;
  void (*look)(Inspection& result, const fs::path& path);
};
constexpr Kind kCheckpoint = {"checkpoint", look_at_checkpoint};
constexpr Kind kRunFolder = {"output folder of a run", look_at_run_folder};
constexpr Kind kHuggingFaceModel = {"Hugging Face model", look_at_hugging_face_model};
constexpr Kind kSafetensors = {"safetensors", look_at_safetensors};
constexpr Kind kTokenShard = {"token shard", look_at_token_shard};
constexpr Kind kTokenizer = {"SentencePiece model", look_at_tokenizer};
constexpr Kind kTokensFolder = {"folder of token shards", look_at_tokens_folder};
constexpr Kind kTokenizerFolder = {"folder of a tokenizer", look_at_tokenizer_folder};
constexpr Kind kHuggingFaceTokenizer = {"Hugging Face tokenizer", look_at_hugging_face_tokenizer};
constexpr Kind kJson = {"JSON", look_at_json};
constexpr Kind kConfig = {"model configuration", look_at_config};
constexpr Kind kIndex = {"index of a sharded model", look_at_index};
constexpr Kind kTrace = {"trace", look_at_trace};
constexpr Kind kMetrics = {"metrics of a run", look_at_metrics};
constexpr Kind kRunFile = {"run file", look_at_run_file};

// By the "format" field of our JSON files.
constexpr std::pair<const char*, Kind> kFormats[] = {
    {"skippipe-network", {"network", look_at_network}},
    {"skippipe-plan", {"plan", look_at_plan}},
    {"skippipe-evaluation", {"evaluation", look_at_evaluation}},
    {"skippipe-run", {"description of a run", look_at_description}},
    {"skippipe-checkpoint", {"manifest of a checkpoint", look_at_manifest}},
    {"skippipe-checkpoint-part", {"part of a checkpoint", look_at_manifest}},
};

const Kind* kind_of_folder(const fs::path& path) {
  if (is_checkpoint(path)) return &kCheckpoint;
  for (const char* name : {"run.json", "metrics.jsonl", "checkpoints"})
    if (fs::exists(path / name)) return &kRunFolder;
  if (fs::exists(path / "config.json")) return &kHuggingFaceModel;
  for (const char* name : {kTrainShard, kValidationShard})
    if (fs::exists(path / name)) return &kTokensFolder;
  for (const char* name : {kSentencePieceFile, "tokenizer.json"})
    if (fs::exists(path / name)) return &kTokenizerFolder;
  return nullptr;
}

// A JSON file is known by the words of its first level, which stand at its beginning or, sorted, anywhere.
const Kind* kind_of_json(const fs::path& path, const std::string& beginning) {
  const size_t line = beginning.find('\n');
  const bool one_per_line = line != std::string::npos && line > 1 && beginning[line - 1] == '}';
  if (one_per_line && beginning.find("\"iteration\"") < line) return &kMetrics;
  const std::string text = read_file(path, kMaxTextBytes);
  const nlohmann::json document = nlohmann::json::parse(text, nullptr, false);
  if (document.is_discarded()) {  // what it was to be, as far as it says so
    for (const auto& [format, kind] : kFormats)
      if (text.find(fmt::format("\"{}\"", format)) != std::string::npos) return &kind;
    return &kJson;
  }
  for (const auto& [format, kind] : kFormats)
    if (document.value("format", nlohmann::json()) == format) return &kind;
  if (document.contains("traceEvents")) return &kTrace;
  if (document.contains("weight_map")) return &kIndex;
  if (document.contains("iteration") && document.contains("loss")) return &kMetrics;  // of one iteration
  if (document.contains("model") && document["model"].is_object() && document["model"].contains("vocab"))
    return &kHuggingFaceTokenizer;
  return document.contains("model_type") || document.contains("architectures") ? &kConfig : &kJson;
}

bool is_safetensors(const std::string& beginning) {
  uint64_t header_bytes = 0;
  if (beginning.size() < 9) return false;
  std::memcpy(&header_bytes, beginning.data(), sizeof header_bytes);
  return header_bytes <= SafetensorsFile::kMaxHeaderBytes && beginning[8] == '{';
}

std::string read_beginning(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string beginning(4096, '\0');
  file.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  if (file.bad() || (file.fail() && !file.eof())) throw FileError("{}: cannot read", path.string());
  beginning.resize(static_cast<size_t>(file.gcount()));
  return beginning;
}

const Kind* kind_of_file(const fs::path& path) {
  const std::string beginning = read_beginning(path);
  if (beginning.empty() && path.filename() == "metrics.jsonl") return &kMetrics;  // of a run that has just begun
  if (beginning.starts_with("skptokn\n")) return &kTokenShard;
  if (is_safetensors(beginning)) return &kSafetensors;
  const size_t first = beginning.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && beginning[first] == '{') return kind_of_json(path, beginning);
  if (beginning.starts_with('\n') && beginning.find('\0') != std::string::npos) return &kTokenizer;
  for (const char* table : {"[run]", "[model]", "[data]", "[plan]"})
    if (beginning.find(table) != std::string::npos) return &kRunFile;
  return nullptr;
}

int64_t bytes_of(const fs::path& path) {
  if (!fs::is_directory(path)) return static_cast<int64_t>(fs::file_size(path));
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  return bytes;
}

}  // namespace

Inspection inspect(const fs::path& path) try {
  if (!fs::exists(path)) throw FileError("{}: no such file or folder", path.string());
  Inspection result;
  const Kind* kind = fs::is_directory(path) ? kind_of_folder(path) : kind_of_file(path);
  add(result, "size", human_bytes(bytes_of(path)));
  if (kind == nullptr) {
    const std::string foreign = fs::is_directory(path) ? "" : foreign_file_kind(read_beginning(path));
    result.problems.push_back(fmt::format("{}: no file or folder of skippipe or a Hugging Face model{}{}",
                                          path.string(), foreign.empty() ? "" : ": found ", foreign));
    return result;
  }
  result.kind = kind->name;
  try {
    kind->look(result, path);
  } catch (const Error& error) {
    if (result.whole()) result.problems.emplace_back(error.what());
  }
  return result;
} catch (const fs::filesystem_error& error) {
  throw FileError("{}: {}", path.string(), error.code().message());
}

}  // namespace skippipe
