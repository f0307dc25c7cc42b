// Checkpoints and resuming, as a user meets them.
#include <sys/resource.h>

#include "base/random.h"
#include "engine/checkpoint_files.h"
#include "engine/model_files.h"
#include "tests/tools/run_fixture.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointVerbsTest : public RunFixture {
 protected:
  // Weights and moments of all stages.
  static std::map<std::string, std::string> state_of(const fs::path& checkpoint) {
    EXPECT_THAT(checkpoint_problems(checkpoint), ::testing::IsEmpty());
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(checkpoint))
      if (entry.path().extension() == ".safetensors") files[entry.path().filename()] = read_file(entry.path());
    return files;
  }
  static fs::path checkpoint(uint32_t iteration) {
    return checkpoints_folder(output_folder()) / checkpoint_name(iteration);
  }
  static void remove_output() { fs::remove_all(output_folder()); }

  // Runs the job, which is killed again and again at moments drawn from the seed, to its end. Returns how often.
  static int run_with_kills(const std::string& run_file, uint64_t seed) {
    Random random(seed);
    for (int kills = 0;; ++kills) {
      BackgroundLaunch launch(
          run_file, kills == 0 || list_checkpoints(checkpoints_folder(output_folder())).empty() ? "" : "--resume");
      const size_t lines = metrics().size() + 1 + random.below(9);
      // Some of the kills come while a checkpoint is being written.
      const bool while_writing = random.below(2) == 0;
      const auto is_time = [&] {
        return metrics().size() >= lines &&
               (!while_writing || !list_partial_checkpoints(checkpoints_folder(output_folder())).empty());
      };
      while (!is_time() && !launch.wait(std::chrono::milliseconds(1))) {
      }
      launch.kill_it();
      const auto code = launch.wait(kLongEnough);
      EXPECT_TRUE(launch.wait_for_no_nodes());
      if (code == 0) return kills;
      if (code != -SIGKILL) {
        ADD_FAILURE() << launch.output();
        return kills;
      }
    }
  }
};

TEST_F(CheckpointVerbsTest, ARunThatIsKilledAgainAndAgainEndsAsOneThatIsNot) {
  for (const bool clips : {true, false}) {
    Sections sections;
    sections.run = "iterations = 40";
    sections.checkpoint = "interval = 3";
    if (!clips) {
      sections.optimizer = "clip_norm = 0";
      sections.plan = "file = \"unclipped.json\"\nnetwork = \"network.json\"";
      must_run(
          "plan --no-norm-exchange --method full --stages 2 --microbatches 4 --samples 4 --tokens 32 --evaluations 50 "
          "--model " +
          path("config.json") + " --network " + path("network.json") + " --out " + path("unclipped.json"));
    }
    const std::string run_file = write_run(sections);
    must_run("launch " + run_file);
    const auto expected = state_of(checkpoint(40));
    ASSERT_EQ(expected.size(), 4u);
    const auto expected_metrics = metrics();
    remove_output();
    int kills = 0;
    for (const uint64_t seed : {1, 2, 3}) {
      SCOPED_TRACE(seed);
      kills += run_with_kills(run_file, seed);
      EXPECT_TRUE(state_of(checkpoint(40)) == expected);
      const auto found = metrics();
      ASSERT_EQ(found.size(), expected_metrics.size());
      for (size_t i = 0; i < found.size(); ++i)
        for (const char* field : {"iteration", "loss", "gradient_norm", "learning_rate"})
          EXPECT_EQ(found[i][field], expected_metrics[i][field]) << i;
      remove_output();
    }
    EXPECT_GE(kills, 6);
  }
}

}  // namespace
}  // namespace skippipe
