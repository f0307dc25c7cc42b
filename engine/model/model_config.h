// The shape of a Llama model, read from Hugging Face's `config.json`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skippipe {

// Llama 3's change of the rotary frequencies for long contexts ("rope_type": "llama3").
struct RopeScaling {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;

  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

// Comments name the field of config.json where the names differ.
struct ModelConfig {
  int64_t channels = 0;       // C, hidden_size
  int64_t feed_forward = 0;   // F, intermediate_size
  int64_t layers = 0;         // L, num_hidden_layers
  int64_t heads = 0;          // H, num_attention_heads
  int64_t kv_heads = 0;       // K, num_key_value_heads
  int64_t head_dim = 0;       // D
  int64_t vocabulary = 0;     // V, vocab_size
  int64_t max_positions = 0;  // max_position_embeddings
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tied_embeddings = false;     // tie_word_embeddings
  double initializer_range = 0.02;  // of what training begins with; read by load_training_config
  // Where a text begins and ends. Carried along for generation and for Hugging Face; none if config.json does not say.
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  // The config.json that this was read from, so that what is written has all of its fields, also those that nothing
  // here uses; empty: none.
  std::string source;

  // Columns of the merged query, key and value projection: (H + 2K) D.
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }

  int64_t layer_parameters() const;      // one transformer layer with its two norms
  int64_t embedding_parameters() const;  // V C
  int64_t head_parameters() const;       // final norm, and the LM head's V C unless it is tied
  int64_t parameters() const;            // the whole model

  // Whether two are the same model: they compute the same from the same weights, whatever their longest text, first
  // weights and tokens with a meaning.
  friend bool operator==(const ModelConfig& a, const ModelConfig& b);
};

// The first field that makes them different models: "hidden_size: found 64, expected 48"; empty: none does.
std::string first_difference(const ModelConfig& found, const ModelConfig& expected);

// Reads a config.json of LlamaForCausalLM; fields that do not touch the computation are ignored. Throws FileError if
// the file is not readable or a field is missing, of the wrong type or out of range, ConfigError if the model is one
// that this engine does not compute (another architecture, biases, another activation, an unknown rope type) or if it
// says one thing in two places and not the same: versions of transformers differ in which they take. Messages name the
// file and the field, what was found and what was expected.
ModelConfig load_model_config(const std::filesystem::path& path);
// The same for text; `name` stands for the file in messages.
ModelConfig parse_model_config(std::string_view text, const std::string& name);
// For training, which also needs initializer_range, and has no dropout: another one than 0 is a ConfigError.
ModelConfig load_training_config(const std::filesystem::path& path);
// A config.json that Hugging Face and load_model_config read back: `source`, if there is one, with what was changed
// since. `dtype`: of the stored weights, as PyTorch calls it.
std::string model_config_json(const ModelConfig& config, std::string_view dtype = "float32");
// Why a version of transformers would not load what is written, though this engine computes it, a line each.
std::vector<std::string> transformers_objections(const ModelConfig& config);

}  // namespace skippipe
