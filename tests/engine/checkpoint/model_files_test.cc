#include "engine/checkpoint/model_files.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using test::TestModel;
using test::tiny_config;
using test::values_of;

constexpr BatchShape kBatch = {1, 4};

CheckpointManifest manifest_of(std::vector<int> layers_per_stage, bool optimizer) {
  CheckpointManifest manifest;
  manifest.iteration = 7;
  manifest.layers_per_stage = std::move(layers_per_stage);
  manifest.optimizer = optimizer;
  manifest.replicas.assign(manifest.layers_per_stage.size(), 2);
  manifest.microbatches = 12;
  manifest.samples = 336;
  manifest.run = {{"run.seed", "1"}, {"optimizer.schedule", "\"cosine\""}};
  return manifest;
}

class ModelFilesTest : public ::testing::Test {
 protected:
  void write(TestModel& model, const std::vector<int>& layers_per_stage, bool optimizer = false,
             const CompanionFiles& companions = {}) const {
    write_checkpoint_description(folder(), manifest_of(layers_per_stage, optimizer), model.config(), companions);
    for (int i = 0; i < model.stages(); ++i) write_checkpoint_part(folder(), i, model.stage(i).parameters(), optimizer);
  }
  static ModelFiles open(const fs::path& folder) { return ModelFiles(folder); }
  static void load(const ModelFiles& files, TestModel& model) {
    for (int i = 0; i < model.stages(); ++i) files.load(model.stage(i).parameters(), model.stage(i).context());
  }
  // Other values in each tensor of each state.
  static void fill(TestModel& model) {
    model.initialize(5);
    Random random(9);
    for (const auto& [name, parameter] : model.parameters())
      for (const Tensor& moment : {parameter.first_moment, parameter.second_moment})
        std::ranges::generate(values_of(moment), [&] { return static_cast<float>(random.normal()); });
  }
  static void expect_equal(const Tensor& a, const Tensor& b, const std::string& name) {
    EXPECT_TRUE(std::ranges::equal(values_of(a), values_of(b))) << name;
  }
  fs::path folder() const { return folder_ / "model"; }

  const TempFolder folder_;
};

TEST_F(ModelFilesTest, ATrainingStateComesBackUnderAnyCut) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config(4);
    config.tied_embeddings = tied;
    TestModel written(config, {1, 2, 1}, kBatch);
    fill(written);
    write(written, {1, 2, 1}, true);
    const ModelFiles files(folder());
    EXPECT_EQ(files.config(), config);
    EXPECT_EQ(files.manifest()->layers_per_stage, (std::vector<int>{1, 2, 1}));
    TestModel read(config, {2, 2}, kBatch);
    for (int i = 0; i < read.stages(); ++i)
      files.load_training_state(read.stage(i).parameters(), read.stage(i).context());
    const auto found = read.parameters();
    for (const auto& [name, parameter] : written.parameters()) {
      expect_equal(found.at(name).weight, parameter.weight, name);
      expect_equal(found.at(name).first_moment, parameter.first_moment, name);
      expect_equal(found.at(name).second_moment, parameter.second_moment, name);
    }
  }
}

TEST_F(ModelFilesTest, AManifestComesBack) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  write(model, {1, 1}, true, with_tokenizer({}, folder_.write("tokens.model", "a tokenizer")));
  const CheckpointManifest expected = manifest_of({1, 1}, true), found = load_checkpoint_manifest(folder());
  EXPECT_EQ(found.iteration, expected.iteration);
  EXPECT_EQ(found.layers_per_stage, expected.layers_per_stage);
  EXPECT_EQ(found.optimizer, expected.optimizer);
  EXPECT_EQ(found.replicas, expected.replicas);
  EXPECT_EQ(found.microbatches, expected.microbatches);
  EXPECT_EQ(found.samples, expected.samples);
  EXPECT_EQ(found.run, expected.run);
  EXPECT_EQ(read_file(open(folder()).tokenizer().value()), "a tokenizer");
  EXPECT_TRUE(checkpoint_problems(folder()).empty());
}

TEST_F(ModelFilesTest, AHuggingFaceFolderIsRead) {
  TestModel written(tiny_config(2), {2}, kBatch);
  written.initialize(5);
  write(written, {2});
  fs::create_directory(folder_ / "hugging");
  fs::rename(folder() / "stage-00.safetensors", folder_ / "hugging/model.safetensors");
  fs::rename(folder() / "config.json", folder_ / "elsewhere.json");
  const ModelFiles files(folder_ / "hugging", folder_ / "elsewhere.json");
  EXPECT_FALSE(files.manifest());
  TestModel read(tiny_config(2), {1, 1}, kBatch);
  load(files, read);
  expect_equal(read.parameters().at("lm_head.weight").weight, written.parameters().at("lm_head.weight").weight, "head");
  fs::remove(folder_ / "hugging/model.safetensors");
  SKP_EXPECT_ERROR(ModelFiles(folder_ / "hugging", folder_ / "elsewhere.json"), FileError, "no *.safetensors file");
  SKP_EXPECT_ERROR(open(folder_ / "none"), FileError, "config.json");
}

TEST_F(ModelFilesTest, ARunStandsForItsNewestWholeCheckpoint) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  const fs::path run = folder_ / "run", all = checkpoints_folder(run);
  fs::create_directories(all);
  for (const uint32_t iteration : {20u, 40u, 100u}) {
    fs::remove_all(folder());
    write(model, {1, 1});
    fs::rename(folder(), all / checkpoint_name(iteration));
  }
  fs::create_directory(all / "iteration-7");
  EXPECT_EQ(list_checkpoints(all), (std::vector<uint32_t>{20, 40, 100}));
  EXPECT_EQ(open(run).folder(), all / checkpoint_name(100));
  // One byte of a weight.
  std::string weights = read_file(all / checkpoint_name(100) / "stage-01.safetensors");
  weights.back() ^= 1;
  write_file_atomically(all / checkpoint_name(100) / "stage-01.safetensors", weights);
  EXPECT_EQ(open(run).folder(), all / checkpoint_name(40));
  EXPECT_TRUE(missing_parts(all / checkpoint_name(100)).empty()) << "it reads no contents";
  fs::remove(all / checkpoint_name(40) / "stage-00.json");
  EXPECT_EQ(missing_parts(all / checkpoint_name(40)).size(), 1u);
  EXPECT_EQ(open(run).folder(), all / checkpoint_name(20));
  fs::resize_file(all / checkpoint_name(20) / "config.json", 30);
  SKP_EXPECT_ERROR(open(run), FileError, "no whole checkpoint: ");
  fs::remove_all(all);
  write_file_atomically(run / "run.json", "{}");
  SKP_EXPECT_ERROR(open(run), FileError, "checkpoints: no whole checkpoint");
}

TEST_F(ModelFilesTest, ErrorsNameFileAndTensor) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  write(model, {1, 1});
  ModelConfig wide = tiny_config(2);
  wide.feed_forward = 41;
  TestModel wider(wide, {1, 1}, kBatch), deeper(tiny_config(3), {2, 1}, kBatch);
  SKP_EXPECT_ERROR(load(open(folder()), wider), FileError,
                   "mlp.gate_proj.weight' has the shape (40, 24), expected (41, 24)");
  SKP_EXPECT_ERROR(load(open(folder()), deeper), FileError, "is in none of the 2 files");
  // The part of another machine's node.
  fs::rename(folder() / "stage-01.safetensors", folder_ / "other");
  EXPECT_NO_THROW(open(folder()).load(model.stage(0).parameters(), model.stage(0).context()));
  SKP_EXPECT_ERROR(load(open(folder()), model), FileError, "stage-01.safetensors not there, tensor 'model.layers.1.");
  fs::copy_file(folder() / "stage-00.safetensors", folder() / "stage-01.safetensors");
  SKP_EXPECT_ERROR(open(folder()), FileError, "is in ");
  fs::resize_file(folder() / "stage-01.safetensors", 1000);
  SKP_EXPECT_ERROR(open(folder()), FileError, "stage-01.safetensors");
}

TEST_F(ModelFilesTest, BadManifestsAreRefused) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  write(model, {1, 1});
  const std::string good = read_file(folder() / "manifest.json");
  const auto open_with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write_file_atomically(folder() / "manifest.json", text.replace(at, from.size(), to));
    EXPECT_EQ(checkpoint_problems(folder()).size(), 1u) << to;
    ModelFiles files(folder());
  };
  SKP_EXPECT_ERROR(open_with("skippipe-checkpoint", "other"), FileError, "manifest.json: format");
  SKP_EXPECT_ERROR(open_with("\"version\": 1", "\"version\": 2"), FileError, "version");
  SKP_EXPECT_ERROR(open_with("\"iteration\": 7", "\"iteration\": -7"), FileError, "iteration: found -7");
  SKP_EXPECT_ERROR(open_with("\"samples\": 336", "\"samples\": -1"), FileError, "samples: found -1");
  SKP_EXPECT_ERROR(open_with("\"samples\": 336", "\"samples\": 4611686018427387905"), FileError, "samples: found");
  SKP_EXPECT_ERROR(open_with("\"layers_per_stage\": [\n    1", "\"layers_per_stage\": [\n    -1"), FileError,
                   "found -1");
  SKP_EXPECT_ERROR(open_with("\"name\": \"config.json\"", "\"name\": \"../config.json\""), FileError,
                   "expected the name of a file in the checkpoint");
  SKP_EXPECT_ERROR(open_with("\"xxh3\": \"", "\"xxh3\": \"x"), FileError, "expected 16 hexadecimal digits");
  // What only opening the model sees.
  std::string text = good;
  const std::string cut = "\"layers_per_stage\": [\n    1";
  write_file_atomically(folder() / "manifest.json", text.replace(text.find(cut), cut.size(), cut.substr(0, 26) + "2"));
  SKP_EXPECT_ERROR(open(folder()), FileError, "expected 2 as config.json says");
}

}  // namespace
}  // namespace skippipe
