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

// transformers 4 takes rope_scaling and what is in it, 5 rope_scaling before rope_parameters and
// original_max_position_embeddings of the first level before that of the dictionary.
TEST(ModelConfig, RefusesRopesThatContradictThemselves) {
  json other = llama3_rope();
  other["factor"] = 4.0;
  const auto refused = [](const json& changes, const std::vector<std::string>& words) {
    json document = good_document();
    document.update(changes);
    for (const std::string& word : words)
      EXPECT_THAT([&] { parse(document); },
                  ThrowsMessage<ConfigError>(AllOf(HasSubstr("config.json"), HasSubstr(word))))
          << document;
  };
  refused({{"rope_scaling", llama3_rope()}, {"rope_parameters", other}}, {"rope_parameters", "rope_scaling"});
  refused({{"rope_scaling", llama3_rope()}, {"rope_parameters", {{"rope_type", "default"}}}},
          {"rope_parameters", "rope_scaling"});
  refused({{"rope_scaling", llama3_rope()}, {"original_max_position_embeddings", 4096}},
          {"rope_scaling.original_max_position_embeddings", "8192", "4096"});
  refused({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}},
          {"rope_parameters.rope_theta", "10000", "500000"});
  json two_types = llama3_rope();
  two_types["type"] = "default";
  refused({{"rope_scaling", two_types}}, {"rope_scaling.type", "llama3", "default"});
  refused({{"rope_parameters", {{"full_attention", llama3_rope()}}}}, {"rope_parameters.full_attention", "an object"});
}

TEST(ModelConfig, TakesRopesThatSayTheSameTwice) {
  json document = good_document();
  document["rope_scaling"] = llama3_rope();
  const ModelConfig once = parse(document);
  document["rope_parameters"] = llama3_rope();
  document["rope_parameters"]["rope_theta"] = 500000.0;
  document["original_max_position_embeddings"] = 8192;
  EXPECT_EQ(parse(document), once);
  document.erase("rope_parameters");
  document["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_EQ(parse(document), once);
  document.erase("original_max_position_embeddings");
  EXPECT_EQ(parse(document).rope_scaling->original_max_position_embeddings, 128) << "max_position_embeddings";
  document["rope_scaling"] = json::object();
  EXPECT_FALSE(parse(document).rope_scaling);
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

TEST(ModelConfig, CarriesWhatItDoesNotUse) {
  json document = good_document();
  document.update({{"pad_token_id", 7},
                   {"use_cache", false},
                   {"attention_dropout", 0.1},
                   {"torch_dtype", "bfloat16"},
                   {"auto_map", {{"AutoModel", "theirs"}}},
                   {"head_dim", nullptr},
                   {"eos_token_id", {1, 2}}});
  const auto written = [](const ModelConfig& config) { return json::parse(model_config_json(config, "float16")); };
  json expected = document;
  expected["torch_dtype"] = "float16";
  EXPECT_EQ(written(parse(document)), expected);
  EXPECT_EQ(written(parse(written(parse(document)))), expected);

  ModelConfig changed = parse(document);
  changed.vocabulary = 50;
  changed.rope_theta = 9;
  expected["vocab_size"] = 50;
  expected["rope_theta"] = 9.0;
  expected["rope_scaling"] = nullptr;
  EXPECT_EQ(written(changed), expected);
  EXPECT_EQ(parse(written(changed)), changed);
}

// What transformers 4 reads besides, or 5 refuses although it means the same.
TEST(ModelConfig, WritesWhatEveryTransformersReads) {
  json document = good_document();
  document.erase("rope_theta");
  document.erase("model_type");
  document["rope_parameters"] = llama3_rope();
  document["rope_parameters"].erase("original_max_position_embeddings");
  document["original_max_position_embeddings"] = 4096;
  document.update({{"dtype", "float16"}, {"rms_norm_eps", 0}, {"max_position_embeddings", nullptr}});
  const json written = json::parse(model_config_json(parse(document), "bfloat16"));
  EXPECT_EQ(parse(written), parse(document));
  EXPECT_EQ(written["rope_scaling"]["original_max_position_embeddings"], 4096);
  EXPECT_EQ(written["rope_parameters"]["original_max_position_embeddings"], 4096);
  EXPECT_EQ(written["rope_theta"], 10000);
  EXPECT_EQ(written["model_type"], "llama");
  EXPECT_EQ(written["dtype"], "bfloat16");
  EXPECT_FALSE(written.contains("torch_dtype"));
  EXPECT_TRUE(written["rms_norm_eps"].is_number_float());
  EXPECT_EQ(written["max_position_embeddings"], 2048);
  document = good_document();
  document.erase("rope_theta");
  document["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 77.0}};
  EXPECT_EQ(json::parse(model_config_json(parse(document)))["rope_theta"], 77.0);
  document["rope_scaling"] = json::object();
  EXPECT_TRUE(json::parse(model_config_json(parse(document)))["rope_scaling"].is_null());
}

TEST(ModelConfig, TellsWhatTransformersWouldNotLoad) {
  const auto objections = [](const json& changes) {
    json document = good_document();
    document.update(changes);
    return transformers_objections(parse(document));
  };
  EXPECT_THAT(objections(json::object()), testing::IsEmpty());
  EXPECT_THAT(objections({{"pad_token_id", -1}, {"eos_token_id", 100}, {"initializer_range", 1}}), testing::IsEmpty());
  const std::pair<json, std::string> kCases[] = {
      {{{"hidden_size", 66}, {"head_dim", 16}}, "hidden_size: found 66, expected a multiple of num_attention_heads"},
      {{{"initializer_range", 2.0}}, "initializer_range: found 2.0, expected a number from 0 to 1"},
      {{{"bos_token_id", {1, 2}}}, "bos_token_id: found [1,2], expected one token"},
      {{{"pad_token_id", 100}}, "pad_token_id: found 100, expected a token below 100"},
      {{{"layer_types", {"full_attention"}}}, "layer_types: found [\"full_attention\"], expected one for each of 3"},
      {{{"use_cache", 1}}, "use_cache: found 1, expected true or false"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config: found {\"bits\":4}, expected none"},
  };
  for (const auto& [changes, part] : kCases)
    EXPECT_THAT(objections(changes), testing::ElementsAre(HasSubstr(part))) << changes;
}

TEST(ModelConfig, IsTheSameModelIfItComputesTheSame) {
  json document = good_document();
  const ModelConfig config = parse(document);
  document.update({{"bos_token_id", 1}, {"eos_token_id", 2}, {"max_position_embeddings", 4096}, {"use_cache", true}});
  EXPECT_EQ(parse(document), config);
  EXPECT_EQ(first_difference(parse(document), config), "");
  document["rms_norm_eps"] = 1e-6;
  EXPECT_NE(parse(document), config);
  EXPECT_EQ(first_difference(parse(document), config),
            "rms_norm_eps: found 1e-06, expected " + json(config.rms_norm_eps).dump());
}

// Nothing of this matters for a model that is evaluated.
TEST(ModelConfig, OnlyTrainingAsksForWhatItNeeds) {
  const auto path = std::filesystem::path(testing::TempDir()) / "training-config.json";
  const auto training = [&](const json& changes) {
    json document = good_document();
    document.update(changes);
    EXPECT_NO_THROW(parse(document)) << changes;
    write_file_atomically(path, document.dump());
    return load_training_config(path);
  };
  EXPECT_EQ(training({{"initializer_range", 0.3}}).initializer_range, 0.3);
  EXPECT_THAT(
      [&] {
        training({{"attention_dropout", 0.1}});
      },
      ThrowsMessage<ConfigError>(HasSubstr("attention_dropout: found 0.1, expected 0")));
  EXPECT_THAT(
      [&] {
        training({{"attention_dropout", "some"}});
      },
      ThrowsMessage<FileError>(HasSubstr("attention_dropout: found \"some\"")));
  EXPECT_THAT(
      [&] {
        training({{"initializer_range", -1}});
      },
      ThrowsMessage<FileError>(HasSubstr("initializer_range: found -1")));
  std::filesystem::remove(path);
}

TEST(ModelConfig, CarriesTheTokensThatBeginAndEndTexts) {
  const auto parse_ids = [](const json& bos, const json& eos) {
    json document = good_document();
    document["bos_token_id"] = bos;
    document["eos_token_id"] = eos;
    const ModelConfig config = parse(document);
    const ModelConfig again = parse_model_config(model_config_json(config), "written");
    EXPECT_EQ(again.bos_token_id, config.bos_token_id);
    EXPECT_EQ(again.eos_token_ids, config.eos_token_ids);
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
  expect_refused<ConfigError>("architectures", json::array(), {"architectures", "an array of 0"});
  expect_refused<ConfigError>("model_type", "qwen2", {"model_type", "qwen2", "llama"});
  expect_refused<ConfigError>("hidden_act", "gelu", {"hidden_act", "gelu", "silu"});
  expect_refused<ConfigError>("attention_bias", true, {"attention_bias", "true", "false"});
  expect_refused<ConfigError>("mlp_bias", true, {"mlp_bias"});
  expect_refused<ConfigError>("partial_rotary_factor", 0.5, {"partial_rotary_factor", "0.5", "1"});
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
