// Checkpoints and resuming, as a user meets them.
#include "base/random.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "engine/checkpoint/model_files.h"
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
  // Iterations told so far: the last line may be half written, while the run goes on or because it was killed.
  static size_t told() {
    std::ifstream file(output_folder() + "/metrics.jsonl");
    return static_cast<size_t>(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
  }
  static void remove_output() { fs::remove_all(output_folder()); }

  static constexpr uint32_t kIterations = 40;
  // Runs the job, which is killed again and again at moments drawn from the seed, to its end. Returns how often.
  static int run_with_kills(const std::string& run_file, uint64_t seed) {
    Random random(seed);
    for (int kills = 0;; ++kills) {
      BackgroundLaunch launch(
          run_file, kills == 0 || list_checkpoints(checkpoints_folder(output_folder())).empty() ? "" : "--resume");
      const size_t lines = told() + 1 + random.below(9);
      // Some of the kills come while a checkpoint is being written.
      const bool while_writing = random.below(2) == 0;
      const auto is_time = [&] {
        return told() >= lines &&
               (!while_writing || !list_partial_checkpoints(checkpoints_folder(output_folder())).empty());
      };
      while (!is_time() && !launch.wait(std::chrono::milliseconds(1))) {
      }
      launch.kill_it();
      const auto code = launch.wait(kLongEnough);
      EXPECT_TRUE(launch.wait_for_no_nodes());
      if (code == 0) return kills;
      const auto newest = newest_whole_checkpoint(output_folder());
      if (newest && load_checkpoint_manifest(*newest).iteration == kIterations) return kills + 1;  // nothing is left
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
    sections.run = fmt::format("iterations = {}", kIterations);
    sections.checkpoint = "interval = 3";
    if (!clips) {
      sections.optimizer = "clip_norm = 0";
      sections.plan = "file = \"unclipped.json\"\nnetwork = \"network.json\"";
      must_run(
          "plan --no-norm-exchange --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 "
          "--model " +
          path("config.json") + " --network " + path("network.json") + " --out " + path("unclipped.json"));
    }
    must_run("launch " + write_run(sections));
    const auto expected = state_of(checkpoint(kIterations));
    ASSERT_EQ(expected.size(), 4u);
    remove_output();
    sections.data += "\nvalidation = \"tokens/validation.tokens\"\n[validation]\ninterval = 4\nsamples = 6";
    const std::string run_file = write_run(sections);
    must_run("launch " + run_file);
    EXPECT_TRUE(state_of(checkpoint(kIterations)) == expected) << "validation changes nothing that is trained";
    const auto expected_metrics = metrics();
    remove_output();
    int kills = 0;
    for (const uint64_t seed : {1, 2, 3}) {
      SCOPED_TRACE(seed);
      kills += run_with_kills(run_file, seed);
      EXPECT_TRUE(state_of(checkpoint(kIterations)) == expected);
      const auto found = metrics();
      ASSERT_EQ(found.size(), expected_metrics.size());
      for (size_t i = 0; i < found.size(); ++i)
        for (const char* field : {"iteration", "loss", "gradient_norm", "learning_rate", "validation_loss"})
          EXPECT_EQ(found[i].value(field, -1.0), expected_metrics[i].value(field, -1.0)) << i;
      remove_output();
    }
    EXPECT_GE(kills, 6);
  }
}

// A run that begins with a model's weights hands on what came with them, also when it is resumed.
TEST_F(CheckpointVerbsTest, WhatCameWithTheWeightsGoesThroughARun) {
  Sections sections;
  must_run("launch " + write_run(sections));
  must_run("convert " + output_folder() + " --out " + path("hf") + " --tokenizer " + path("tok.model"));
  remove_output();
  const std::map<std::string, std::string> companions = {{"tokenizer_config.json", "{\"add_bos_token\": true}"},
                                                         {"chat_template.jinja", "{{ messages }}"},
                                                         {"generation_config.json", "{\"eos_token_id\": [2, 7]}"}};
  for (const auto& [name, content] : companions) folder_->write("hf/" + name, content);
  folder_->write("with-eos.json", read_file(path("hf/config.json")));
  sections.model = "config = \"with-eos.json\"\nweights = \"hf\"";
  sections.data += "\ntokenizer = \"tok.model\"";
  must_run("launch " + write_run(sections));
  fs::rename(path("hf"), path("gone"));
  sections.run = "iterations = 4";
  must_run("launch --resume " + write_run(sections));
  must_run("convert " + output_folder() + " --out " + path("back"));
  for (const auto& [name, content] : companions) EXPECT_EQ(read_file(path("back/" + name)), content) << name;
  EXPECT_EQ(read_file(path("back/tokenizer.json")), read_file(path("gone/tokenizer.json")));
  EXPECT_EQ(read_file(path("back/tokenizer.model")), read_file(path("tok.model")));

  // With another tokenizer that is told.
  remove_output();
  fs::rename(path("gone"), path("hf"));
  must_run("tokenizer --vocabulary 390 --out " + path("other.model") + " '" SKIPPIPE_SOURCE_DIR "/LICENSE'");
  sections.data = Sections().data + "\ntokenizer = \"other.model\"";
  const ProgramResult other = run_skippipe("launch " + write_run(sections));
  EXPECT_EQ(other.exit_code, 0) << other.output;
  EXPECT_THAT(other.output, HasSubstr("data.tokenizer is another tokenizer than came with the weights"));
  EXPECT_FALSE(fs::exists(checkpoint(4) / "tokenizer_config.json"));
  EXPECT_TRUE(fs::exists(checkpoint(4) / "tokenizer.model"));
}

// The same model and data under other stages: the losses go on as they would have.
TEST_F(CheckpointVerbsTest, ARunGoesOnUnderAnotherPlan) {
  must_run("plan --method full --stages 1 --microbatches 1 --samples 4 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("network.json") + " --out " + path("one-stage.json"));
  Sections sections;
  sections.run = "iterations = 9";
  sections.optimizer = "learning_rate = 5e-3\nschedule = \"constant\"";
  must_run("launch " + write_run(sections));
  const auto expected = metrics();
  remove_output();
  sections.run = "iterations = 6";
  must_run("launch " + write_run(sections));
  sections.run = "iterations = 9";
  sections.plan = "file = \"one-stage.json\"\nnetwork = \"network.json\"";
  const ProgramResult resumed = run_skippipe("launch --resume " + write_run(sections));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resuming from iteration 6"));
  EXPECT_THAT(resumed.output, HasSubstr("layers per stage: 1,1 before, 2 now"));
  EXPECT_THAT(resumed.output, HasSubstr("nodes per stage: 2,2 before, 4 now"));
  EXPECT_THAT(resumed.output, HasSubstr("run.iterations: 6 before, 9 now"));
  EXPECT_THAT(resumed.output, ::testing::Not(HasSubstr("learning_rate:")));
  const auto found = metrics();
  ASSERT_EQ(found.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    const double loss = expected[i]["loss"];
    EXPECT_NEAR(found[i]["loss"].get<double>(), loss, 1e-4 * loss) << i;
  }
}

// Iterations of twice or half the microbatches, whose samples are half or twice as many: with a learning rate of 0, the
// loss of an iteration is the mean of those that an uninterrupted run has for the same samples.
TEST_F(CheckpointVerbsTest, TheDataGoOnUnderAnotherBatch) {
  must_run("plan --method full --stages 1 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("network.json") + " --out " + path("twice.json"));
  must_run("plan --method full --stages 1 --microbatches 1 --samples 2 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("network.json") + " --out " + path("half.json"));
  Sections sections;
  sections.optimizer = "learning_rate = 0";
  sections.run = "iterations = 4";
  must_run("launch " + write_run(sections));
  std::vector<double> expected;
  for (const nlohmann::json& line : metrics()) expected.push_back(line["loss"]);
  EXPECT_EQ(metrics().back()["samples"], 4 * 4 * 4);
  remove_output();

  sections.run = "iterations = 1";
  must_run("launch " + write_run(sections));
  const auto go_on = [&](int iterations, const std::string& plan, int samples) {
    sections.run = fmt::format("iterations = {}", iterations);
    sections.plan = fmt::format("file = \"{}\"\nnetwork = \"network.json\"", plan);
    sections.data = fmt::format("train = \"tokens/train.tokens\"\nsamples = {}\ntokens = 32", samples);
    const ProgramResult resumed = run_skippipe("launch --resume " + write_run(sections));
    EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
    return resumed.output;
  };
  EXPECT_THAT(go_on(3, "half.json", 2), HasSubstr("with sample 16 of the data"));
  EXPECT_THAT(go_on(4, "twice.json", 4), HasSubstr("with sample 32 of the data"));
  const auto found = metrics();
  ASSERT_EQ(found.size(), 4u);
  EXPECT_NEAR((found[1]["loss"].get<double>() + found[2]["loss"].get<double>()) / 2, expected[1], 1e-5);
  EXPECT_NEAR(found[3]["loss"].get<double>(), (expected[2] + expected[3]) / 2, 1e-5);
  EXPECT_EQ(found[3]["samples"], 64);
  EXPECT_EQ(load_checkpoint_manifest(checkpoint(4)).samples, 64u);
}

TEST_F(CheckpointVerbsTest, RefusesStartsThatWouldMixRuns) {
  Sections sections;
  sections.run = "iterations = 4";
  sections.checkpoint = "interval = 2";
  const std::string run_file = write_run(sections);
  const auto expect_refused = [](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_skippipe("launch " + arguments);
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(part));
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  };
  expect_refused("--resume " + run_file, "no whole checkpoint to resume from");
  must_run("launch " + run_file);
  const auto state = state_of(checkpoint(4));
  expect_refused(run_file, "iteration-00000004 is there: --resume goes on from it");
  expect_refused("--resume " + run_file, "has 4 iterations, and run.iterations is 4: nothing is left to do");
  expect_refused("--resume-from " + checkpoint(2).string() + " " + run_file, "is newer than");
  expect_refused("--resume-from " + path("tokens") + " " + run_file, "not a whole checkpoint");
  EXPECT_TRUE(state_of(checkpoint(4)) == state);
  // Also where the newest is broken, and one between is not.
  fs::copy(checkpoint(2), checkpoint(1), fs::copy_options::recursive);
  std::string manifest = read_file(checkpoint(1) / "manifest.json");
  const std::string iteration = "\"iteration\": 2";
  ASSERT_NE(manifest.find(iteration), std::string::npos);
  write_file_atomically(checkpoint(1) / "manifest.json",
                        manifest.replace(manifest.find(iteration), iteration.size(), "\"iteration\": 1"));
  fs::copy(checkpoint(4), checkpoint(5), fs::copy_options::recursive);
  fs::resize_file(checkpoint(5) / "stage-01.safetensors", 100);
  expect_refused("--resume-from " + checkpoint(1).string() + " " + run_file, "iteration-00000004 is newer than");
  fs::remove_all(checkpoint(1));
  fs::remove_all(checkpoint(5));
  // One that is broken is passed over, and reached again.
  fs::resize_file(checkpoint(4) / "stage-01.safetensors", 100);
  const ProgramResult resumed = run_skippipe("launch --resume " + run_file);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("passed over"));
  EXPECT_TRUE(state_of(checkpoint(4)) == state);
}

// The last ones are written while the run ends.
TEST_F(CheckpointVerbsTest, KeepsWhatItIsToldToKeep) {
  Sections sections;
  sections.run = "iterations = 7";
  sections.checkpoint = "interval = 1\nkeep_last = 1\nkeep_every = 2";
  must_run("launch " + write_run(sections));
  EXPECT_THAT(list_checkpoints(checkpoints_folder(output_folder())), ::testing::ElementsAre(2, 4, 6, 7));
}

TEST_F(CheckpointVerbsTest, APlanThatChangedUnderItsNameIsTold) {
  Sections sections;
  sections.run = "iterations = 2";
  sections.plan = "file = \"changing.json\"\nnetwork = \"network.json\"";
  const auto plan_with = [](const std::string& seed) {
    must_run("plan --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --model " +
             path("config.json") + " --network " + path("network.json") + " --out " + path("changing.json") +
             " --seed " + seed);
  };
  plan_with("1");
  must_run("launch " + write_run(sections));
  plan_with("2");
  sections.run = "iterations = 3";
  const ProgramResult resumed = run_skippipe("launch --resume " + write_run(sections));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("plan.file: another content than before"));
  EXPECT_THAT(resumed.output, ::testing::Not(HasSubstr("plan.network: ")));
}

TEST_F(CheckpointVerbsTest, ANewRunBeginsWithGivenWeights) {
  Sections sections;
  sections.run = "iterations = 1";
  sections.optimizer = "learning_rate = 0";
  must_run("launch " + write_run(sections));
  const fs::path first = path("first-run");
  fs::rename(output_folder(), first);
  sections.run = "iterations = 1\nseed = 99";
  sections.model = "config = \"config.json\"\nweights = \"first-run\"";
  must_run("launch " + write_run(sections));
  const auto weights = [](const fs::path& run) { return read_file(ModelFiles(run).folder() / "stage-01.safetensors"); };
  EXPECT_EQ(weights(output_folder()), weights(first));
  std::string config = read_file(path("config.json"));
  config.replace(config.find("1e-5"), 4, "1e-6");
  folder_->write("other-config.json", config);
  sections.model = "config = \"other-config.json\"\nweights = \"first-run\"";
  remove_output();
  const ProgramResult refused = run_skippipe("launch " + write_run(sections));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, HasSubstr("weights of another model"));
  EXPECT_THAT(refused.output, HasSubstr(": rms_norm_eps: found 1e-05, expected 1e-06"));
  fs::remove_all(first);
}

TEST_F(CheckpointVerbsTest, ARunWithWeightsThatAreNotFiniteDoesNotBegin) {
  Sections sections;
  sections.run = "iterations = 1";
  must_run("launch " + write_run(sections));
  const fs::path first = path("first-run");
  fs::rename(output_folder(), first);
  must_run("convert " + first.string() + " --out " + path("weights"));
  std::string bytes = read_file(path("weights/model.safetensors"));
  bytes.replace(bytes.size() - 4, 4, std::string("\0\0\xc0\xff", 4));
  folder_->write("weights/model.safetensors", bytes);
  sections.model = "config = \"config.json\"\nweights = \"weights\"";
  const ProgramResult refused = run_skippipe("launch " + write_run(sections));
  EXPECT_EQ(refused.exit_code, 1) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("weights/model.safetensors: tensor 'lm_head.weight': 1 of "));
  EXPECT_FALSE(fs::exists(fs::path(output_folder()) / "metrics.jsonl"));
  fs::remove_all(first);
}

// Ids that convert writes for transformers make it no other model.
TEST_F(CheckpointVerbsTest, ARunGoesOnFromWhatConvertWrote) {
  Sections sections;
  sections.run = "iterations = 1";
  sections.data += "\ntokenizer = \"tok.model\"";
  must_run("launch " + write_run(sections));
  const fs::path first = path("first-run");
  fs::rename(output_folder(), first);
  must_run("convert " + first.string() + " --out " + path("converted"));
  EXPECT_THAT(read_file(path("converted/config.json")), HasSubstr("eos_token_id"));
  sections.model = "config = \"config.json\"\nweights = \"converted\"";
  must_run("launch " + write_run(sections));
  fs::remove_all(first);
  fs::remove_all(path("converted"));
}

TEST_F(CheckpointVerbsTest, ARunThatGoesWrongKeepsItsLastGoodCheckpoint) {
  Sections sections;
  sections.run = "iterations = 4";
  sections.checkpoint = "interval = 1";
  must_run("launch " + write_run(sections));
  sections.run = "iterations = 24";
  sections.optimizer = "learning_rate = 1000\nweight_decay = 1000\nschedule = \"constant\"";
  const std::string run_file = write_run(sections);
  const ProgramResult wrong = run_skippipe("launch " + run_file + " --resume --device cpu,cpu");
  EXPECT_EQ(wrong.exit_code, 1) << wrong.output;
  EXPECT_THAT(wrong.output,
              ::testing::ContainsRegex("iteration [0-9]+: the loss is .* and the gradient norm is not a number"));
  EXPECT_THAT(wrong.output, ::testing::Not(HasSubstr("nan")));
  const auto left = list_checkpoints(checkpoints_folder(output_folder()));
  ASSERT_FALSE(left.empty());
  EXPECT_THAT(wrong.output,
              ::testing::EndsWith(fmt::format("newest whole checkpoint: iteration {}; go on with: skippipe "
                                              "launch {} --device cpu,cpu --resume\n",
                                              left.back(), run_file)));
  for (const uint32_t iteration : left)
    EXPECT_EQ(run_skippipe("inspect " + checkpoint(iteration).string()).exit_code, 0) << iteration;
}

// Files may not grow beyond what weights need: what a full disk does to a write.
TEST_F(CheckpointVerbsTest, AFullDiskKeepsTheRunAlive) {
  Sections sections;
  sections.run = "iterations = 8";
  sections.checkpoint = "interval = 3\nlast_limit_s = 0";
  const std::string run_file = write_run(sections);
  const ProgramResult full = run_skippipe("launch " + run_file, "/dev/null", "ulimit -f 64;");
  EXPECT_EQ(full.exit_code, 1) << full.output;
  EXPECT_THAT(full.output, HasSubstr("training goes on"));
  EXPECT_THAT(full.output, HasSubstr("/checkpoints/iteration-00000003/"));
  EXPECT_THAT(full.output, ::testing::Not(HasSubstr(".partial")));
  EXPECT_THAT(full.output, HasSubstr("the last checkpoint is not whole: "));
  EXPECT_THAT(full.output,
              ::testing::EndsWith("\nno whole checkpoint yet; begin again with: skippipe launch " + run_file + "\n"));
  EXPECT_EQ(metrics().size(), 8u);
  EXPECT_TRUE(list_checkpoints(checkpoints_folder(output_folder())).empty());
  must_run("launch " + run_file);
  EXPECT_EQ(state_of(checkpoint(8)).size(), 4u);
}

}  // namespace
}  // namespace skippipe
