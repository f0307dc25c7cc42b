// Where a resumed run goes on: the iteration, and the sample of the data.
#include "engine/run/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

// A checkpoint after 10 iterations of 6 microbatches of 4 samples, resumed by a run of `run_`.
class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest() {
    run_.file.output = folder_ / "run";
    run_.file.iterations = 20;
    set_microbatches(6);
    manifest_.iteration = 10;
    manifest_.layers_per_stage = {2};
    manifest_.optimizer = true;
    manifest_.replicas = {1};
    manifest_.microbatches = 6;
    manifest_.samples = 240;
    for (const auto& [field, value] : run_file_values(run_.file)) manifest_.run.emplace(field, value);
    run_.plan.workload.stage_layers = {2};
    run_.plan.stages = {{0}};
  }

  void set_microbatches(size_t count) { run_.plan.microbatches.assign(count, {.visits = {{.node = 0}}}); }
  // The run as it then begins.
  TrainingRun resumed() const {
    write_checkpoint_description(folder_ / "checkpoint", manifest_, test::tiny_config(2), {});
    TrainingRun run = run_;
    choose_start(run, {.resume_from = folder_ / "checkpoint", .is_whole = true});
    EXPECT_EQ(run.first_iteration, 10u);
    return run;
  }
  uint64_t first_sample() const { return resumed().first_sample; }
  std::vector<std::string> changes() const { return changes_since(manifest_, resumed()); }

  const TempFolder folder_;
  TrainingRun run_;
  CheckpointManifest manifest_;
};

TEST_F(ResumeTest, GoesOnWithTheNextSample) {
  EXPECT_EQ(first_sample(), 240u);
  EXPECT_THAT(changes(), ElementsAre());
  set_microbatches(12);
  run_.file.samples = 1;
  EXPECT_EQ(first_sample(), 240u);
  EXPECT_EQ(resumed().sampler_shape().samples_before(13), 240u + 3 * 12);
  EXPECT_THAT(changes(), ElementsAre("microbatches: 6 before, 12 now", "data.samples: 4 before, 1 now"));
  manifest_.samples = 1000;  // a run that had other numbers before
  EXPECT_EQ(first_sample(), 1000u);
}

TEST_F(ResumeTest, DerivesItFromOldCheckpoints) {
  manifest_.samples.reset();
  set_microbatches(5);
  EXPECT_EQ(first_sample(), 240u);
  EXPECT_THAT(changes(), Contains(HasSubstr("240 are taken for read, iterations x microbatches x samples of its run")));
  manifest_.run.clear();  // no run is known, nor what its iterations were
  EXPECT_EQ(first_sample(), 10u * 5 * 4);
  EXPECT_THAT(changes(), ElementsAre(HasSubstr("200 are taken for read, iterations x microbatches x samples of this")));
}

TEST_F(ResumeTest, TellsWhatDataOfAnotherKindMean) {
  run_.file.tokens = 32;  // of 128
  EXPECT_EQ(first_sample(), 960u);
  EXPECT_THAT(changes(), Contains(HasSubstr("data.tokens: the data are cut anew, and as many tokens taken for read")));
  run_.file.tokens = 1000;
  EXPECT_EQ(first_sample(), 240u * 128 / 1000);
  run_.file.tokens = 128;
  run_.file.seed = 8;
  EXPECT_EQ(first_sample(), 240u);
  EXPECT_THAT(changes(),
              Contains(HasSubstr("run.seed: the data are shuffled anew: of the present epoch, some samples")));
  run_.file.train_tokens = "other.tokens";
  EXPECT_THAT(changes(), Contains("data.train: if this is another shard, it goes on with sample 240, too"));
}

// The weights that a run began with may be gone when it goes on.
TEST_F(ResumeTest, OnlyANewRunWantsItsWeights) {
  run_.file.weights = folder_ / "gone";
  EXPECT_EQ(first_sample(), 240u);
  TrainingRun run = run_;
  SKP_EXPECT_ERROR(choose_start(run, {}), ConfigError, "gone: no such file or folder");
  run.file.weights.clear();
  choose_start(run, {});
  EXPECT_EQ(run.first_sample, 0u);
}

// Nodes that would read other data must not meet.
TEST_F(ResumeTest, ThePositionIsPartOfTheRun) {
  const uint64_t id = resumed().file.run_id;
  EXPECT_EQ(resumed().file.run_id, id);
  manifest_.samples = 241;
  EXPECT_NE(resumed().file.run_id, id);
}

TEST_F(ResumeTest, RefusesPositionsThatCannotBe) {
  manifest_.samples = kMaxSamples;
  SKP_EXPECT_ERROR(resumed(), ConfigError, "more than 4611686018427387904 samples of the data");
  run_.file.tokens = 1;
  SKP_EXPECT_ERROR(resumed(), ConfigError, "checkpoint: more than 4611686018427387904 samples");
  for (const char* bad : {"0", "-4", "x", "4.5", "99999999999999999999"}) {
    manifest_.run["data.tokens"] = bad;
    SKP_EXPECT_ERROR(resumed(), FileError, "data.tokens: found ");
  }
}

}  // namespace
}  // namespace skippipe
