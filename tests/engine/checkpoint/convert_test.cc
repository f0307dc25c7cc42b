#include "engine/checkpoint/convert.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/model/parameters.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/tokenizer_training.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::TestModel;
using test::tiny_config;
using test::values_of;

const fs::path kTests = fs::path(SKIPPIPE_SOURCE_DIR) / "tests/engine";
constexpr BatchShape kBatch = {1, 4};

using TensorBytes = std::map<std::string, std::string>;

// All tensors in a folder's safetensors, with dtype and shape.
TensorBytes tensors_in(const fs::path& folder) {
  TensorBytes result;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (size_t i = 0; i < file.tensors().size(); ++i) {
      const SafeTensor& tensor = file.tensors()[i];
      const auto bytes = file.data(i);
      result[tensor.name] = fmt::format("{}{}", safe_dtype_name(tensor.dtype), json(tensor.shape).dump()) +
                            std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }
  return result;
}

// Bits of any kind: NaNs, infinities, subnormal numbers.
std::string random_bytes(uint64_t bytes, uint64_t seed) {
  std::string result(bytes, '\0');
  Random random(seed);
  for (char& byte : result) byte = static_cast<char>(random.below(256));
  return result;
}

class ConvertTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSmallShards = 8000;

  // A Hugging Face model of random bits; `change` sees the tensors before they are written.
  fs::path write_model(const std::string& name, const ModelConfig& config, SafeDtype dtype,
                       const std::function<void(std::vector<SafeTensor>&)>& change = {}) const {
    std::vector<SafeTensor> tensors = stage_tensors(config, {0, 0, static_cast<int>(config.layers)});
    for (SafeTensor& tensor : tensors) tensor.dtype = dtype;
    if (change) change(tensors);
    const fs::path folder = folder_ / name;
    fs::create_directories(folder);
    write_file_atomically(folder / "config.json", model_config_json(config));
    SafetensorsWriter writer(folder / "model.safetensors", tensors);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::string bits = random_bytes(tensors[i].bytes(), i);
      writer.write(std::as_bytes(std::span(bits)));
    }
    writer.finish();
    return folder;
  }
  fs::path to_stages(const fs::path& from, const std::vector<int>& cut, const std::string& name = "stages") const {
    write_model_checkpoint(folder_ / name, ModelFiles(from), cut, {});
    return folder_ / name;
  }
  fs::path to_hugging_face(const fs::path& from, const HuggingFaceOutput& output,
                           const std::string& name = "out") const {
    write_hugging_face_model(folder_ / name, ModelFiles(from), output);
    return folder_ / name;
  }
  static HuggingFaceOutput as(SafeDtype dtype, uint64_t max_shard_bytes = kSmallShards) {
    return {dtype, max_shard_bytes, {}};
  }
  std::string train_tokenizer_model(int32_t vocabulary) const {
    std::string words;
    for (int i = 0; i < 2000; ++i) words += fmt::format("{} word{} ", i * 7919 % 1000, i * 31 % 97);
    TextReader text({folder_.write("text", words)}, {});
    return train_tokenizer(text, {.vocabulary = vocabulary});
  }

  const TempFolder folder_;
};

TEST_F(ConvertTest, EveryFieldOfTheConfigurationComesBack) {
  const fs::path source = write_model("source", tiny_config(2), SafeDtype::kBf16);
  json document = json::parse(read_file(source / "config.json"));
  document.update({{"pad_token_id", 3}, {"use_cache", false}, {"theirs", {{"a", {1, nullptr}}}}, {"bos_token_id", 1}});
  write_file_atomically(source / "config.json", document.dump());
  const fs::path stages = to_stages(source, {1, 1});
  EXPECT_EQ(json::parse(read_file(stages / "config.json")), document);
  const fs::path back = to_hugging_face(stages, as(SafeDtype::kF32));
  EXPECT_EQ(json::parse(read_file(back / "config.json")), document);
  document["torch_dtype"] = "bfloat16";
  write_model_checkpoint(folder_ / "again", ModelFiles(back), std::vector<int>{2}, {});
  EXPECT_EQ(json::parse(read_file(to_hugging_face(folder_ / "again", as(SafeDtype::kBf16), "bf16") / "config.json")),
            document);
}

TEST_F(ConvertTest, TellsOfValuesThatAreNotFinite) {
  const fs::path source = write_model("source", tiny_config(1), SafeDtype::kF32);
  const auto told = write_hugging_face_model(folder_ / "out", ModelFiles(source), as(SafeDtype::kF32));
  EXPECT_EQ(told.size(), 9u) << "random bits, but for the norms, which are short";
  EXPECT_NE(told.front().find("model.safetensors: tensor '"), std::string::npos) << told.front();
  EXPECT_EQ(write_model_checkpoint(folder_ / "stages", ModelFiles(source), std::vector<int>{1}, {}), told);
  EXPECT_TRUE(
      write_model_checkpoint(folder_ / "fine", ModelFiles(kTests / "golden/sharded"), std::vector<int>{2}, {}).empty());
}

TEST_F(ConvertTest, WhatTransformersWroteComesBackBitForBit) {
  const TensorBytes expected = tensors_in(kTests / "golden/sharded");
  ASSERT_EQ(expected.size(), 21u);
  for (const std::vector<int>& cut : {std::vector<int>{2}, {1, 1}, {0, 2}, {0, 1, 1}}) {
    const fs::path stages = to_stages(kTests / "golden/sharded", cut);
    EXPECT_TRUE(checkpoint_problems(stages).empty());
    const CheckpointManifest manifest = load_checkpoint_manifest(stages);
    EXPECT_EQ(manifest.layers_per_stage, cut);
    EXPECT_EQ(manifest.iteration, 0u);
    EXPECT_FALSE(manifest.optimizer);
    for (const uint64_t shard_bytes : {uint64_t{1500}, uint64_t{1} << 40}) {
      const fs::path back = to_hugging_face(stages, as(SafeDtype::kBf16, shard_bytes));
      EXPECT_EQ(tensors_in(back), expected);
      EXPECT_EQ(fs::exists(back / "model.safetensors"), shard_bytes > kSmallShards);
      EXPECT_TRUE(ModelFiles(back).problems().empty());
      EXPECT_EQ(ModelFiles(back).config(), ModelFiles(kTests / "golden/sharded").config());
    }
  }
}

TEST_F(ConvertTest, EveryBitOfEveryDtypeComesBack) {
  for (const SafeDtype dtype : {SafeDtype::kF32, SafeDtype::kF16, SafeDtype::kBf16}) {
    const fs::path source = write_model("source", tiny_config(3), dtype);
    const fs::path back = to_hugging_face(to_stages(source, {1, 2}), as(dtype));
    EXPECT_TRUE(tensors_in(back) == tensors_in(source)) << safe_dtype_name(dtype);
  }
}

// The published shapes; their scaled-down likes make the round trip.
TEST_F(ConvertTest, PublishedModelsAreUnderstood) {
  const std::map<std::string, int64_t> kParameters = {
      {"llama-2-7b", 6'738'415'616},     {"llama-3-8b", 8'030'261'248},
      {"llama-3.1-8b", 8'030'261'248},   {"llama-3.2-1b", 1'235'814'400},
      {"tinyllama-1.1b", 1'100'048'384}, {"llama-3.1-8b-transformers-5", 8'030'261'248}};
  for (const auto& [name, parameters] : kParameters) {
    json document = json::parse(read_file(kTests / "configs" / (name + ".json")));
    ModelConfig config = parse_model_config(document.dump(), name);
    EXPECT_EQ(config.parameters(), parameters) << name;
    EXPECT_TRUE(config.bos_token_id) << name;

    const int64_t share = config.channels / 64;
    config.channels /= share;
    config.head_dim = std::max<int64_t>(2, config.head_dim / share);
    config.feed_forward /= share;
    config.layers = 3;
    config.vocabulary = 101;
    const fs::path source = write_model("source", config, SafeDtype::kBf16);
    const fs::path back = to_hugging_face(to_stages(source, {1, 1, 1}), as(SafeDtype::kBf16));
    EXPECT_TRUE(tensors_in(back) == tensors_in(source)) << name;
    EXPECT_EQ(ModelFiles(back).config(), config) << name;
  }
  EXPECT_EQ(load_model_config(kTests / "configs/llama-3.1-8b.json"),
            load_model_config(kTests / "configs/llama-3.1-8b-transformers-5.json"));
}

TEST_F(ConvertTest, ACheckpointIsCutAnewWithItsOptimizerState) {
  TestModel written(tiny_config(4), {2, 2}, kBatch);
  written.initialize(5);
  Random random(9);
  for (const auto& [name, parameter] : written.parameters())
    for (const Tensor& moment : {parameter.first_moment, parameter.second_moment})
      std::ranges::generate(values_of(moment), [&] { return static_cast<float>(random.normal()); });
  CheckpointManifest manifest;
  manifest.iteration = 7;
  manifest.layers_per_stage = {2, 2};
  manifest.optimizer = true;
  manifest.replicas = {1, 3};
  manifest.microbatches = 12;
  write_checkpoint_description(folder_ / "a", manifest, written.config(), {});
  for (int i = 0; i < 2; ++i) write_checkpoint_part(folder_ / "a", i, written.stage(i).parameters(), true);

  const fs::path stages = to_stages(folder_ / "a", {1, 1, 2});
  EXPECT_TRUE(checkpoint_problems(stages).empty());
  const ModelFiles files(stages);
  EXPECT_EQ(files.manifest()->iteration, 7u);
  EXPECT_TRUE(files.manifest()->optimizer);
  EXPECT_EQ(files.manifest()->layers_per_stage, (std::vector<int>{1, 1, 2}));
  TestModel read(tiny_config(4), {1, 1, 2}, kBatch);
  for (int i = 0; i < 3; ++i) files.load_training_state(read.stage(i).parameters(), read.stage(i).context());
  const auto found = read.parameters();
  for (const auto& [name, parameter] : written.parameters()) {
    EXPECT_TRUE(std::ranges::equal(values_of(parameter.weight), values_of(found.at(name).weight))) << name;
    EXPECT_TRUE(std::ranges::equal(values_of(parameter.first_moment), values_of(found.at(name).first_moment))) << name;
    EXPECT_TRUE(std::ranges::equal(values_of(parameter.second_moment), values_of(found.at(name).second_moment)))
        << name;
  }

  std::string damaged = read_file(folder_ / "a/optimizer-01.safetensors");
  damaged.back() = static_cast<char>(damaged.back() + 1);
  write_file_atomically(folder_ / "a/optimizer-01.safetensors", damaged);
  SKP_EXPECT_ERROR(to_stages(folder_ / "a", {4}, "never"), FileError, "optimizer-01.safetensors: the content");
  EXPECT_FALSE(fs::exists(folder_ / "never"));
}

TEST_F(ConvertTest, TensorsThatDoNotBelongAreRefused) {
  const ModelConfig config = tiny_config(2);
  const auto refused = [&](const std::string& part, const std::function<void(std::vector<SafeTensor>&)>& change) {
    const fs::path source = write_model("source", config, SafeDtype::kBf16, change);
    SKP_EXPECT_ERROR(to_stages(source, {1, 1}), FileError, part);
  };
  const auto extra = [](const char* name) {
    return [name](std::vector<SafeTensor>& tensors) { tensors.push_back({name, SafeDtype::kF32, {8}}); };
  };
  refused("'model.layers.0.self_attn.q_proj.bias' is none of", extra("model.layers.0.self_attn.q_proj.bias"));
  refused("q_proj.lora_A.weight' is none of", extra("base_model.model.layers.0.self_attn.q_proj.lora_A.weight"));
  refused("'model.layers.2.input_layernorm.weight' is none of", extra("model.layers.2.input_layernorm.weight"));
  refused("tensor 'lm_head.weight' is in none", [](auto& tensors) { tensors.pop_back(); });
  refused("model.layers.0.input_layernorm.weight' has the shape (25), expected (24)",
          [](auto& tensors) { tensors[0].shape = {25}; });
  refused("model.layers.0.input_layernorm.weight' is I16", [](auto& tensors) { tensors[0].dtype = SafeDtype::kI16; });
  refused("(and 1 more such problems)", [](auto& tensors) { tensors.resize(tensors.size() - 2); });
  EXPECT_EQ(folder_.files(), 1u);
  EXPECT_NO_THROW(to_stages(
      write_model("source", config, SafeDtype::kF32, extra("model.layers.0.self_attn.rotary_emb.inv_freq")), {1, 1}));
}

TEST_F(ConvertTest, ATiedHeadMayRepeatTheEmbedding) {
  ModelConfig config = tiny_config(1);
  config.tied_embeddings = true;
  const auto write = [&](const std::string& head) {
    const fs::path source = write_model("source", config, SafeDtype::kBf16);
    fs::rename(source / "model.safetensors", source / "a.safetensors");
    SafetensorsWriter writer(source / "b.safetensors", {{"lm_head.weight", SafeDtype::kBf16, {37, 24}}});
    writer.write(std::as_bytes(std::span(head)));
    writer.finish();
    return source;
  };
  std::string embedding = tensors_in(write_model("source", config, SafeDtype::kBf16)).at("model.embed_tokens.weight");
  embedding = embedding.substr(embedding.size() - 37 * 24 * 2);
  const fs::path source = write(embedding);
  const fs::path back = to_hugging_face(to_stages(source, {1}), as(SafeDtype::kBf16));
  EXPECT_FALSE(tensors_in(back).contains("lm_head.weight"));
  embedding[100] = static_cast<char>(embedding[100] + 1);
  SKP_EXPECT_ERROR(to_stages(write(embedding), {1}), FileError, "'lm_head.weight' is none of");
}

TEST_F(ConvertTest, AnIndexIsBelievedOnlyAfterChecking) {
  const fs::path source = to_hugging_face(to_stages(kTests / "golden/sharded", {2}), as(SafeDtype::kF32));
  const fs::path path = source / "model.safetensors.index.json";
  const json good = json::parse(read_file(path));
  const auto open_with = [&](const std::function<void(json&)>& change) {
    json index = good;
    change(index["weight_map"]);
    write_file_atomically(path, index.dump());
    ModelFiles files(source);
  };
  EXPECT_NO_THROW(open_with([](json&) {}));
  const char* norm = "model.norm.weight";
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = "../x.safetensors"; }), FileError, "in the same folder");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = "/x.safetensors"; }), FileError, "in the same folder");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = ".."; }), FileError, "in the same folder");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = ""; }), FileError, "in the same folder");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = 7; }), FileError, "expected a string");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map[norm] = "none.safetensors"; }), FileError,
                   "none.safetensors: cannot open");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map.erase(norm); }), FileError,
                   "does not say that tensor 'model.norm.weight'");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map["x"] = map[norm]; }), FileError, "says that tensor 'x' is in ");
  SKP_EXPECT_ERROR(open_with([&](json& map) { map = json::object(); }), FileError, "at least one tensor");
}

TEST_F(ConvertTest, OnlyAWholeModelReplacesAnother) {
  const fs::path stages = to_stages(kTests / "golden/sharded", {1, 1});
  to_hugging_face(stages, as(SafeDtype::kBf16));
  SKP_EXPECT_ERROR(require_nothing_at(folder_ / "out"), FileError, "out: exists");
  EXPECT_NO_THROW(require_nothing_at(folder_ / "none"));
  EXPECT_NO_THROW(require_model_or_nothing_at(folder_ / "out"));
  EXPECT_NO_THROW(require_model_or_nothing_at(stages));
  fs::create_directory(folder_ / "other");
  EXPECT_NO_THROW(require_nothing_at(folder_ / "other"));
  folder_.write("other/precious", "");
  SKP_EXPECT_ERROR(require_model_or_nothing_at(folder_ / "other"), FileError, "is no model");
  // Somebody's project; a model with more beside it.
  folder_.write("other/config.json", "{}");
  SKP_EXPECT_ERROR(require_model_or_nothing_at(folder_ / "other"), FileError, "is no model");
  fs::rename(folder_ / "other/config.json", folder_ / "other/manifest.json");
  SKP_EXPECT_ERROR(require_model_or_nothing_at(folder_ / "other"), FileError, "is no model");
  fs::create_directory(folder_ / "out/notes");
  SKP_EXPECT_ERROR(require_model_or_nothing_at(folder_ / "out"), FileError, "is no model");
  fs::remove(folder_ / "out/notes");

  const TensorBytes before = tensors_in(folder_ / "out");
  const fs::path wide = write_model("wide", tiny_config(1), SafeDtype::kBf16);  // random bits: some beyond f16
  SKP_EXPECT_ERROR(to_hugging_face(wide, as(SafeDtype::kF16)), FileError, "too large for F16");
  EXPECT_TRUE(tensors_in(folder_ / "out") == before);
  SKP_EXPECT_ERROR(write_hugging_face_model(folder_ / "out", ModelFiles(stages), as(SafeDtype::kF32),
                                            [](uint64_t bytes, uint64_t total) {
                                              if (bytes > total / 2) throw FileError("enough of {}", total);
                                            }),
                   FileError, "enough");
  EXPECT_TRUE(tensors_in(folder_ / "out") == before);
  EXPECT_EQ(folder_.files(), 4u);
  SKP_EXPECT_ERROR(to_stages(stages, {1, 2}), ConfigError, "2");
  EXPECT_EQ(folder_.files(), 4u);
}

// A disk that is full looks the same, with another word for it.
TEST_F(ConvertTest, AFileThatCannotGrowLeavesNothing) {
  const fs::path stages = to_stages(kTests / "golden/sharded", {1, 1});
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 10'000;
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  SKP_EXPECT_ERROR(to_hugging_face(stages, as(SafeDtype::kF32, 1 << 30)), FileError, "cannot write: File too large");
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  EXPECT_EQ(folder_.files(), 1u);
}

TEST_F(ConvertTest, TheTokenizerComesAlong) {
  ModelConfig config = tiny_config(1);
  config.vocabulary = 280;
  const fs::path source = write_model("source", config, SafeDtype::kF32);
  const fs::path tokenizer = folder_.write("tok.model", train_tokenizer_model(280));
  write_model_checkpoint(folder_ / "stages", ModelFiles(source), std::vector<int>{1}, with_tokenizer({}, tokenizer));
  EXPECT_TRUE(checkpoint_problems(folder_ / "stages").empty());
  EXPECT_EQ(read_file(folder_ / "stages/tokenizer.model"), read_file(tokenizer));

  HuggingFaceOutput output;
  output.companions = with_tokenizer({}, folder_ / "stages");  // a folder with a tokenizer.model
  const fs::path out = to_hugging_face(folder_ / "stages", output);
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"})
    EXPECT_TRUE(fs::exists(out / name)) << name;
  EXPECT_EQ(load_model_config(out / "config.json").bos_token_id, 1);
  EXPECT_EQ(load_model_config(out / "config.json").eos_token_ids, (std::vector<int64_t>{2}));
  EXPECT_EQ(json::parse(read_file(out / "generation_config.json"))["eos_token_id"], 2);

  // Hugging Face's own files are copied as they are.
  write_file_atomically(out / "tokenizer.json", "{\"theirs\": 1}");
  write_file_atomically(out / "generation_config.json", "{\"top_p\": 0.5}");
  output.companions = read_companions(out);
  const fs::path copied = to_hugging_face(source, output, "copied");
  EXPECT_EQ(read_file(copied / "tokenizer.json"), "{\"theirs\": 1}");
  EXPECT_EQ(read_file(copied / "generation_config.json"), "{\"top_p\": 0.5}");

  config.vocabulary = 279;
  output.companions = with_tokenizer({}, tokenizer);
  SKP_EXPECT_ERROR(to_hugging_face(write_model("source", config, SafeDtype::kF32), output), ConfigError,
                   "tok.model: a vocabulary of 280, but the model's is 279");
  SKP_EXPECT_ERROR(with_tokenizer({}, source), FileError, "source: no tokenizer there");
}

// Of a tokenizer without tokenizer.json: that which would be made could say other things.
TEST_F(ConvertTest, WhatCameWithTheModelStaysAsItWasOnEveryWay) {
  ModelConfig config = tiny_config(2);
  config.vocabulary = 284;
  const fs::path source = write_model("source", config, SafeDtype::kBf16);
  const std::map<std::string, std::string> companions = {
      {"tokenizer.model", train_tokenizer_model(280)},
      {"tokenizer_config.json", R"({"add_bos_token": true, "eos_token": "<|im_end|>", "chat_template": "{{ x }}"})"},
      {"special_tokens_map.json", R"({"eos_token": "<|im_end|>"})"},
      {"added_tokens.json", R"({"<|im_end|>": 280, "<|im_start|>": 281})"},
      {"chat_template.jinja", "{{ messages }}"},
      {"chat_template.json", R"({"chat_template": "{{ messages }}"})"},
      {"additional_chat_templates/tools.jinja", "{{ tools }}"},
      {"generation_config.json", R"({"eos_token_id": [2, 280], "temperature": 0.6})"}};
  fs::create_directory(source / "additional_chat_templates");
  for (const auto& [name, content] : companions) write_file_atomically(source / name, content);
  folder_.write("source/README.md", "read me");

  const auto to_checkpoint = [&](const fs::path& from, const char* name) {
    write_model_checkpoint(folder_ / name, ModelFiles(from), std::vector<int>{1, 1}, read_companions(from));
    return folder_ / name;
  };
  const auto to_folder = [&](const fs::path& from, const char* name) {
    HuggingFaceOutput output = as(SafeDtype::kF32);
    output.companions = read_companions(from);
    return to_hugging_face(from, output, name);
  };
  const auto expect_kept = [&](const fs::path& folder) {
    const CompanionFiles found = read_companions(folder);
    EXPECT_EQ(found.size(), companions.size()) << folder;
    for (const auto& [name, content] : companions) EXPECT_EQ(found.at(name).content, content) << folder << " " << name;
  };
  const fs::path stages = to_checkpoint(source, "stages");
  expect_kept(stages);
  EXPECT_TRUE(checkpoint_problems(stages).empty());
  EXPECT_EQ(load_checkpoint_manifest(stages).files.size(), companions.size() + 1);
  expect_kept(to_folder(source, "other-dtype"));
  expect_kept(to_folder(stages, "back"));
  expect_kept(to_checkpoint(folder_ / "back", "stages-again"));
  expect_kept(to_checkpoint(stages, "cut-anew"));
  EXPECT_EQ(left_behind(ModelFiles(source)), std::vector<std::string>{"README.md"});
  EXPECT_TRUE(left_behind(ModelFiles(stages)).empty());
  EXPECT_NO_THROW(require_model_or_nothing_at(folder_ / "back"));

  // Another tokenizer replaces all of them but the settings for generation.
  const fs::path model = folder_.write("tok.model", train_tokenizer_model(275));
  EXPECT_EQ(companion_names(with_tokenizer(read_companions(stages), model)),
            (std::vector<std::string>{"generation_config.json", "tokenizer.model"}));
  EXPECT_EQ(companion_names(with_tokenizer(read_companions(stages), {})),
            std::vector<std::string>{"generation_config.json"});

  // A companion that has changed, or is gone, is found as any file of a checkpoint is.
  write_file_atomically(stages / "additional_chat_templates/tools.jinja", "{{ fools }}");
  EXPECT_EQ(checkpoint_problems(stages).size(), 1u);
  SKP_EXPECT_ERROR(to_folder(stages, "never"), FileError, "additional_chat_templates/tools.jinja: the content");
  fs::remove_all(stages / "additional_chat_templates");
  EXPECT_EQ(checkpoint_problems(stages).size(), 1u);
}

TEST_F(ConvertTest, CompanionsThatAreNotWhatTheySayAreRefused) {
  const fs::path source = write_model("source", tiny_config(1), SafeDtype::kF32);
  const auto refused = [&](const char* name, const char* content, const char* part) {
    folder_.write(std::string("source/") + name, content);
    SKP_EXPECT_ERROR(read_companions(source), FileError, part);
    fs::remove(source / name);
  };
  refused("tokenizer.model", "version https://git-lfs.github.com/spec/v1\noid sha256:1",
          "tokenizer.model: not a file of a tokenizer or of settings: found a Git LFS pointer");
  refused("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1",
          "tokenizer.json: not a file of a tokenizer or of settings: found a Git LFS pointer");
  refused("tokenizer_config.json", "{\"add_bos_token\": tru", "tokenizer_config.json");
  fs::create_directory(source / "tokenizer.json");
  SKP_EXPECT_ERROR(read_companions(source), FileError, "tokenizer.json: not a regular file");
}

// Only files of the checkpoint are listed, and only they stay when it is published.
TEST_F(ConvertTest, AManifestNamesFilesOfItsFolderOnly) {
  for (const char* name : {"tokenizer.model", "additional_chat_templates/a.jinja"}) EXPECT_TRUE(is_companion(name));
  for (const char* name : {"config.json", "additional_chat_templates/", "additional_chat_templates/a.txt",
                           "additional_chat_templates/.a.jinja", "additional_chat_templates/b/a.jinja",
                           "additional_chat_templates/../a.jinja", "additional_chat_templatesa.jinja", ""})
    EXPECT_FALSE(is_companion(name)) << name;
  const fs::path stages = to_stages(kTests / "golden/sharded", {2});
  const std::string good = read_file(stages / "manifest.json");
  for (const char* name : {"../x", "additional_chat_templates/../../x.jinja", "/x", ".x", "a/b"}) {
    std::string text = good;
    text.replace(text.find("config.json"), std::strlen("config.json"), name);
    write_file_atomically(stages / "manifest.json", text);
    SKP_EXPECT_ERROR(load_checkpoint_manifest(stages), FileError, "the name of a file in the checkpoint");
  }
  write_file_atomically(stages / "manifest.json", good);

  write_checkpoint_description(stages, load_checkpoint_manifest(stages), ModelFiles(stages).config(),
                               {{"additional_chat_templates/a.jinja", {"a", {}}}, {"added_tokens.json", {"{}", {}}}});
  folder_.write("stages/stray", "");
  folder_.write("stages/additional_chat_templates/stray", "");
  publish_checkpoint(stages, folder_ / "published");
  EXPECT_TRUE(checkpoint_problems(folder_ / "published").empty());
  EXPECT_FALSE(fs::exists(folder_ / "published/stray"));
  EXPECT_FALSE(fs::exists(folder_ / "published/additional_chat_templates/stray"));
  EXPECT_EQ(read_companions(folder_ / "published").size(), 2u);
}

uint64_t memory_kib(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return std::stoull(line.substr(line.find_first_of("0123456789")));
  return 0;
}

// Two tensors of 134 MB each; mapped pages count.
TEST_F(ConvertTest, MemoryDoesNotGrowWithTheTensors) {
  ModelConfig config = tiny_config(1);
  config.vocabulary = 1 << 16;
  config.channels = 1 << 10;
  std::vector<SafeTensor> tensors = stage_tensors(config, {0, 0, 1});
  for (SafeTensor& tensor : tensors) tensor.dtype = SafeDtype::kBf16;
  write_file_atomically(folder_.path() / "config.json", model_config_json(config));
  {
    SafetensorsWriter writer(folder_ / "model.safetensors", tensors);
    const std::vector<std::byte> zeros(1 << 20);
    for (const SafeTensor& tensor : tensors)
      for (uint64_t left = tensor.bytes(); left > 0;) {
        const auto piece = std::min<uint64_t>(left, zeros.size());
        writer.write(std::span(zeros).first(piece));
        left -= piece;
      }
    writer.finish();
  }
  const ModelFiles model(folder_.path());
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
  const uint64_t before = memory_kib("VmRSS");
  write_hugging_face_model(folder_ / "out", model, as(SafeDtype::kF16, 1 << 30));
  EXPECT_LT(memory_kib("VmHWM"), before + 60'000);
}

}  // namespace
}  // namespace skippipe
