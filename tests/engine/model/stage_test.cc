#include "engine/model/stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/error.h"
#include "engine/model/rope_table.h"
#include "tests/engine/model/allocation_counter.h"
#include "tests/engine/test_model.h"
#include "tests/test_backend.h"

namespace skippipe {
namespace {

using test::TestModel;
using test::tiny_config;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr BatchShape kBatch = {2, 7};
constexpr uint64_t kSeed = 20250219;

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// On the CPU, on a simulated GPU whose streams run late, and on a real one.
class StageTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::string why_none;
    backend_ = testing::make_test_backend(GetParam(), why_none);
    SKP_SKIP_WITHOUT(backend_, why_none);
  }

  static TestModel make(const ModelConfig& config, const std::vector<int>& layers_per_stage, const BatchShape& batch,
                        int slots = 1, int threads = 1, StagePurpose purpose = StagePurpose::kTraining,
                        Dtype dtype = Dtype::kF32, Recompute recompute = Recompute::kNone) {
    std::string why_none;
    return TestModel(config, layers_per_stage, batch, slots, threads, purpose, dtype, recompute,
                     testing::make_test_backend(GetParam(), why_none));
  }
  static void expect_path_equals_model_of_its_layers(const std::vector<int>& layers_per_stage,
                                                     const std::vector<int>& path);
  static void expect_no_allocation_after_start(Recompute recompute);
  static std::vector<float> bits_of_three_steps(bool graphs);
  static std::vector<float> bits_of_two_steps(Dtype dtype, int threads, Recompute recompute);
  // Kernels that tests execute take long.
  static bool is_simulated() { return GetParam() == "simt"; }
  bool has_bf16() const { return backend_->computes_in(Dtype::kBf16); }

  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(Devices, StageTest, ::testing::Values("cpu", "simt", "cuda"),
                         [](const auto& test) { return test.param; });

// A direction in which the gradient is seen from two sides: along itself and across.
std::vector<float> mixed_direction(std::span<const float> gradient, uint64_t seed) {
  Random random(seed);
  std::vector<float> direction(gradient.size());
  for (float& value : direction) value = static_cast<float>(random.normal());
  const double gradient_norm = std::sqrt(dot(gradient, gradient)), norm = std::sqrt(dot(direction, direction));
  for (size_t i = 0; i < direction.size(); ++i)
    direction[i] = static_cast<float>(direction[i] / norm + gradient[i] / (gradient_norm + 1e-30));
  return direction;
}

std::vector<float> normal_values(Random& random, int64_t count, double scale) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(scale * random.normal());
  return values;
}

// Compares gradient . direction with the central difference of f when a tensor's values move along the direction.
template <typename Function>
void expect_slope(TestModel& model, const Tensor& tensor, std::span<const float> gradient, Function f,
                  const std::string& name) {
  const std::vector<float> kept = model.read(tensor);
  const std::vector<float> direction = mixed_direction(gradient, kSeed);
  constexpr double kStep = 1e-2;
  const auto at = [&](double step) {
    std::vector<float> values = kept;
    for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(step * direction[i]);
    model.write(tensor, values);
    return f();
  };
  const double slope = (at(kStep) - at(-kStep)) / (2 * kStep);
  const double finer = (at(kStep / 2) - at(-kStep / 2)) / kStep;
  model.write(tensor, kept);
  const double extrapolated = (4 * finer - slope) / 3;  // Richardson: the error falls from step^2 to step^4
  EXPECT_NEAR(extrapolated, dot(gradient, direction), 2e-3 * std::sqrt(dot(gradient, gradient)) + 2e-5) << name;
}

TEST_P(StageTest, GradientsOfTheWholeModelAgreeWithFiniteDifferences) {
  struct Case {
    bool tied;
    BatchShape batch;
    int threads;
  };
  std::vector<Case> cases = {{true, kBatch, 1}, {false, kBatch, 1}, {false, {1, 131}, 2}};
  if (is_simulated()) cases = {{true, {1, 3}, 1}};
  for (const auto& [tied, batch, threads] : cases) {
    ModelConfig config = tiny_config(2);
    config.tied_embeddings = tied;
    config.max_positions = 131;
    TestModel model = make(config, {1, 1}, batch, 1, threads);
    model.initialize(kSeed);
    model.fill_random_tokens(0, kSeed);
    std::vector<int32_t> targets = model.targets(0);
    targets.back() = -1;
    model.fill_tokens(0, std::vector(model.tokens(0)), targets);
    const std::vector<int> path = model.full_path();
    model.run(0, path);
    const auto gradients = model.gradients();
    const auto loss = [&] {
      model.forward(0, path);
      return model.stage(0).evaluate_loss(0, model.stage(0).returned(0)).mean();
    };
    for (const auto& [name, parameter] : model.parameters())
      expect_slope(model, parameter.weight, gradients.at(name), loss, name);
  }
}

TEST_P(StageTest, GradientOfAMiddleStagesInputAgreesWithFiniteDifferences) {
  TestModel model = make(tiny_config(3), {1, 2}, kBatch);
  model.initialize(kSeed);
  Stage& stage = model.stage(1);
  Random random(kSeed);
  model.write(stage.input(0), normal_values(random, stage.input(0).elements(), 1));
  const std::vector<float> probe = normal_values(random, stage.input(0).elements(), 0.1);
  model.write(stage.output_gradient(0), probe);
  stage.forward(0);
  stage.backward(0, stage.output_gradient(0), stage.output_gradient(0));
  const auto probed = [&] {
    stage.forward(0);
    return dot(model.read(stage.output(0)), probe);
  };
  expect_slope(model, stage.input(0), model.read(stage.output_gradient(0)), probed, "input");
}

TEST_P(StageTest, BackwardIntoAnotherBufferEqualsInPlaceAndLeavesItsInput) {
  TestModel model = make(tiny_config(2), {1, 1}, kBatch, 2);
  model.initialize(kSeed);
  Stage& stage = model.stage(1);
  Random random(kSeed);
  const int64_t elements = stage.input(0).elements();
  const std::vector<float> input = normal_values(random, elements, 1), kept = normal_values(random, elements, 1);
  for (const int slot : {0, 1}) {
    model.write(stage.input(slot), input);
    model.write(stage.output_gradient(slot), kept);
  }
  const Tensor elsewhere = model.stage(0).output_gradient(0);
  stage.forward(0);
  stage.backward(0, stage.output_gradient(0), elsewhere);
  stage.forward(1);
  stage.backward(1, stage.output_gradient(1), stage.output_gradient(1));
  EXPECT_EQ(model.read(stage.output_gradient(0)), kept);
  EXPECT_EQ(model.read(stage.output_gradient(1)), model.read(elsewhere));
}

// "model.layers.5.x" with layer 5's place among the path's layers; empty if the path leaves it out.
std::string renumbered(const std::string& name, const std::map<int, int>& new_number) {
  const std::string prefix = "model.layers.";
  if (!name.starts_with(prefix)) return name;
  const size_t end = name.find('.', prefix.size());
  const auto found = new_number.find(std::stoi(name.substr(prefix.size(), end - prefix.size())));
  return found == new_number.end() ? "" : prefix + std::to_string(found->second) + name.substr(end);
}

// A path that skips or swaps stages computes what a model made of just those layers in that order computes.
void StageTest::expect_path_equals_model_of_its_layers(const std::vector<int>& layers_per_stage,
                                                       const std::vector<int>& path) {
  TestModel model =
      make(tiny_config(std::accumulate(layers_per_stage.begin(), layers_per_stage.end(), 0)), layers_per_stage, kBatch);
  model.initialize(kSeed);
  std::map<int, int> new_number;
  for (const int stage : path) {
    const StageLayout& layout = model.stage(stage).layout();
    for (int layer = 0; layer < layout.layer_count; ++layer)
      new_number.emplace(layout.first_layer + layer, static_cast<int>(new_number.size()));
  }
  TestModel reference =
      make(tiny_config(static_cast<int64_t>(new_number.size())), {static_cast<int>(new_number.size())}, kBatch);
  auto reference_parameters = reference.parameters();
  for (const auto& [name, parameter] : model.parameters())
    if (const std::string target = renumbered(name, new_number); !target.empty())
      reference.write(reference_parameters.at(target).weight, model.read(parameter.weight));
  model.fill_random_tokens(0, kSeed);
  reference.fill_random_tokens(0, kSeed);
  reference.refresh_weights();
  const LossSum loss = model.run(0, path), expected = reference.run(0, reference.full_path());
  EXPECT_NEAR(loss.mean(), expected.mean(), 1e-5);
  EXPECT_EQ(loss.tokens, expected.tokens);
  for (const auto& [name, parameter] : model.parameters()) {
    const std::string target = renumbered(name, new_number);
    const std::vector<float> gradient = model.read(parameter.gradient);
    if (target.empty()) {
      EXPECT_EQ(dot(gradient, gradient), 0) << name << " is on no path";
      continue;
    }
    const std::vector<float> wanted = reference.read(reference_parameters.at(target).gradient);
    const double scale = std::sqrt(dot(wanted, wanted));
    ASSERT_GT(scale, 0) << name;
    for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(gradient[i], wanted[i], 1e-5 * scale) << name << " at " << i;
  }
}

TEST_P(StageTest, SkippedAndSwappedStagesEqualAModelOfThoseLayers) {
  expect_path_equals_model_of_its_layers({1, 1, 2}, {0, 1, 2});
  expect_path_equals_model_of_its_layers({1, 1, 2}, {0, 2});
  expect_path_equals_model_of_its_layers({1, 1, 2}, {0, 2, 1});
  expect_path_equals_model_of_its_layers({0, 2, 1}, {0, 2, 1});  // an embedding alone may be stage 0
  expect_path_equals_model_of_its_layers({2, 1}, {0});
}

TEST_P(StageTest, WeightsDoNotDependOnTheCut) {
  TestModel whole = make(tiny_config(3), {3}, kBatch);
  TestModel cut = make(tiny_config(3), {1, 1, 1}, kBatch);
  whole.initialize(kSeed);
  cut.initialize(kSeed);
  const auto expected = whole.parameters();
  const auto found = cut.parameters();
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [name, parameter] : expected)
    EXPECT_EQ(whole.read(parameter.weight), cut.read(found.at(name).weight)) << name;
  EXPECT_NE(whole.read(expected.at("model.layers.0.mlp.up_proj.weight").weight),
            whole.read(expected.at("model.layers.1.mlp.up_proj.weight").weight));
}

TEST_P(StageTest, InitialWeightsHaveTheConfiguredSpread) {
  TestModel model = make(tiny_config(3), {3}, kBatch);
  model.initialize(kSeed);
  for (const auto& [name, parameter] : model.parameters()) {
    const std::vector<float> values = model.read(parameter.weight);
    if (parameter.weight.rank() == 1) {
      EXPECT_TRUE(std::ranges::all_of(values, [](float v) { return v == 1; })) << name;
    } else {
      const double count = static_cast<double>(values.size());
      const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
      EXPECT_NEAR(mean, 0, 0.2 * 5 / std::sqrt(count)) << name;
      EXPECT_NEAR(std::sqrt(dot(values, values) / count), 0.2, 0.2 * 4 / std::sqrt(2 * count)) << name;
    }
  }
}

TEST_P(StageTest, SlotsAreIndependent) {
  constexpr int kSlots = 3;
  TestModel model = make(tiny_config(3), {1, 1, 1}, kBatch, kSlots);
  model.initialize(kSeed);
  const std::vector<std::vector<int>> paths = {{0, 1, 2}, {0, 2}, {0, 2, 1}};
  const auto run_alone = [&] {
    for (int m = 0; m < kSlots; ++m) {
      model.fill_random_tokens(0, static_cast<uint64_t>(m));
      model.run(0, paths[static_cast<size_t>(m)]);
    }
    return model.gradients();
  };
  const auto run_interleaved = [&] {
    for (int m = kSlots - 1; m >= 0; --m) model.fill_random_tokens(m, static_cast<uint64_t>(m));
    for (int m = kSlots - 1; m >= 0; --m) model.forward(m, paths[static_cast<size_t>(m)]);
    for (int m = 0; m < kSlots; ++m) model.loss(m);
    for (int m = 0; m < kSlots; ++m) model.backward(m, paths[static_cast<size_t>(m)]);
    return model.gradients();
  };
  const auto alone = run_alone();
  model.zero_gradients();
  EXPECT_EQ(alone, run_interleaved());  // bitwise: sums of each tensor go in the order of microbatches
}

// Losses, gradients and weights of three steps, of which devices that have graphs replay the last two.
std::vector<float> StageTest::bits_of_three_steps(bool graphs) {
  TestModel model = make(tiny_config(2), {1, 1}, kBatch, 2);
  model.initialize(kSeed);
  for (int s = 0; s < model.stages(); ++s) model.stage(s).use_graphs(graphs);
  std::vector<float> bits;
  AdamWStep adamw;
  adamw.learning_rate = 1e-2f;
  for (; adamw.step <= 3; ++adamw.step) {
    model.zero_gradients();
    for (const int slot : {0, 1}) {
      model.fill_random_tokens(slot, kSeed + static_cast<uint64_t>(2 * adamw.step + slot));
      model.forward(slot, model.full_path());
    }
    for (const int slot : {1, 0}) {
      bits.push_back(static_cast<float>(model.loss(slot).sum));
      model.backward(slot, model.full_path());
    }
    model.step(adamw);
  }
  for (int s = 0; s < model.stages(); ++s) {
    const std::vector<float> weights = model.read(model.stage(s).weights());
    bits.insert(bits.end(), weights.begin(), weights.end());
    // Forward and backward of two slots each.
    EXPECT_EQ(model.stage(s).graphs(), graphs && model.backend().device() != Device::kCpu ? 4 : 0);
  }
  return bits;
}

// Replicas of a stage may have unlike devices.
TEST_P(StageTest, AStepGivesTheBitsThatTheCpuGives) {
  TestModel here = make(tiny_config(2), {2}, kBatch);
  TestModel cpu(tiny_config(2), {2}, kBatch);
  Random random(kSeed);
  AdamWStep adamw;
  adamw.learning_rate = 1e-2f;
  adamw.weight_decay = 0.1f;
  adamw.grad_scale = 1.0f / 3;
  for (TestModel* model : {&here, &cpu}) model->initialize(kSeed);
  for (; adamw.step <= 3; ++adamw.step) {
    const std::vector<float> gradients = normal_values(random, cpu.stage(0).gradients().elements(), 1e-3);
    for (TestModel* model : {&here, &cpu}) {
      model->write(model->stage(0).gradients(), gradients);
      model->step(adamw);
    }
    ASSERT_EQ(here.read(here.stage(0).weights()), cpu.read(cpu.stage(0).weights())) << "step " << adamw.step;
  }
}

TEST_P(StageTest, GraphsChangeNoBit) { EXPECT_EQ(bits_of_three_steps(true), bits_of_three_steps(false)); }

TEST_P(StageTest, NothingOfAnEarlierMicrobatchIsLeft) {
  TestModel model = make(tiny_config(2), {1, 1}, kBatch);
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  model.run(0, model.full_path());
  const auto clean = model.gradients();
  // Weights of NaN make every activation and every scratch buffer NaN.
  for (int s = 0; s < model.stages(); ++s) {
    const Tensor weights = model.stage(s).weights();
    model.write(weights, std::vector<float>(static_cast<size_t>(weights.elements()), std::nanf("")));
  }
  EXPECT_TRUE(std::isnan(model.run(0, model.full_path()).sum));
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  EXPECT_TRUE(std::isfinite(model.run(0, model.full_path()).sum));
  EXPECT_EQ(model.gradients(), clean);
}

TEST_P(StageTest, GradientsAddUpAndTheirNormIsThatOfAllTensors) {
  TestModel model = make(tiny_config(2), {2}, kBatch);
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  model.run(0, model.full_path());
  const auto once = model.gradients();
  model.run(0, model.full_path());
  double squares = 0;
  for (const auto& [name, twice] : model.gradients()) {
    squares += dot(twice, twice);
    const double scale = std::sqrt(dot(twice, twice));
    for (size_t i = 0; i < twice.size(); ++i) ASSERT_NEAR(twice[i], 2 * once.at(name)[i], 1e-6 * scale) << name;
  }
  EXPECT_NEAR(model.stage(0).squared_gradient_norm(), squares, 1e-5 * squares);
  model.zero_gradients();
  EXPECT_EQ(model.stage(0).squared_gradient_norm(), 0);
}

TEST_P(StageTest, IgnoredTargetsAddNothing) {
  TestModel model = make(tiny_config(1), {1}, kBatch);
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  model.fill_tokens(0, std::vector(model.tokens(0)), std::vector<int32_t>(model.tokens(0).size(), -1));
  const LossSum loss = model.run(0, model.full_path());
  EXPECT_EQ(loss.sum, 0);
  EXPECT_EQ(loss.tokens, 0);
  EXPECT_EQ(loss.mean(), 0);
  EXPECT_EQ(model.stage(0).squared_gradient_norm(), 0);
}

TEST_P(StageTest, LearnsAFixedBatch) {
  TestModel model = make(tiny_config(2), {1, 1}, is_simulated() ? BatchShape{1, 3} : kBatch);
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  double loss = 0;
  for (int64_t step = 1; step <= 60; ++step) {
    model.zero_gradients();
    loss = model.run(0, model.full_path()).mean();
    AdamWStep adamw;
    adamw.learning_rate = 0.01f;
    adamw.weight_decay = 0.01f;
    adamw.step = step;
    model.step(adamw);
  }
  EXPECT_LT(loss, 0.1);  // from about ln 37 = 3.6
}

TEST_P(StageTest, PaddingStaysZero) {
  ModelConfig config = tiny_config(1);
  config.channels = 6;  // a norm fills 24 of 256 bytes
  TestModel model = make(config, {1}, kBatch);
  model.initialize(kSeed);
  model.fill_random_tokens(0, kSeed);
  model.run(0, model.full_path());
  AdamWStep adamw;
  adamw.learning_rate = 0.1f;
  model.step(adamw);
  int64_t nonzero = 0, elements = 0;
  for (const float weight : model.read(model.stage(0).weights())) nonzero += weight != 0;
  for (const auto& [name, parameter] : model.parameters()) elements += parameter.weight.elements();
  EXPECT_EQ(elements, config.parameters());
  EXPECT_LT(elements, model.stage(0).weights().elements());
  EXPECT_LE(nonzero, elements);
}

TEST(AllocationCounter, Counts) {
  const test::AllocationCounter allocations;
  ::operator delete(::operator new(8));
  EXPECT_EQ(allocations.count(), 1);
}

void StageTest::expect_no_allocation_after_start(Recompute recompute) {
  TestModel model = make(tiny_config(3), {1, 2}, kBatch, 2, 2, StagePurpose::kTraining, Dtype::kF32, recompute);
  model.initialize(kSeed);
  const std::vector<int> path = model.full_path();
  const auto iterate = [&] {
    model.zero_gradients();
    for (const int slot : {0, 1}) model.run(slot, path);
    AdamWStep adamw;
    adamw.learning_rate = 1e-3f;
    adamw.grad_scale = static_cast<float>(1 / std::sqrt(model.stage(0).squared_gradient_norm()));
    model.step(adamw);
    return model.stage(0).evaluate_loss(0, model.stage(0).returned(0)).mean();
  };
  for (const int slot : {0, 1}) model.fill_random_tokens(slot, kSeed);
  iterate();  // primitives of the matrix products are made once
  double loss = 0;
  {
    const test::AllocationCounter allocations;
    loss = iterate();
    if (GetParam() == "cpu") {
      EXPECT_EQ(allocations.count(), 0);  // simulated streams keep what they are to do
    }
  }
  EXPECT_TRUE(std::isfinite(loss));
  EXPECT_EQ(model.backend().runtime().allocations(), model.stages());
  for (int s = 0; s < model.stages(); ++s) {
    EXPECT_EQ(model.slab(s).bytes(), model.plan(s).total_bytes());
  }
}

TEST_P(StageTest, TakesWhatTheTableSaysAndAllocatesNothingAfterStart) {
  for (const Recompute recompute : kRecomputes) expect_no_allocation_after_start(recompute);
}

TEST_P(StageTest, EvaluationGivesTheLossOfTrainingWithAFractionOfTheMemory) {
  TestModel training = make(tiny_config(4), {1, 3}, kBatch);
  TestModel evaluation = make(tiny_config(4), {1, 3}, kBatch, 1, 1, StagePurpose::kEvaluation);
  for (TestModel* model : {&training, &evaluation}) {
    model->initialize(kSeed);
    model->fill_random_tokens(0, kSeed);
    model->stage(0).forward(0);
    model->copy(model->stage(1).input(0), model->stage(0).output(0));
    model->stage(1).forward(0);
  }
  EXPECT_EQ(training.read(training.stage(1).output(0)), evaluation.read(evaluation.stage(1).output(0)));
  EXPECT_EQ(training.stage(0).loss(0, training.stage(1).output(0)).sum,
            evaluation.stage(0).evaluate_loss(0, evaluation.stage(1).output(0)).sum);

  EXPECT_EQ(evaluation.plan(1).bytes(Region::kWeights), training.plan(1).bytes(Region::kWeights));
  EXPECT_EQ(evaluation.plan(1).bytes(Region::kGradients) + evaluation.plan(1).bytes(Region::kOptimizer), 0);
  EXPECT_LT(evaluation.plan(1).bytes(Region::kActivations), training.plan(1).bytes(Region::kActivations) / 2);
  EXPECT_TRUE(evaluation.stage(1).gradients().empty());
  for (const auto& [name, parameter] : evaluation.parameters()) {
    EXPECT_FALSE(parameter.weight.empty()) << name;
    EXPECT_TRUE(parameter.gradient.empty() && parameter.first_moment.empty() && parameter.second_moment.empty())
        << name;
  }
  Stage& stage = evaluation.stage(0);
  EXPECT_THROW(stage.loss(0, stage.output(0)), InternalError);
  EXPECT_THROW(stage.backward(0, stage.output(0), {}), InternalError);
  EXPECT_THROW(stage.step({}), InternalError);
  EXPECT_THROW(stage.zero_gradients(), InternalError);
  EXPECT_THROW(stage.squared_gradient_norm(), InternalError);
}

TEST_P(StageTest, InBf16HalvesActivationsAndKeepsARoundedCopyOfTheWeights) {
  if (!has_bf16()) GTEST_SKIP() << "no bf16 on this device";
  const ModelConfig config = tiny_config(3);
  TestModel wide = make(config, {1, 2}, kBatch, 2);
  TestModel narrow = make(config, {1, 2}, kBatch, 2, 1, StagePurpose::kTraining, Dtype::kBf16);
  for (const int s : {0, 1}) {
    for (const Region same : {Region::kGradients, Region::kOptimizer})
      EXPECT_EQ(narrow.plan(s).bytes(same), wide.plan(s).bytes(same));
    EXPECT_GT(narrow.plan(s).bytes(Region::kWeights), wide.plan(s).bytes(Region::kWeights) * 3 / 2 - 1);
    EXPECT_LT(narrow.plan(s).bytes(Region::kWeights), wide.plan(s).bytes(Region::kWeights) * 8 / 5);
    EXPECT_LT(narrow.plan(s).bytes(Region::kActivations), wide.plan(s).bytes(Region::kActivations) * 3 / 5);
    EXPECT_EQ(narrow.slab(s).bytes(), narrow.plan(s).total_bytes());
    EXPECT_EQ(narrow.stage(s).output(0).dtype(), Dtype::kBf16);
    EXPECT_EQ(narrow.stage(s).output_gradient(0).dtype(), Dtype::kBf16);
    EXPECT_EQ(narrow.stage(s).parameters().front().weight.dtype(), Dtype::kF32);
  }
}

// Losses near those of f32 while both learn the same batch: every step refreshes the rounded weights.
TEST_P(StageTest, InBf16LearnsAsInF32) {
  if (!has_bf16()) GTEST_SKIP() << "no bf16 on this device";
  const int steps = is_simulated() ? 4 : 20;
  std::vector<std::vector<double>> losses;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
    TestModel model = make(tiny_config(2), {1, 1}, kBatch, 1, 1, StagePurpose::kTraining, dtype);
    model.initialize(kSeed);
    model.fill_random_tokens(0, kSeed);
    losses.emplace_back();
    AdamWStep adamw;
    adamw.learning_rate = 1e-2f;
    for (; adamw.step <= steps; ++adamw.step) {
      model.zero_gradients();
      losses.back().push_back(model.run(0, model.full_path()).mean());
      model.step(adamw);
    }
  }
  EXPECT_LT(losses[0].back(), losses[0].front() * (is_simulated() ? 0.95 : 0.5));
  for (int i = 0; i < steps; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_NEAR(losses[1][at], losses[0][at], 0.02 * losses[0].front()) << "step " << i;
  }
}

// Losses, gradients and weights of two steps. Microbatches overlap, so that what they recompute has been another's
// since.
std::vector<float> StageTest::bits_of_two_steps(Dtype dtype, int threads, Recompute recompute) {
  TestModel model = make(tiny_config(4), {1, 3}, kBatch, 3, threads, StagePurpose::kTraining, dtype, recompute);
  model.initialize(kSeed);
  const std::vector<std::vector<int>> paths = {{0, 1}, {0}, {0, 1}};
  std::vector<float> bits;
  const auto append = [&](std::span<const float> values) { bits.insert(bits.end(), values.begin(), values.end()); };
  AdamWStep adamw;
  adamw.learning_rate = 1e-2f;
  for (; adamw.step <= 2; ++adamw.step) {
    model.zero_gradients();
    for (int slot = 0; slot < 3; ++slot) {
      model.fill_random_tokens(slot, kSeed + static_cast<uint64_t>(3 * adamw.step + slot));
      model.forward(slot, paths[static_cast<size_t>(slot)]);
    }
    for (const int slot : {1, 2, 0}) bits.push_back(static_cast<float>(model.loss(slot).sum));
    for (const int slot : {2, 0, 1}) model.backward(slot, paths[static_cast<size_t>(slot)]);
    for (const int s : {0, 1}) append(model.read(model.stage(s).gradients()));
    model.step(adamw);
    for (const int s : {0, 1}) append(model.read(model.stage(s).weights()));
  }
  return bits;
}

TEST_P(StageTest, RecomputationChangesNoBit) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
    if (dtype == Dtype::kBf16 && !has_bf16()) continue;
    for (const int threads : is_simulated() ? std::vector{1} : std::vector{1, 2}) {
      const std::vector<float> expected = bits_of_two_steps(dtype, threads, Recompute::kNone);
      ASSERT_TRUE(std::ranges::all_of(expected, [](float value) { return std::isfinite(value); }));
      for (const Recompute recompute : {Recompute::kAttention, Recompute::kBlock})
        EXPECT_EQ(bits_of_two_steps(dtype, threads, recompute), expected)
            << recompute_name(recompute) << ", " << dtype_name(dtype) << ", " << threads << " threads";
    }
  }
}

// What the comment on Stage says of slots, and once for all of them what they do not keep of a layer.
TEST_P(StageTest, RecomputationTakesTheMemoryThatItSays) {
  constexpr BatchShape kAligned = {2, 32};  // every tensor fills whole blocks of kBlockAlignment
  constexpr int64_t kSlots = 3, kLayers = 4, kRows = 64;
  const ModelConfig config = tiny_config(kLayers + 1);
  const int64_t hidden = kRows * config.channels, per_row = kRows * 4;
  const int64_t attention = kRows * (config.qkv_width() + config.heads * config.head_dim);
  const int64_t others = hidden + kRows * 2 * config.feed_forward;
  const int64_t attention_f32 = per_row * config.heads, others_f32 = per_row * 2;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16}) {
    if (dtype == Dtype::kBf16 && !has_bf16()) continue;
    const int64_t element = dtype_bytes(dtype);
    const int64_t attention_bytes = element * attention + attention_f32, other_bytes = element * others + others_f32;
    const int64_t stream_bytes = element * (kLayers + 2) * hidden;  // inputs, output and its gradient
    struct Case {
      Recompute recompute;
      int64_t kept, shared;
    };
    int64_t workspace_without = 0;
    for (const auto& [recompute, kept, shared] : {Case{Recompute::kNone, attention_bytes + other_bytes, 0},
                                                  Case{Recompute::kAttention, other_bytes, attention_bytes},
                                                  Case{Recompute::kBlock, 0, attention_bytes + other_bytes}}) {
      const TestModel model =
          make(config, {1, kLayers}, kAligned, kSlots, 1, StagePurpose::kTraining, dtype, recompute);
      const MemoryPlan& plan = model.plan(1);
      EXPECT_EQ(plan.bytes(Region::kActivations), kSlots * (stream_bytes + kLayers * kept))
          << recompute_name(recompute);
      if (recompute == Recompute::kNone) workspace_without = plan.bytes(Region::kWorkspace);
      EXPECT_EQ(plan.bytes(Region::kWorkspace), workspace_without + shared) << recompute_name(recompute);
    }
  }
}

TEST_P(StageTest, TheMemoryTableSaysWhatRecomputationCosts) {
  const auto table = [](Recompute recompute, const std::vector<int>& layers) {
    const TestModel model = make(tiny_config(2), layers, kBatch, 2, 1, StagePurpose::kTraining, Dtype::kF32, recompute);
    return model.plan(0).table();
  };
  // 24 x 64 + 32 x 8 of 5440 multiplications per token; all but 24 x 40.
  EXPECT_THAT(table(Recompute::kAttention, {2}),
              HasSubstr("for 2 x 7 tokens; recompute attention: +33 % of a forward"));
  EXPECT_THAT(table(Recompute::kBlock, {2}), HasSubstr("for 2 x 7 tokens; recompute block: +82 % of a forward"));
  EXPECT_THAT(table(Recompute::kNone, {2}), Not(HasSubstr("recompute")));
  EXPECT_EQ(table(Recompute::kBlock, {0, 2}), table(Recompute::kNone, {0, 2})) << "a stage without layers";
}

TEST_P(StageTest, WeightsWrittenFromOutsideCountOnceTheyAreRefreshed) {
  if (!has_bf16()) GTEST_SKIP() << "no bf16 on this device";
  TestModel written = make(tiny_config(2), {1, 1}, kBatch, 1, 1, StagePurpose::kTraining, Dtype::kBf16);
  TestModel initialized = make(tiny_config(2), {1, 1}, kBatch, 1, 1, StagePurpose::kTraining, Dtype::kBf16);
  initialized.initialize(kSeed);
  for (const int s : {0, 1})
    written.write(written.stage(s).weights(), initialized.read(initialized.stage(s).weights()));
  written.refresh_weights();
  for (TestModel* model : {&written, &initialized}) model->fill_random_tokens(0, kSeed);
  const std::vector<int> path = written.full_path();
  EXPECT_EQ(written.run(0, path).sum, initialized.run(0, path).sum);
}

TEST_P(StageTest, RefusesDtypesThatTheBackendDoesNotComputeIn) {
  Context context;
  context.backend = backend_.get();
  StageSpec spec{tiny_config(1), {0, 0, 1}, kBatch};
  spec.dtype = Dtype::kI32;
  MemoryPlan plan(backend_->device());
  EXPECT_THROW(Stage::plan_memory(plan, spec, context), ConfigError);
}

TEST_P(StageTest, BuffersOfStageZeroAndOfOthers) {
  TestModel model = make(tiny_config(2), {1, 1}, kBatch, 2);
  const Dims hidden = {2, 7, 24};
  for (const int s : {0, 1}) {
    EXPECT_EQ(model.stage(s).input(1).shape(), hidden);
    EXPECT_EQ(model.stage(s).output(1).shape(), hidden);
    EXPECT_EQ(model.stage(s).output_gradient(1).shape(), hidden);
    EXPECT_NE(model.stage(s).input(0).data(), model.stage(s).input(1).data());
  }
  EXPECT_EQ(model.stage(0).returned(0).shape(), hidden);
  EXPECT_EQ(model.stage(0).loss_gradient(0).shape(), hidden);
  EXPECT_THROW(model.stage(1).set_batch(0, {}, {}), InternalError);
  EXPECT_THROW(model.stage(0).set_batch(0, std::vector<int32_t>(13), std::vector<int32_t>(14)), ShapeError);
  EXPECT_TRUE(model.stage(1).returned(0).empty());
}

TEST_P(StageTest, RefusesWrongUse) {
  TestModel model = make(tiny_config(2), {1, 1}, kBatch);
  Stage &first = model.stage(0), &second = model.stage(1);
  EXPECT_THROW(first.forward(1), InternalError);
  EXPECT_THROW(first.forward(-1), InternalError);
  EXPECT_THROW(second.loss(0, second.output(0)), InternalError);
  EXPECT_THROW(second.backward(0, second.output_gradient(0), {}), InternalError);
  EXPECT_THROW(first.backward(0, first.output_gradient(0), first.output_gradient(0)), InternalError);
  EXPECT_THROW(first.loss(0, first.output(0).slice(0, 0, 1)), ShapeError);
}

TEST_P(StageTest, RefusesLayoutsAndBatchesThatDoNotFitTheModel) {
  const ModelConfig config = tiny_config(3);
  const auto refused = [&](const StageLayout& layout, const BatchShape& batch, int slots) {
    MemoryPlan plan;
    EXPECT_THROW(Stage::plan_memory(plan, {config, layout, batch, slots}, Context{}), ConfigError);
  };
  refused({0, 0, 4}, kBatch, 1);
  refused({1, 3, 1}, kBatch, 1);
  refused({1, 1, 0}, kBatch, 1);
  refused({-1, 0, 1}, kBatch, 1);
  refused({0, 0, 3}, {0, 7}, 1);
  refused({0, 0, 3}, {1, -7}, 1);
  refused({0, 0, 3}, {1, 65}, 1);  // more than max_position_embeddings
  refused({0, 0, 3}, {std::numeric_limits<int64_t>::max(), 2}, 1);
  refused({0, 0, 3}, kBatch, 0);
  MemoryPlan plan;
  StageSpec evaluation{config, {0, 0, 3}, kBatch, 1, StagePurpose::kEvaluation};
  evaluation.recompute = Recompute::kBlock;
  EXPECT_THROW(Stage::plan_memory(plan, evaluation, Context{}), InternalError);
}

TEST(StageLayouts, CoverTheModel) {
  const ModelConfig config = tiny_config(7);
  EXPECT_EQ(even_layers_per_stage(config, 3), (std::vector<int>{2, 2, 3}));
  EXPECT_EQ(even_layers_per_stage(config, 7), std::vector<int>(7, 1));
  EXPECT_THROW(even_layers_per_stage(config, 8), ConfigError);
  EXPECT_THROW(even_layers_per_stage(config, 0), ConfigError);
  const auto layouts = stage_layouts(config, std::vector<int>{0, 4, 3});
  EXPECT_EQ(layouts[2].first_layer, 4);
  EXPECT_EQ(layouts[2].layer_count, 3);
  EXPECT_THROW(stage_layouts(config, std::vector<int>{4, 4}), ConfigError);
  EXPECT_THROW(stage_layouts(config, std::vector<int>{4, 2}), ConfigError);
  EXPECT_THROW(stage_layouts(config, std::vector<int>{4, 0, 3}), ConfigError);
  EXPECT_THROW(stage_layouts(config, std::vector<int>{8, -1}), ConfigError);
}

TEST(RopeTable, StretchesLongWavesAndKeepsShortOnes) {
  ModelConfig config = tiny_config();
  config.head_dim = 64;
  const std::vector<float> plain = rope_frequencies(config);
  config.rope_scaling = RopeScaling{8, 1, 4, 128};
  const std::vector<float> scaled = rope_frequencies(config);
  ASSERT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain[0], 1);
  EXPECT_FLOAT_EQ(plain[16], 0.01f);  // 10000^-0.5
  EXPECT_EQ(scaled[0], plain[0]);     // 20 turns in 128 positions
  EXPECT_FLOAT_EQ(scaled[31], plain[31] / 8);
  for (size_t i = 1; i < scaled.size(); ++i) EXPECT_LT(scaled[i], scaled[i - 1]) << i;
}

}  // namespace
}  // namespace skippipe
