#include "engine/model/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

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

[[noreturn]] void unsupported(const JsonReader& field, const std::string& expected) {
  throw ConfigError("{}: found {}, expected {}: this engine computes nothing else", field.where(), field.found(),
                    expected);
}

void require_false(const JsonReader& root, const std::string& key) {
  if (root.get_bool(key, false)) unsupported(root.at(key), "false");
}

void require_string(const JsonReader& root, const std::string& key, const std::string& expected) {
  const auto field = root.find(key);
  if (field && field->as_string() != expected) unsupported(*field, "'" + expected + "'");
}

void require_llama(const JsonReader& root) {
  const auto architectures = root.find("architectures");
  if (!architectures && !root.find("model_type"))
    throw ConfigError("{}: neither 'architectures' nor 'model_type' is there, expected a LlamaForCausalLM",
                      root.where());
  if (architectures) {
    const auto names = architectures->items();
    for (const JsonReader& name : names)
      if (name.as_string() != "LlamaForCausalLM") unsupported(name, "'LlamaForCausalLM'");
    if (names.size() != 1) unsupported(*architectures, "'LlamaForCausalLM' alone");
  }
  require_string(root, "model_type", "llama");
  require_string(root, "hidden_act", "silu");
  require_false(root, "attention_bias");
  require_false(root, "mlp_bias");
}

// ---- rotary embedding

// A value that may stand in several places, of which versions of transformers take different ones. So they must agree.
template <typename Value>
class Agreed {
 public:
  void take(const JsonReader& field, Value value) {
    if (value_ && *value_ != value)
      throw ConfigError("{}: found {}, but {} is {}: expected the same in both", field.where(), value, where_, *value_);
    if (!value_) where_ = field.where();
    value_ = std::move(value);
  }
  const std::optional<Value>& get() const { return value_; }

 private:
  std::optional<Value> value_;
  std::string where_;
};

void require_whole_heads(const JsonReader& fields) {
  if (fields.get_double("partial_rotary_factor", 1, 0, 1) != 1) unsupported(fields.at("partial_rotary_factor"), "1");
}

RopeScaling read_llama3_scaling(const JsonReader& fields, const JsonReader& root, int64_t max_positions) {
  RopeScaling scaling;
  scaling.factor = fields.at("factor").as_double(1, 1e6);
  scaling.low_freq_factor = fields.at("low_freq_factor").as_double(1e-6, 1e6);
  scaling.high_freq_factor = fields.at("high_freq_factor").as_double(1e-6, 1e6);
  Agreed<int64_t> original;
  for (const JsonReader& place : {root, fields})
    if (const auto field = place.find("original_max_position_embeddings"))
      original.take(*field, field->as_int(1, kMaxPositions));
  scaling.original_max_position_embeddings = original.get().value_or(max_positions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor)
    throw ConfigError("{}.high_freq_factor: found {}, expected more than low_freq_factor, which is {}", fields.where(),
                      scaling.high_freq_factor, scaling.low_freq_factor);
  return scaling;
}

std::optional<RopeScaling> read_rope_scaling(const JsonReader& fields, const JsonReader& root, int64_t max_positions) {
  for (const std::string& key : fields.keys())
    if (fields.at(key).value().is_object()) unsupported(fields.at(key), "one rotary embedding for all layers");
  require_whole_heads(fields);
  Agreed<std::string> type;
  for (const char* key : {"rope_type", "type"})
    if (const auto field = fields.find(key)) {
      if (field->as_string() != "default" && field->as_string() != "llama3")
        unsupported(*field, "'default' or 'llama3'");
      type.take(*field, field->as_string());
    }
  if (type.get().value_or("default") == "default") return std::nullopt;
  return read_llama3_scaling(fields, root, max_positions);
}

// transformers 4 knows `rope_theta` and `rope_scaling`; 5 writes both into `rope_parameters`, and where it finds
// `rope_scaling`, too, that is what it takes.
void read_rope(ModelConfig& config, const JsonReader& root) {
  require_whole_heads(root);
  Agreed<double> theta;
  const auto read_theta = [&](const JsonReader& fields) {
    if (const auto field = fields.find("rope_theta")) theta.take(*field, field->as_double(1e-3, 1e12));
  };
  read_theta(root);
  std::optional<std::string> read;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto fields = root.find(key);
    if (!fields || fields->keys().empty()) continue;
    read_theta(*fields);
    const auto scaling = read_rope_scaling(*fields, root, config.max_positions);
    if (read && scaling != config.rope_scaling)
      throw ConfigError("{}: found another rotary embedding than in {}, expected the same in both", fields->where(),
                        *read);
    config.rope_scaling = scaling;
    read = key;
  }
  config.rope_theta = theta.get().value_or(config.rope_theta);
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
  if (const auto ids = read_token_ids(root, "bos_token_id"); !ids.empty()) config.bos_token_id = ids.front();
  config.eos_token_ids = read_token_ids(root, "eos_token_id");
  return config;
}

void read_training_fields(ModelConfig& config, const JsonReader& root) {
  if (root.get_double("attention_dropout", 0, 0, 1) != 0)
    throw ConfigError("{}: found {}, expected 0: training here has no dropout", root.at("attention_dropout").where(),
                      root.at("attention_dropout").found());
  config.initializer_range = root.get_double("initializer_range", config.initializer_range, 0, 1e3);
}

std::string read_config_file(const std::filesystem::path& path) {
  constexpr uint64_t kMaxFileBytes = 1 << 20;
  return read_file(path, kMaxFileBytes);
}

nlohmann::ordered_json rope_json(const std::optional<RopeScaling>& scaling) {
  if (!scaling) return nullptr;
  return {{"rope_type", "llama3"},
          {"factor", scaling->factor},
          {"low_freq_factor", scaling->low_freq_factor},
          {"high_freq_factor", scaling->high_freq_factor},
          {"original_max_position_embeddings", scaling->original_max_position_embeddings}};
}

// What a configuration says, as transformers 4 spells it (which 5 reads).
nlohmann::ordered_json fields_of(const ModelConfig& config) {
  nlohmann::ordered_json fields = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
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
      {"rope_scaling", rope_json(config.rope_scaling)},
      {"tie_word_embeddings", config.tied_embeddings},
  };
  if (config.bos_token_id) fields["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) fields["eos_token_id"] = config.eos_token_ids.front();
  if (config.eos_token_ids.size() > 1) fields["eos_token_id"] = config.eos_token_ids;
  return fields;
}

// So that transformers 4, which passes over rope_parameters and over rope_theta in rope_scaling, and 5 read the same.
void spell_rope_twice(nlohmann::ordered_json& document, const ModelConfig& config) {
  const nlohmann::ordered_json now = fields_of(config);
  const auto is_filled = [&](const char* key) { return document.contains(key) && !document[key].empty(); };
  if (is_filled("rope_parameters"))
    for (const char* key : {"rope_theta", "rope_scaling"})
      if (!is_filled(key)) document[key] = now[key];
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!is_filled(key)) continue;
    if (document[key].contains("rope_theta") && !is_filled("rope_theta")) document["rope_theta"] = now["rope_theta"];
    if (!document[key].contains("rope_type") && !document[key].contains("type")) document[key]["rope_type"] = "default";
    if (config.rope_scaling)
      document[key]["original_max_position_embeddings"] = config.rope_scaling->original_max_position_embeddings;
  }
  if (document.contains("rope_scaling") && !is_filled("rope_scaling")) document["rope_scaling"] = nullptr;
}

// What transformers does not load though it means the same.
void spell_strictly(nlohmann::ordered_json& document, const ModelConfig& config) {
  const std::set<std::string> may_be_null = {"head_dim", "num_key_value_heads", "rope_scaling"};
  const nlohmann::ordered_json now = fields_of(config);
  for (const auto& [key, value] : now.items())
    if (document.contains(key) && document[key].is_null() && !may_be_null.contains(key)) document[key] = value;
  for (const char* key : {"rms_norm_eps", "initializer_range"})
    if (document.contains(key) && document[key].is_number()) document[key] = document[key].get<double>();
  if (!document.contains("model_type")) document["model_type"] = "llama";
}

// The document that a configuration was read from, with what is not as it was then.
nlohmann::ordered_json updated_source(const ModelConfig& config) {
  auto document = nlohmann::ordered_json::parse(config.source);
  const nlohmann::ordered_json now = fields_of(config), then = fields_of(parse_model_config(config.source, "source"));
  const auto changed = [&](const std::string& key) { return !then.contains(key) || then[key] != now[key]; };
  for (const auto& [key, value] : now.items())
    if (changed(key)) document[key] = value;
  if (changed("rope_theta") || changed("rope_scaling")) {
    for (const char* key : {"rope_theta", "rope_scaling"}) document[key] = now[key];
    for (const char* key : {"rope_parameters", "original_max_position_embeddings"}) document.erase(key);
  }
  spell_rope_twice(document, config);
  spell_strictly(document, config);
  return document;
}

// What the same weights compute depends on these alone.
nlohmann::ordered_json computed_fields_of(const ModelConfig& config) {
  nlohmann::ordered_json fields = fields_of(config);
  for (const char* key : {"max_position_embeddings", "bos_token_id", "eos_token_id"}) fields.erase(key);
  return fields;
}

}  // namespace

bool operator==(const ModelConfig& a, const ModelConfig& b) { return computed_fields_of(a) == computed_fields_of(b); }

std::string first_difference(const ModelConfig& found, const ModelConfig& expected) {
  const nlohmann::ordered_json other = computed_fields_of(found), own = computed_fields_of(expected);
  for (const auto& [key, value] : own.items())
    if (other[key] != value) return format("{}: found {}, expected {}", key, other[key].dump(), value.dump());
  return {};
}

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
  ModelConfig config = read_config(JsonReader(document, name));
  config.source = text;
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& path) {
  return parse_model_config(read_config_file(path), path.string());
}

ModelConfig load_training_config(const std::filesystem::path& path) {
  ModelConfig config = load_model_config(path);
  const nlohmann::json document = parse_json(config.source, path.string());
  read_training_fields(config, JsonReader(document, path.string()));
  return config;
}

std::string model_config_json(const ModelConfig& config, std::string_view dtype) {
  nlohmann::ordered_json document = config.source.empty() ? fields_of(config) : updated_source(config);
  if (config.source.empty()) document["initializer_range"] = config.initializer_range;
  // transformers 5 writes `dtype` and reads both.
  const bool has_dtype = document.contains("dtype");
  if (has_dtype) document["dtype"] = dtype;
  if (!has_dtype || document.contains("torch_dtype")) document["torch_dtype"] = dtype;
  return document.dump(2) + "\n";
}

std::vector<std::string> transformers_objections(const ModelConfig& config) {
  const nlohmann::json written = nlohmann::json::parse(model_config_json(config));
  const auto field = [&](const char* key) { return written.value(key, nlohmann::json()); };
  std::vector<std::string> objections;
  const auto expect = [&](bool fine, const char* key, const std::string& expected) {
    if (!fine) objections.push_back(fmt::format("{}: found {}, expected {}", key, field(key).dump(), expected));
  };
  expect(config.channels % config.heads == 0, "hidden_size",
         fmt::format("a multiple of num_attention_heads, which is {}", config.heads));
  const auto range = field("initializer_range");
  expect(range.is_null() || (range.is_number() && range >= 0 && range <= 1), "initializer_range",
         "a number from 0 to 1");
  expect(!field("bos_token_id").is_array(), "bos_token_id", "one token");
  const auto pad = field("pad_token_id");
  const bool is_token = pad.is_number_integer() && pad >= -config.vocabulary && pad < config.vocabulary;
  expect(pad.is_null() || is_token, "pad_token_id", fmt::format("a token below {}", config.vocabulary));
  const auto types = field("layer_types");
  expect(types.is_null() || (types.is_array() && static_cast<int64_t>(types.size()) == config.layers), "layer_types",
         fmt::format("one for each of {} layers", config.layers));
  expect(field("quantization_config").is_null(), "quantization_config", "none: the weights are plain numbers");
  const auto cache = written.find("use_cache");
  expect(cache == written.end() || cache->is_boolean(), "use_cache", "true or false");
  return objections;
}

}  // namespace skippipe
