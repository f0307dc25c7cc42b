// What `skippipe bench` measures: which stage it chooses, and messages beside tasks on devices with memory of their
// own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "comm/transport/in_process_transport.h"
#include "kernels/backend.h"
#include "kernels/cpu_backend.h"
#include "tests/test_backend.h"
#include "tools/bench/datasheet.h"
#include "tools/bench/overlap.h"
#include "tools/bench/stage_choice.h"
#include "tools/bench/training_step.h"

namespace skippipe {
namespace {

BenchModel model_named(const std::string& name) {
  for (const ModelShape& shape : kModelShapes)
    if (shape.name == name) return bench_model(shape);
  throw InternalError("no shape is called {}", name);
}

TEST(BenchModels, HaveTheParametersOfTheirNames) {
  const auto millions = [](const char* name) {
    return static_cast<double>(model_named(name).config.parameters()) * 1e-6;
  };
  EXPECT_NEAR(millions("125M"), 134.1, 0.1);
  EXPECT_NEAR(millions("500M"), 478.5, 0.1);
  EXPECT_NEAR(millions("1.5B"), 1490.1, 0.1);
  // As published, of Qwen less the (H + 2K) D biases of each layer.
  EXPECT_EQ(model_named("8B").config.parameters(), 8'030'261'248);
  EXPECT_EQ(model_named("Qwen2.5-0.5B").config.parameters(), 494'032'768 - 24 * (14 + 2 * 2) * 64);
  EXPECT_EQ(model_named("Qwen2.5-1.5B").config.parameters(), 1'543'714'304 - 28 * (12 + 2 * 2) * 128);
}

// LLM.Q publishes 46.9 % of an H100's data sheet for 150k tokens/s of Qwen 2.5 0.5B, and 57.0 % for 59,254 of 1.5B
// (its benchmarks/H100x1.md), at T = 1024.
TEST(UsefulOperations, AreWhatOthersCount) {
  const double h100 = *datasheet_bf16_rate("NVIDIA H100 80GB HBM3");
  const auto share = [&](const char* name, double tokens_per_s) {
    const StageSpec spec{.config = model_named(name).config, .layout = {}, .batch = {32, 1024}};
    return useful_operations(spec) / (32 * 1024) * tokens_per_s / h100;
  };
  EXPECT_NEAR(share("Qwen2.5-0.5B", 150e3), 0.469, 0.002);
  EXPECT_NEAR(share("Qwen2.5-1.5B", 59254), 0.570, 0.001);
  EXPECT_FALSE(datasheet_bf16_rate("NVIDIA H100"));
}

class StageChoiceTest : public ::testing::Test {
 protected:
  StageChoiceTest() { context_.backend = backend_.get(); }

  StageSpec choose(const StageWish& wish) const { return choose_stage(model_, wish, context_).front(); }
  int64_t bytes(StageSpec spec, int layers, int64_t samples) const {
    spec.layout.layer_count = layers;
    spec.config.layers = layers;
    spec.batch.samples = samples;
    return stage_plan(spec, context_).total_bytes();
  }

  const std::unique_ptr<Backend> backend_ = make_cpu_backend();
  Context context_;
  const BenchModel model_ = model_named("125M");
};

TEST_F(StageChoiceTest, TakesTheMostSamplesThatFit) {
  StageWish wish{.batch = {0, 256}, .ways = {{}}, .limit_bytes = int64_t{1} << 50};
  const StageSpec most = choose(wish);
  EXPECT_EQ(most.batch.samples * most.batch.tokens, 4096);
  EXPECT_EQ(most.layout.layer_count, 12);
  wish.limit_bytes = bytes(most, 12, 8) - 1;
  EXPECT_EQ(choose(wish).batch.samples, 4);
  wish.limit_bytes += 1;
  EXPECT_EQ(choose(wish).batch.samples, 8);
  wish.batch.samples = 3;
  EXPECT_EQ(choose(wish).batch.samples, 3);
}

TEST_F(StageChoiceTest, LeavesOutTheLayersThatDoNotFit) {
  StageWish wish{.batch = {0, 256}, .ways = {{}}, .limit_bytes = int64_t{1} << 50};
  const StageSpec whole = choose(wish);
  // All layers with one sample, or five with eight.
  wish.limit_bytes = bytes(whole, 12, 1);
  EXPECT_EQ(choose(wish).layout.layer_count, 12);
  wish.limit_bytes = std::max(bytes(whole, 5, 8), bytes(whole, 12, 1) / 2);
  ASSERT_LT(wish.limit_bytes, bytes(whole, 6, 8));
  const StageSpec part = choose(wish);
  EXPECT_EQ(part.layout.layer_count, 5);
  EXPECT_EQ(part.config.layers, 5);
  EXPECT_EQ(part.batch.samples, 8);
  // Fewer samples where not even one layer fits with eight.
  wish.limit_bytes = bytes(whole, 1, 2);
  EXPECT_EQ(choose(wish).layout.layer_count, 1);
  EXPECT_EQ(choose(wish).batch.samples, 2);
  // What the user said stays.
  wish.layers = 7;
  EXPECT_EQ(choose(wish).layout.layer_count, 7);
  EXPECT_EQ(choose(wish).batch.samples, 1);
}

TEST_F(StageChoiceTest, CountsTheStagesOfAllWays) {
  StageWish wish{.batch = {0, 256}, .ways = {{}}, .limit_bytes = int64_t{1} << 50};
  const StageSpec whole = choose(wish);
  wish.ways = {{Dtype::kF32}, {Dtype::kF32}};
  wish.limit_bytes = 2 * bytes(whole, 12, 4);
  EXPECT_EQ(choose(wish).batch.samples, 4);
}

StageSpec tiny_stage(int index) {
  constexpr ModelShape kTiny = {"tiny", 16, 24, 2, 2, 1, 8, 20, false};
  return {.config = bench_model(kTiny).config,
          .layout = {.index = index, .first_layer = 0, .layer_count = 2},
          .batch = {1, 4}};
}

// On the CPU, on a simulated GPU whose memory the host can't touch, and on a real one.
class BenchOnDeviceTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::string why_none;
    backend_ = testing::make_test_backend(GetParam(), why_none);
    SKP_SKIP_WITHOUT(backend_, why_none);
    stream_.emplace(backend_->runtime());
    context_.backend = backend_.get();
    context_.stream = stream_->get();
  }

  std::unique_ptr<Backend> backend_;
  std::optional<OwnedStream> stream_;
  Context context_;
};

INSTANTIATE_TEST_SUITE_P(Devices, BenchOnDeviceTest, ::testing::Values("cpu", "simt", "cuda"),
                         [](const auto& test) { return test.param; });

// Throws unless messages come back whole.
TEST_P(BenchOnDeviceTest, MovesMessagesBesideTasks) {
  InProcessNetwork network(2, 1);
  const OverlapResult result = measure_overlap(tiny_stage(1), context_, network.transport(0), network.transport(1),
                                               {.message_bytes = 4096, .microbatches = 3, .rounds = 2});
  for (const auto& seconds : {result.alone_s, result.beside_s, result.exchange_s}) {
    ASSERT_EQ(seconds.size(), 2u);
    EXPECT_GT(seconds[0], 0);
    EXPECT_LE(seconds[0], seconds[1]);
  }
}

TEST_P(BenchOnDeviceTest, RunsSteps) {
  TrainingStep step(tiny_stage(0), context_);
  const double first = step.run();
  EXPECT_NEAR(first, std::log(20.0), 0.5);
  const int64_t allocations = backend_->runtime().allocations();
  double last = first;
  for (int i = 0; i < 5; ++i) last = step.run();
  EXPECT_LT(last, first);
  EXPECT_EQ(backend_->runtime().allocations(), allocations);
}

TEST_P(BenchOnDeviceTest, TimesOperations) {
  const TimedStep timed = time_operations(tiny_stage(0), context_);
  double sum = 0;
  for (const auto& [name, seconds] : timed.operation_s) sum += seconds;
  EXPECT_GT(timed.operation_s.at("attention backward"), 0);
  if (backend_->device() == Device::kCpu)
    EXPECT_GT(timed.seconds, sum);
  else
    EXPECT_NEAR(timed.seconds, sum, 1e-9);
}

}  // namespace
}  // namespace skippipe
