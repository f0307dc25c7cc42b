#include "engine/model_files.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using test::TestModel;
using test::tiny_config;
using test::values_of;

constexpr BatchShape kBatch = {1, 4};

class ModelFilesTest : public ::testing::Test {
 protected:
  void write(TestModel& model, const std::vector<int>& layers_per_stage) const {
    for (int i = 0; i < model.stages(); ++i) write_stage_weights(folder(), model.stage(i));
    write_model_description(folder(), model.config(), layers_per_stage);
  }
  static ModelFiles open(const std::filesystem::path& folder) { return ModelFiles(folder); }
  static void load(const ModelFiles& files, TestModel& model) {
    for (int i = 0; i < model.stages(); ++i) files.load(model.stage(i));
  }
  std::filesystem::path folder() const { return folder_ / "model"; }

  const TempFolder folder_;
};

TEST_F(ModelFilesTest, AModelComesBackUnderAnyCut) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_config(4);
    config.tied_embeddings = tied;
    TestModel written(config, {1, 2, 1}, kBatch);
    written.initialize(5);
    write(written, {1, 2, 1});
    const ModelFiles files(folder());
    EXPECT_EQ(files.config(), config);
    EXPECT_EQ(files.layers_per_stage(), (std::vector<int>{1, 2, 1}));
    TestModel read(config, {2, 2}, kBatch);
    load(files, read);
    const auto expected = written.parameters();
    const auto found = read.parameters();
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, parameter] : expected)
      EXPECT_TRUE(std::ranges::equal(values_of(parameter.weight), values_of(found.at(name).weight))) << name;
  }
}

TEST_F(ModelFilesTest, AHuggingFaceFolderIsRead) {
  TestModel written(tiny_config(2), {2}, kBatch);
  written.initialize(5);
  write(written, {2});
  std::filesystem::rename(folder() / "stage-00.safetensors", folder() / "model.safetensors");
  std::filesystem::remove(folder() / "stages.json");
  std::filesystem::rename(folder() / "config.json", folder_ / "elsewhere.json");
  const ModelFiles files(folder(), folder_ / "elsewhere.json");
  EXPECT_FALSE(files.layers_per_stage());
  TestModel read(tiny_config(2), {1, 1}, kBatch);
  load(files, read);
  EXPECT_TRUE(std::ranges::equal(values_of(read.parameters().at("lm_head.weight").weight),
                                 values_of(written.parameters().at("lm_head.weight").weight)));
}

TEST_F(ModelFilesTest, ErrorsNameFileAndTensor) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  write(model, {1, 1});
  TestModel wider(
      [] {
        ModelConfig config = tiny_config(2);
        config.feed_forward = 41;
        return config;
      }(),
      {1, 1}, kBatch);
  SKP_EXPECT_ERROR(load(ModelFiles(folder()), wider), FileError,
                   "mlp.gate_proj.weight' has the shape (40, 24), expected (41, 24)");
  TestModel deeper(tiny_config(3), {2, 1}, kBatch);
  SKP_EXPECT_ERROR(load(ModelFiles(folder()), deeper), FileError, "is in none of the 2 files");

  // Of an earlier run with more stages: not ours, unless there is no list of stages.
  std::filesystem::copy_file(folder() / "stage-01.safetensors", folder() / "stage-07.safetensors");
  EXPECT_NO_THROW(open(folder()));
  const std::string stages = read_file(folder() / "stages.json");
  std::filesystem::remove(folder() / "stages.json");
  SKP_EXPECT_ERROR(open(folder()), FileError, "is in ");
  std::filesystem::remove(folder() / "stage-07.safetensors");
  std::filesystem::resize_file(folder() / "stage-01.safetensors", 1000);
  SKP_EXPECT_ERROR(open(folder()), FileError, "stage-01.safetensors");
  std::filesystem::remove(folder() / "stage-01.safetensors");
  SKP_EXPECT_ERROR(load(ModelFiles(folder()), model), FileError, "tensor 'model.layers.1.");
  write_file_atomically(folder() / "stages.json", stages);
  SKP_EXPECT_ERROR(open(folder()), FileError, "stage-01.safetensors: cannot open");
  std::filesystem::remove(folder() / "stages.json");
  std::filesystem::remove(folder() / "stage-00.safetensors");
  SKP_EXPECT_ERROR(open(folder()), FileError, "no *.safetensors file");
  SKP_EXPECT_ERROR(open(folder_ / "none"), FileError, "config.json");
}

TEST_F(ModelFilesTest, BadStageListsAreRefused) {
  TestModel model(tiny_config(2), {1, 1}, kBatch);
  write(model, {1, 1});
  const auto open_with = [&](std::string_view text) {
    write_file_atomically(folder() / "stages.json", text);
    ModelFiles files(folder());
  };
  open_with(R"({"format": "skippipe-stages", "version": 1, "layers_per_stage": [0, 2]})");
  SKP_EXPECT_ERROR(open_with(R"({"format": "other", "version": 1, "layers_per_stage": [2]})"), FileError,
                   "stages.json: format");
  SKP_EXPECT_ERROR(open_with(R"({"format": "skippipe-stages", "version": 2, "layers_per_stage": [2]})"), FileError,
                   "version");
  SKP_EXPECT_ERROR(open_with(R"({"format": "skippipe-stages", "version": 1, "layers_per_stage": [1, 2]})"), FileError,
                   "expected 2 layers in all");
  SKP_EXPECT_ERROR(open_with(R"({"format": "skippipe-stages", "version": 1, "layers_per_stage": [-1, 3]})"), FileError,
                   "found -1");
}

}  // namespace
}  // namespace skippipe
