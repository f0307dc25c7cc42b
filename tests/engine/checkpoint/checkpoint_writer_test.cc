#include "engine/checkpoint/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "base/file.h"
#include "engine/checkpoint/model_files.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/test_model.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using test::tiny_config;
using test::values_of;

constexpr uint32_t kInterval = 10;

TEST(CheckpointProgress, RemembersWhatIsWritten) {
  CheckpointProgress progress;
  EXPECT_FALSE(progress.has(0, kInterval));
  progress.add(10, kInterval);
  progress.add(20, kInterval);
  progress.add(50, kInterval);  // 30 and 40 were given up
  for (const uint32_t iteration : {10u, 20u, 50u}) EXPECT_TRUE(progress.has(iteration, kInterval)) << iteration;
  for (const uint32_t iteration : {0u, 30u, 40u, 60u}) EXPECT_FALSE(progress.has(iteration, kInterval)) << iteration;
  progress.add(50 + 51 * kInterval, kInterval);
  EXPECT_TRUE(progress.has(50, kInterval));
  EXPECT_FALSE(progress.has(20, kInterval));
  EXPECT_LT(progress.history, uint64_t{1} << 53) << "not exact in a double";
  progress.add(50 + 500 * kInterval, kInterval);
  EXPECT_EQ(progress.history, 1u);
}

TEST(CheckpointProgress, AgreesOnThoseThatAllHave) {
  CheckpointProgress fast, slow, gave_up;
  for (const uint32_t iteration : {10u, 20u, 30u}) fast.add(iteration, kInterval);
  EXPECT_THAT(written_by_all(std::vector{fast, slow}, kInterval), ::testing::IsEmpty());
  slow.add(10, kInterval);
  EXPECT_THAT(written_by_all(std::vector{fast, slow}, kInterval), ::testing::ElementsAre(10));
  slow.add(20, kInterval);
  EXPECT_THAT(written_by_all(std::vector{fast, slow}, kInterval), ::testing::ElementsAre(10, 20));
  gave_up.add(10, kInterval);
  gave_up.add(30, kInterval);
  EXPECT_THAT(written_by_all(std::vector{fast, slow, gave_up}, kInterval), ::testing::ElementsAre(10));
  slow.add(30, kInterval);
  EXPECT_THAT(written_by_all(std::vector{fast, slow, gave_up}, kInterval), ::testing::ElementsAre(10, 30));
}

// A model in one stage whose state says how many steps it has done.
class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest() {
    Context context;
    context.backend = backend_.get();
    const ModelConfig config = tiny_config(2);
    const StageSpec spec{config, stage_layouts(config, std::vector<int>{2})[0], {1, 4}, 1};
    MemoryPlan memory;
    Stage::plan_memory(memory, spec, context);
    const int64_t without = memory.total_bytes();
    CheckpointWriter::plan_memory(memory);
    EXPECT_EQ(memory.total_bytes() - without, 3 * memory.bytes(Region::kGradients));
    slab_.emplace(memory, *backend_);
    stage_.emplace(spec, *slab_, context);
    settings_.folder = folder_ / "checkpoints";
    settings_.interval = kInterval;
    settings_.manifest.layers_per_stage = {2};
    settings_.manifest.optimizer = true;
  }

  void open() {
    writer_.emplace(settings_, *stage_, *slab_, make_null_logger(), [this] { wake(); });
  }
  void set_state(uint32_t iteration) {
    for (const Parameter& parameter : stage_->parameters()) {
      std::ranges::fill(values_of(parameter.weight), static_cast<float>(iteration));
      std::ranges::fill(values_of(parameter.first_moment), static_cast<float>(iteration) + 0.25f);
      std::ranges::fill(values_of(parameter.second_moment), static_cast<float>(iteration) + 0.5f);
    }
  }
  template <typename Condition>
  bool wait(Condition&& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), condition);
  }
  void write(uint32_t iteration) {
    set_state(iteration);
    writer_->snapshot(iteration);
    set_state(999);  // training goes on
    ASSERT_TRUE(wait([&] { return writer_->written(iteration); })) << writer_->last_error();
  }
  void publish(uint32_t iteration) {
    writer_->publish(iteration);
    ASSERT_TRUE(wait([&] { return writer_->idle(); }));
  }
  void expect_state(uint32_t iteration) {
    const fs::path checkpoint = settings_.folder / checkpoint_name(iteration);
    EXPECT_THAT(checkpoint_problems(checkpoint), ::testing::IsEmpty());
    EXPECT_EQ(load_checkpoint_manifest(checkpoint).iteration, iteration);
    ModelFiles(checkpoint).load_training_state(stage_->parameters(), stage_->context());
    for (const Parameter& parameter : stage_->parameters()) {
      EXPECT_THAT(values_of(parameter.weight), ::testing::Each(static_cast<float>(iteration)));
      EXPECT_THAT(values_of(parameter.first_moment), ::testing::Each(static_cast<float>(iteration) + 0.25f));
      EXPECT_THAT(values_of(parameter.second_moment), ::testing::Each(static_cast<float>(iteration) + 0.5f));
    }
  }

  const TempFolder folder_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::optional<Slab> slab_;
  std::optional<Stage> stage_;
  CheckpointSettings settings_;
  std::optional<CheckpointWriter> writer_;

 private:
  void wake() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
};

TEST_F(CheckpointWriterTest, WritesTheStateOfTheSnapshotAndShowsItOncePublished) {
  open();
  write(10);
  EXPECT_TRUE(list_checkpoints(settings_.folder).empty());
  EXPECT_TRUE(writer_->progress().has(10, kInterval));
  publish(10);
  EXPECT_EQ(writer_->published(), 10u);
  expect_state(10);
  write(17);  // the last one of a run that was stopped
  EXPECT_FALSE(writer_->progress().has(17, kInterval));
  publish(17);
  expect_state(17);
}

// From where the run began: here with sample 100, after its fifth iteration.
TEST_F(CheckpointWriterTest, CountsTheSamplesRead) {
  settings_.data = {.batch = 2, .sequence = 4, .microbatches = 3, .first_iteration = 5, .first_sample = 100};
  settings_.manifest.replicas = {1};
  settings_.manifest.microbatches = 3;
  settings_.manifest.run = {{"data.samples", "2"}};
  open();
  write(10);
  publish(10);
  EXPECT_EQ(load_checkpoint_manifest(settings_.folder / checkpoint_name(10)).samples, 130u);
}

TEST_F(CheckpointWriterTest, KeepsTheLastAndSomeOfTheOthers) {
  settings_.keep_last = 2;
  settings_.keep_every = 30;
  open();
  // Of a run that was killed.
  fs::create_directories(partial_checkpoint(settings_.folder / checkpoint_name(5)));
  fs::create_directories(settings_.folder / ".iteration-00000005.removed");
  for (uint32_t iteration = 10; iteration <= 70; iteration += 10) {
    write(iteration);
    publish(iteration);
  }
  EXPECT_EQ(list_checkpoints(settings_.folder), (std::vector<uint32_t>{30, 60, 70}));
  EXPECT_TRUE(list_partial_checkpoints(settings_.folder).empty());
  std::set<std::string> others;
  for (const auto& entry : fs::directory_iterator(settings_.folder)) others.insert(entry.path().filename());
  for (const uint32_t iteration : list_checkpoints(settings_.folder)) others.erase(checkpoint_name(iteration));
  EXPECT_THAT(others, ::testing::ElementsAre(".lock"));
  expect_state(30);
}

// A file where the folder should be: nothing can be written until it is gone.
TEST_F(CheckpointWriterTest, TriesAgainWhatFails) {
  open();
  folder_.write("checkpoints", "");
  set_state(10);
  writer_->snapshot(10);
  ASSERT_TRUE(wait([&] { return !writer_->last_error().empty(); }));
  EXPECT_THAT(writer_->last_error(), ::testing::HasSubstr("checkpoints"));
  fs::remove(settings_.folder);
  ASSERT_TRUE(wait([&] { return writer_->written(10); }));
  publish(10);
  expect_state(10);
}

TEST_F(CheckpointWriterTest, GivesUpWhatFailsForTheNext) {
  open();
  folder_.write("checkpoints", "");
  set_state(10);
  writer_->snapshot(10);
  ASSERT_TRUE(wait([&] { return !writer_->last_error().empty(); }));
  fs::remove(settings_.folder);
  write(20);
  EXPECT_FALSE(writer_->progress().has(10, kInterval));
  publish(20);
  EXPECT_EQ(list_checkpoints(settings_.folder), (std::vector<uint32_t>{20}));
  expect_state(20);
}

TEST_F(CheckpointWriterTest, AStateThatIsNotFiniteReplacesNothing) {
  open();
  write(10);
  publish(10);
  for (const auto state : {&Parameter::weight, &Parameter::second_moment}) {
    set_state(20);
    values_of(stage_->parameters()[1].*state)[3] = std::nanf("");
    writer_->snapshot(20);
    ASSERT_TRUE(wait([&] { return writer_->refused(20); }));
    EXPECT_THAT(writer_->last_error(), ::testing::HasSubstr("1 of "));
    EXPECT_THAT(writer_->last_error(), ::testing::HasSubstr("is not a number"));
    EXPECT_FALSE(writer_->written(20));
    EXPECT_FALSE(writer_->progress().has(20, kInterval));
  }
  EXPECT_TRUE(list_partial_checkpoints(settings_.folder).empty());
  expect_state(10);
  write(30);
  publish(30);
  expect_state(30);
}

TEST_F(CheckpointWriterTest, ReplacesABrokenOneThatAResumedRunReachesAgain) {
  fs::create_directories(settings_.folder / checkpoint_name(10));
  folder_.write("checkpoints/iteration-00000010/manifest.json", "{");
  open();
  write(10);
  publish(10);
  expect_state(10);
}

// A write that was killed left them under the name that the resumed run writes under.
TEST_F(CheckpointWriterTest, NothingElseIsInACheckpoint) {
  const fs::path partial = partial_checkpoint(settings_.folder / checkpoint_name(10));
  fs::create_directories(partial / "folder");
  for (const char* name : {"stage-00.safetensors.tmp.99", "stage-07.safetensors", "stage-07.json"})
    write_file_atomically(partial / name, "x");
  open();
  write(10);
  publish(10);
  expect_state(10);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(settings_.folder / checkpoint_name(10)))
    names.insert(entry.path().filename());
  EXPECT_THAT(names, ::testing::ElementsAre("config.json", "manifest.json", "optimizer-00.safetensors", "stage-00.json",
                                            "stage-00.safetensors"));
}

TEST_F(CheckpointWriterTest, EndsWhileAPartFails) {
  open();
  folder_.write("checkpoints", "");
  writer_->snapshot(10);
  ASSERT_TRUE(wait([&] { return !writer_->last_error().empty(); }));
  writer_.reset();
  EXPECT_EQ(read_file(settings_.folder), "");
}

}  // namespace
}  // namespace skippipe
