// The model against PyTorch and transformers; golden/make_golden.py says what the files hold.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "engine/files/safetensors.h"
#include "engine/inference/generate.h"
#include "tests/engine/inference/test_decoder.h"

namespace skippipe {
namespace {

using test::TestModel;
using test::values_of;

const std::filesystem::path kFolder = std::filesystem::path(SKIPPIPE_SOURCE_DIR) / "tests/engine/golden";
constexpr BatchShape kBatch = {2, 9};

class Golden {
 public:
  explicit Golden(const std::string& name)
      : config(load_model_config(kFolder / (name + ".config.json"))), file_(kFolder / (name + ".safetensors")) {}

  std::vector<float> floats(const std::string& name) const {
    const SafeTensor& tensor = file_.tensors().at(static_cast<size_t>(file_.find(name)));
    std::vector<float> values(tensor.bytes() / sizeof(float));
    file_.read_f32(name, tensor.shape, values);
    return values;
  }
  std::vector<int32_t> ints(const std::string& name) const {
    const std::span<const std::byte> bytes = file_.data(static_cast<size_t>(file_.find(name)));
    std::vector<int32_t> values(bytes.size() / sizeof(int32_t));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  int64_t tensors_with_prefix(const std::string& prefix) const {
    return std::ranges::count_if(file_.tensors(), [&](const SafeTensor& t) { return t.name.starts_with(prefix); });
  }

  ModelConfig config;

 private:
  SafetensorsFile file_;
};

// Every value within `tolerance` of the largest of its tensor.
void expect_close(std::span<const float> found, std::span<const float> expected, double tolerance,
                  const std::string& name) {
  ASSERT_EQ(found.size(), expected.size()) << name;
  double largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(static_cast<double>(value)));
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], tolerance * largest) << name << " at " << i;
}

// The difference at most `tolerance` of the whole tensor's norm.
void expect_near_in_norm(std::span<const float> found, std::span<const float> expected, double tolerance,
                         const std::string& name) {
  ASSERT_EQ(found.size(), expected.size()) << name;
  double difference = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << name;
}

struct GoldenCase {
  const char* name;
  std::vector<int> layers_per_stage;
};

class GoldenTest : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenTest, LogitsLossGradientsAndTwoStepsAgree) {
  const Golden golden(GetParam().name);
  TestModel model(golden.config, GetParam().layers_per_stage, kBatch);
  const auto parameters = model.parameters();
  ASSERT_EQ(static_cast<int64_t>(parameters.size()), golden.tensors_with_prefix("weights."));
  for (const auto& [name, parameter] : parameters)
    std::ranges::copy(golden.floats("weights." + name), values_of(parameter.weight).begin());
  model.fill_tokens(0, golden.ints("tokens"), golden.ints("targets"));
  const std::vector<int> path = model.full_path();

  model.forward(0, path);
  const std::vector<float> expected_logits = golden.floats("logits"), logits = model.logits(0);
  ASSERT_EQ(logits.size(), expected_logits.size());
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected_logits[i], 1e-4) << "logit " << i;

  EXPECT_NEAR(model.loss(0).mean(), golden.floats("loss")[0], 1e-5);
  model.backward(0, path);
  for (const auto& [name, parameter] : parameters)
    expect_close(values_of(parameter.gradient), golden.floats("gradients." + name), 1e-4, name);

  AdamWStep adamw;
  adamw.learning_rate = 1e-2f;
  adamw.weight_decay = 0.1f;
  model.step(adamw);
  model.zero_gradients();
  EXPECT_NEAR(model.run(0, path).mean(), golden.floats("second_loss")[0], 1e-4);
  adamw.step = 2;
  model.step(adamw);
  // Adam divides by the gradient's size, so that rounding in small gradients shows in the weights: hence not tighter.
  for (const auto& [name, parameter] : parameters)
    expect_close(values_of(parameter.weight), golden.floats("stepped." + name), 1e-3, name);
}

// Rounding to 8 bits of mantissa in every activation, against transformers in f32.
TEST_P(GoldenTest, InBf16LossesAndGradientsAreNear) {
  if (!make_cpu_backend()->computes_in(Dtype::kBf16)) GTEST_SKIP() << "no bf16 on this processor";
  const Golden golden(GetParam().name);
  TestModel model(golden.config, GetParam().layers_per_stage, kBatch, 1, 1, StagePurpose::kTraining, Dtype::kBf16);
  for (const auto& [name, parameter] : model.parameters())
    std::ranges::copy(golden.floats("weights." + name), values_of(parameter.weight).begin());
  model.refresh_weights();
  model.fill_tokens(0, golden.ints("tokens"), golden.ints("targets"));
  const std::vector<int> path = model.full_path();
  EXPECT_NEAR(model.run(0, path).mean(), golden.floats("loss")[0], 1e-2);
  for (const auto& [name, parameter] : model.parameters())
    expect_near_in_norm(values_of(parameter.gradient), golden.floats("gradients." + name), 8e-2, name);
}

// What generation.json holds, see golden/make_generation.py.
TEST_P(GoldenTest, GreedyContinuationAgrees) {
  const Golden golden(GetParam().name);
  const auto expected = nlohmann::json::parse(read_file(kFolder / "generation.json")).at(GetParam().name);
  const auto prompt = expected.at("prompt").get<std::vector<int32_t>>();
  const auto& cut = GetParam().layers_per_stage;
  std::vector<int> path(cut.size());
  std::iota(path.begin(), path.end(), 0);
  test::TestDecoder decoder(test::decoder_spec(golden.config, cut, path, golden.config.max_positions, 4));
  for (const Parameter& parameter : decoder->parameters())
    std::ranges::copy(golden.floats("weights." + parameter.name), values_of(parameter.weight).begin());
  GenerationSettings settings;
  settings.vocabulary = static_cast<int32_t>(golden.config.vocabulary);
  settings.max_tokens = static_cast<int64_t>(expected.at("continuation").size());
  std::vector<int32_t> tokens;
  generate(*decoder, prompt, settings, [&](int32_t token) { tokens.push_back(token); });
  EXPECT_EQ(tokens, expected.at("continuation").get<std::vector<int32_t>>());
}

std::string case_name(const testing::TestParamInfo<GoldenCase>& info) {
  std::string name = info.param.name;
  for (const int layers : info.param.layers_per_stage) name += fmt::format("_{}", layers);
  return name;
}

INSTANTIATE_TEST_SUITE_P(Cuts, GoldenTest,
                         testing::Values(GoldenCase{"untied", {3}}, GoldenCase{"untied", {1, 2}},
                                         GoldenCase{"untied", {1, 1, 1}}, GoldenCase{"untied", {0, 3}},
                                         GoldenCase{"tied", {3}}, GoldenCase{"tied", {2, 1}},
                                         GoldenCase{"tied", {1, 1, 1}}, GoldenCase{"llama3", {1}}),
                         case_name);

}  // namespace
}  // namespace skippipe
