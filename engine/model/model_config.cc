#include "engine/model/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

// Far above any model, and low enough that no product of sizes of a layer can overflow 64 bits.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxLayers = 1 << 14;
constexpr int64_t kMaxPositions = int64_t{1} << 31;

[[noreturn]] void unsupported(const JsonReader& field, const std::string& found, const std::string& expected) {
  throw ConfigError("{}: found {}, but this engine computes only {}", field.where(), found, expected);
}

void require_false(const JsonReader& root, const std::string& key) {
  if (root.get_bool(key, false)) unsupported(root.at(key), "true", "false");
}

void require_string(const JsonReader& root, const std::string& key, const std::string& expected) {
  const auto field = root.find(key);
  if (field && field->as_string() != expected)
    unsupported(*field, "'" + field->as_string() + "'", "'" + expected + "'");
}

void require_llama(const JsonReader& root) {
  const auto architectures = root.find("architectures");
  if (!architectures && !root.find("model_type"))
    throw ConfigError("{}: neither 'architectures' nor 'model_type' is there, expected a LlamaForCausalLM",
                      root.where());
  if (architectures) {
    const auto names = architectures->items();
    if (names.size() != 1 || names[0].as_string() != "LlamaForCausalLM")
      unsupported(*architectures, names.empty() ? "none" : "'" + names[0].as_string() + "'", "'LlamaForCausalLM'");
  }
  require_string(root, "model_type", "llama");
  require_string(root, "hidden_act", "silu");
  require_false(root, "attention_bias");
  require_false(root, "mlp_bias");
  if (root.get_double("attention_dropout", 0, 0, 1) != 0) unsupported(root.at("attention_dropout"), "dropout", "0");
}

RopeScaling read_llama3_scaling(const JsonReader& fields) {
  RopeScaling scaling;
  scaling.factor = fields.at("factor").as_double(1, 1e6);
  scaling.low_freq_factor = fields.at("low_freq_factor").as_double(1e-6, 1e6);
  scaling.high_freq_factor = fields.at("high_freq_factor").as_double(1e-6, 1e6);
  scaling.original_max_position_embeddings = fields.at("original_max_position_embeddings").as_int(1, kMaxPositions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor)
    throw ConfigError("{}.high_freq_factor: found {}, expected more than low_freq_factor, which is {}", fields.where(),
                      scaling.high_freq_factor, scaling.low_freq_factor);
  return scaling;
}

// `rope_parameters` of newer files or `rope_scaling` of older ones; both name the type.
std::optional<RopeScaling> read_rope_scaling(const JsonReader& fields) {
  const std::string type = fields.get_string("rope_type", fields.get_string("type", "default"));
  if (fields.get_double("partial_rotary_factor", 1, 0, 1) != 1)
    unsupported(fields.at("partial_rotary_factor"), "a share", "1");
  if (type == "default") return std::nullopt;
  if (type == "llama3") return read_llama3_scaling(fields);
  unsupported(fields, fmt::format("rope_type '{}'", type), "rope_type 'default' or 'llama3'");
}

void read_rope(ModelConfig& config, const JsonReader& root) {
  constexpr double kLow = 1e-3, kHigh = 1e12;
  config.rope_theta = root.get_double("rope_theta", config.rope_theta, kLow, kHigh);
  if (const auto fields = root.find("rope_scaling")) config.rope_scaling = read_rope_scaling(*fields);
  if (const auto fields = root.find("rope_parameters")) {
    config.rope_theta = fields->get_double("rope_theta", config.rope_theta, kLow, kHigh);
    config.rope_scaling = read_rope_scaling(*fields);
  }
}

void read_sizes(ModelConfig& config, const JsonReader& root) {
  config.channels = root.at("hidden_size").as_int(1, kMaxWidth);
  config.feed_forward = root.at("intermediate_size").as_int(1, kMaxWidth);
  config.layers = root.at("num_hidden_layers").as_int(1, kMaxLayers);
  config.heads = root.at("num_attention_heads").as_int(1, kMaxWidth);
  config.vocabulary = root.at("vocab_size").as_int(1, kMaxVocabulary);
  config.max_positions = root.get_int("max_position_embeddings", 2048, 1, kMaxPositions);

  config.kv_heads = root.get_int("num_key_value_heads", config.heads, 1, config.heads);
  if (config.heads % config.kv_heads != 0)
    throw ConfigError("{}: num_key_value_heads is {}, expected a divisor of num_attention_heads, which is {}",
                      root.where(), config.kv_heads, config.heads);
  if (!root.find("head_dim") && config.channels % config.heads != 0)
    throw ConfigError("{}: hidden_size is {}, expected a multiple of num_attention_heads, which is {}", root.where(),
                      config.channels, config.heads);
  config.head_dim = root.get_int("head_dim", config.channels / config.heads, 1, kMaxWidth);
  if (config.head_dim % 2 != 0)
    throw ConfigError("{}: head_dim is {}, expected an even number", root.where(), config.head_dim);
  if (config.qkv_width() > 4 * kMaxWidth)
    throw ConfigError("{}: num_attention_heads x head_dim is {}, expected at most {}", root.where(),
                      config.heads * config.head_dim, kMaxWidth);
}

// A list, one id, or nothing.
std::vector<int64_t> read_token_ids(const JsonReader& root, const std::string& key) {
  const auto field = root.find(key);
  if (!field) return {};
  const auto items = field->value().is_array() ? field->items() : std::vector<JsonReader>{*field};
  std::vector<int64_t> ids;
  for (const JsonReader& item : items) ids.push_back(item.as_int(-1, kMaxVocabulary));
  std::erase(ids, -1);  // some files say none in this way
  return ids;
}

ModelConfig read_config(const JsonReader& root) {
  require_llama(root);
  ModelConfig config;
  read_sizes(config, root);
  read_rope(config, root);
  config.rms_norm_eps = root.get_double("rms_norm_eps", config.rms_norm_eps, 0, 1);
  config.tied_embeddings = root.get_bool("tie_word_embeddings", config.tied_embeddings);
  config.initializer_range = root.get_double("initializer_range", config.initializer_range, 0, 1e3);
  if (const auto ids = read_token_ids(root, "bos_token_id"); !ids.empty()) config.bos_token_id = ids.front();
  config.eos_token_ids = read_token_ids(root, "eos_token_id");
  return config;
}

}  // namespace

int64_t ModelConfig::layer_parameters() const {
  const int64_t attention = qkv_width() * channels + channels * heads * head_dim;
  return attention + 3 * channels * feed_forward + 2 * channels;
}

int64_t ModelConfig::embedding_parameters() const { return vocabulary * channels; }

int64_t ModelConfig::head_parameters() const { return channels + (tied_embeddings ? 0 : vocabulary * channels); }

int64_t ModelConfig::parameters() const {
  return embedding_parameters() + layers * layer_parameters() + head_parameters();
}

ModelConfig parse_model_config(std::string_view text, const std::string& name) {
  const nlohmann::json document = parse_json(text, name);
  return read_config(JsonReader(document, name));
}

ModelConfig load_model_config(const std::filesystem::path& path) {
  constexpr uint64_t kMaxFileBytes = 1 << 20;
  return parse_model_config(read_file(path, kMaxFileBytes), path.string());
}

std::string model_config_json(const ModelConfig& config, std::string_view dtype) {
  nlohmann::ordered_json document = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"torch_dtype", dtype},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"hidden_size", config.channels},
      {"intermediate_size", config.feed_forward},
      {"num_hidden_layers", config.layers},
      {"num_attention_heads", config.heads},
      {"num_key_value_heads", config.kv_heads},
      {"head_dim", config.head_dim},
      {"vocab_size", config.vocabulary},
      {"max_position_embeddings", config.max_positions},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"tie_word_embeddings", config.tied_embeddings},
      {"initializer_range", config.initializer_range},
  };
  if (const auto& scaling = config.rope_scaling)
    document["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", scaling->factor},
                                {"low_freq_factor", scaling->low_freq_factor},
                                {"high_freq_factor", scaling->high_freq_factor},
                                {"original_max_position_embeddings", scaling->original_max_position_embeddings}};
  if (config.bos_token_id) document["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) document["eos_token_id"] = config.eos_token_ids.front();
  if (config.eos_token_ids.size() > 1) document["eos_token_id"] = config.eos_token_ids;
  return document.dump(2) + "\n";
}

}  // namespace skippipe
