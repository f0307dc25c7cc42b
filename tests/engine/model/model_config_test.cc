#include "engine/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace skippipe {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

json good_document() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 100},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"tie_word_embeddings", true}};
}

json llama3_rope() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 8192}};
}

ModelConfig parse(const json& document) { return parse_model_config(document.dump(), "config.json"); }

TEST(ModelConfig, ReadsTheFieldsAndTheirDefaults) {
  const ModelConfig config = parse(good_document());
  EXPECT_EQ(config.channels, 64);
  EXPECT_EQ(config.feed_forward, 96);
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocabulary, 100);
  EXPECT_EQ(config.max_positions, 128);
  EXPECT_DOUBLE_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_DOUBLE_EQ(config.rope_theta, 500000);
  EXPECT_FALSE(config.rope_scaling.has_value());
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_DOUBLE_EQ(config.initializer_range, 0.02);

  json document = good_document();
  document.erase("num_key_value_heads");
  document["head_dim"] = 24;
  EXPECT_EQ(parse(document).kv_heads, 4);
  EXPECT_EQ(parse(document).head_dim, 24);
}

TEST(ModelConfig, ReadsRopeInBothSpellings) {
  json old_document = good_document(), new_document = good_document();
  old_document["rope_scaling"] = llama3_rope();
  new_document.erase("rope_theta");
  new_document["rope_parameters"] = llama3_rope();
  new_document["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_EQ(parse(old_document), parse(new_document));
  ASSERT_TRUE(parse(old_document).rope_scaling.has_value());
  EXPECT_DOUBLE_EQ(parse(old_document).rope_scaling->factor, 8);
}

TEST(ModelConfig, CountsParameters) {
  json document = good_document();
  const int64_t layer = (64 + 2 * 32) * 64 + 64 * 64 + 3 * 64 * 96 + 2 * 64;
  EXPECT_EQ(parse(document).layer_parameters(), layer);
  EXPECT_EQ(parse(document).parameters(), 3 * layer + 100 * 64 + 64);
  document["tie_word_embeddings"] = false;
  EXPECT_EQ(parse(document).parameters(), 3 * layer + 2 * 100 * 64 + 64);
}

TEST(ModelConfig, WritesWhatItReads) {
  json document = good_document();
  document["rope_scaling"] = llama3_rope();
  const ModelConfig config = parse(document);
  const auto path = std::filesystem::path(testing::TempDir()) / "written-config.json";
  write_file_atomically(path, model_config_json(config));
  EXPECT_EQ(load_model_config(path), config);
  std::filesystem::remove(path);
}

TEST(ModelConfig, CarriesTheTokensThatBeginAndEndTexts) {
  const auto parse_ids = [](const json& bos, const json& eos) {
    json document = good_document();
    document["bos_token_id"] = bos;
    document["eos_token_id"] = eos;
    const ModelConfig config = parse(document);
    EXPECT_EQ(parse_model_config(model_config_json(config), "written"), config);
    return config;
  };
  EXPECT_EQ(parse_ids(1, 2).bos_token_id, 1);
  EXPECT_EQ(parse_ids(1, 2).eos_token_ids, (std::vector<int64_t>{2}));
  EXPECT_EQ(parse_ids(1, {128001, 128009}).eos_token_ids, (std::vector<int64_t>{128001, 128009}));
  EXPECT_FALSE(parse_ids(nullptr, -1).bos_token_id);
  EXPECT_TRUE(parse_ids(nullptr, -1).eos_token_ids.empty());
}

// Sets one field and expects an error that names it, with all of `words`.
template <typename ErrorClass>
void expect_refused(const std::string& field, const json& value, const std::vector<std::string>& words) {
  json document = good_document();
  document[field] = value;
  for (const std::string& word : words)
    EXPECT_THAT([&] { parse(document); }, ThrowsMessage<ErrorClass>(AllOf(HasSubstr("config.json"), HasSubstr(word))))
        << field << " = " << value;
}

TEST(ModelConfig, RefusesModelsThatItDoesNotCompute) {
  expect_refused<ConfigError>("architectures", {"MistralForCausalLM"}, {"architectures", "Mistral", "Llama"});
  expect_refused<ConfigError>("architectures", json::array(), {"architectures", "none"});
  expect_refused<ConfigError>("model_type", "qwen2", {"model_type", "qwen2", "llama"});
  expect_refused<ConfigError>("hidden_act", "gelu", {"hidden_act", "gelu", "silu"});
  expect_refused<ConfigError>("attention_bias", true, {"attention_bias", "true", "false"});
  expect_refused<ConfigError>("mlp_bias", true, {"mlp_bias"});
  expect_refused<ConfigError>("attention_dropout", 0.1, {"attention_dropout"});
  expect_refused<ConfigError>("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}, {"rope_scaling", "yarn"});
  json anonymous = good_document();
  anonymous.erase("architectures");
  EXPECT_NO_THROW(parse(anonymous));
  anonymous.erase("model_type");
  EXPECT_THROW(parse(anonymous), ConfigError);
}

TEST(ModelConfig, RefusesFieldsOutOfRange) {
  for (const char* field : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                            "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    expect_refused<FileError>(field, 0, {field, "0"});
    expect_refused<FileError>(field, -1, {field, "-1"});
    expect_refused<FileError>(field, int64_t{1} << 62, {field, "expected an integer from"});
    expect_refused<FileError>(field, 1.5, {field, "expected an integer"});
    expect_refused<FileError>(field, "8", {field, "expected an integer"});
  }
  expect_refused<FileError>("rms_norm_eps", -1e-5, {"rms_norm_eps"});
  expect_refused<FileError>("rope_theta", 0, {"rope_theta"});
  expect_refused<FileError>("tie_word_embeddings", 1, {"tie_word_embeddings", "true or false"});
  expect_refused<ConfigError>("num_attention_heads", 5, {"num_attention_heads", "5"});
  expect_refused<ConfigError>("num_key_value_heads", 3, {"num_key_value_heads", "3", "divisor"});
  expect_refused<ConfigError>("head_dim", 15, {"head_dim", "15", "even"});
  expect_refused<FileError>("rope_scaling", {{"rope_type", "llama3"}}, {"factor", "missing"});
  json inverted = llama3_rope();
  inverted["high_freq_factor"] = 0.5;
  expect_refused<ConfigError>("rope_scaling", inverted, {"high_freq_factor", "low_freq_factor"});
}

TEST(ModelConfig, RefusesMissingFieldsAndBrokenFiles) {
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    json document = good_document();
    document.erase(field);
    EXPECT_THAT([&] { parse(document); }, ThrowsMessage<FileError>(AllOf(HasSubstr("config.json"), HasSubstr(field))));
  }
  for (const char* text : {"", "{", "[]", "null", "7", "{\"hidden_size\": 1e999}", "\xff\xfe"})
    EXPECT_THROW(parse_model_config(text, "config.json"), Error) << text;
  EXPECT_THROW(load_model_config("no/such/config.json"), FileError);
}

}  // namespace
}  // namespace skippipe
