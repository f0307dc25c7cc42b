// train and launch, as a user calls them: a small run of four node processes on real text.
#include "base/error.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "engine/run/run_description.h"
#include "kernels/cpu_backend.h"
#include "schedule/plan/plan.h"
#include "tests/expect_error.h"
#include "tests/tools/run_fixture.h"
#include "tests/tools/unused_addresses.h"
#include "tools/processes/local_addresses.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RunVerbsTest : public RunFixture {};

// The bound is below 2.39, the entropy of this text given the token before (4.47 without it): layers and attention must
// have learned, on every node.
TEST_F(RunVerbsTest, LossOnRealTextFalls) {
  Sections sections;
  sections.run = "iterations = 400";
  sections.network = "";
  const ProgramResult result = run_skippipe("launch " + write_run(sections));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("iterations 400/400"));
  EXPECT_THAT(result.output, HasSubstr("device: CPU ("));
  EXPECT_EQ(result.output.find("device: "), result.output.rfind("device: ")) << "told once, not by every node";
  const std::vector<nlohmann::json> lines = metrics();
  ASSERT_EQ(lines.size(), 400u);
  EXPECT_GT(lines.front()["loss"], 5.5);
  EXPECT_LT(lines.back()["loss"], 2.0);

  const ProgramResult eval =
      run_skippipe("eval --model " + output_folder() + " --data " + path("tokens/train.tokens") + " --tokens 32");
  ASSERT_EQ(eval.exit_code, 0) << eval.output;
  const auto report = nlohmann::json::parse(read_file(output_folder() + "/evaluation.json"));
  EXPECT_LT(report["results"][0]["choices"][0]["loss"], 2.2);
}

// As eval measures it, at the end and in between.
TEST_F(RunVerbsTest, MeasuresTheLossOfHeldOutSamples) {
  Sections sections;
  sections.run = "iterations = 5";
  const ProgramResult dry = run_skippipe("launch --dry-run " + write_run(sections));
  sections.data += "\nvalidation = \"tokens/validation.tokens\"\n[validation]\ninterval = 2\nsamples = 6";
  EXPECT_EQ(run_skippipe("launch --dry-run " + write_run(sections)).output, dry.output) << "takes no memory";
  const ProgramResult result = run_skippipe("launch " + write_run(sections));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const auto lines = metrics();
  ASSERT_EQ(lines.size(), 5u);
  for (const size_t i : {0u, 1u, 2u, 3u, 4u}) {
    const bool due = i == 1 || i == 3 || i == 4;
    EXPECT_EQ(lines[i].contains("validation_loss"), due) << i;
    const std::string line = fmt::format("validation after {} iterations: loss ", i + 1);
    EXPECT_EQ(result.output.find(line) != std::string::npos, due) << result.output;
  }
  EXPECT_FALSE(lines[4].contains("validation_path_loss")) << "the plan's paths are all stages in order";
  must_run("eval --model " + output_folder() + " --data " + path("tokens/validation.tokens") +
           " --tokens 32 --samples 6 --batch 4 --threads 1");
  const auto report = nlohmann::json::parse(read_file(output_folder() + "/evaluation.json"));
  const double loss = report["results"][0]["choices"][0]["loss"];
  EXPECT_EQ(report["predicted_tokens"], 6 * 32);
  EXPECT_NEAR(lines[4]["validation_loss"], loss, 1e-12 * loss) << "but for the order of two data nodes' sums";
}

TEST_F(RunVerbsTest, RefusesHeldOutSamplesThatCanNotBe) {
  const auto refuses = [](const std::string& shard, const std::string& fields, const std::string& why) {
    Sections sections;
    sections.data += fmt::format("\nvalidation = \"{}\"\n[validation]\n{}", shard, fields);
    expect_refused(sections, why);
    EXPECT_FALSE(fs::exists(output_folder()));
  };
  refuses("tokens/none.tokens", "", "data.validation: ");
  refuses("config.json", "", "data.validation: ");
  refuses("tokens/validation.tokens", "samples = 1000000", "validation.samples = 1000000 of data.tokens = 32 need");
  refuses("tokens/validation.tokens", "interval = 0", "validation.interval: found 0");
  refuses("tokens/validation.tokens", "intervall = 5", "validation.interval");
  must_run("tokenizer --vocabulary 420 --out " + path("large.model") + " '" SKIPPIPE_SOURCE_DIR "/LICENSE'");
  must_run("tokenize --document-lines 10 --validation-share 0.2 --tokenizer " + path("large.model") + " --out " +
           path("large") + " '" SKIPPIPE_SOURCE_DIR "/LICENSE'");
  refuses("large/validation.tokens", "", "data.validation: ");
}

TEST_F(RunVerbsTest, PrintsTheFieldsOfARunFile) {
  const ProgramResult result = run_skippipe("launch --fields");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, run_file_reference());
}

// run.json has all that a report needs, wherever the files are by then.
TEST_F(RunVerbsTest, ARunDescribesItself) {
  const std::string run_file = write_run({});
  ASSERT_EQ(run_skippipe("launch " + run_file).exit_code, 0);
  const RunDescription found = load_run_description(output_folder());
  const TrainingRun run = load_run(run_file);
  EXPECT_EQ(found.run_id, run_id_text(run.file.run_id));
  EXPECT_EQ(found.run_file, run_file_values(run.file));
  EXPECT_THAT(found.model, testing::Contains(std::pair<std::string, std::string>("hidden_size", "48")));
  EXPECT_EQ(found.plan.stages, run.plan.stages);
  EXPECT_EQ(found.plan.predicted.iteration_s, run.plan.predicted.iteration_s);
  EXPECT_EQ(found.network.link(0, 3).bandwidth_bytes_per_s, run.network.link(0, 3).bandwidth_bytes_per_s);
  ASSERT_EQ(found.memory.size(), 4u);
  const auto backend = make_cpu_backend();
  for (int node = 0; node < 4; ++node)
    EXPECT_EQ(found.memory[static_cast<size_t>(node)].table(), plan_node_memory(run, node, *backend).table());

  const fs::path copy = path("hostile");
  fs::create_directories(copy);
  auto document = nlohmann::json::parse(read_file(output_folder() + "/run.json"));
  const auto refused = [&](const std::string& why) {
    std::ofstream(copy / "run.json") << document;
    SKP_EXPECT_ERROR(load_run_description(copy), FileError, why);
  };
  document["memory"][3][0]["region"] = "attic";
  refused("expected a region of the memory table");
  document["memory"].erase(3);
  refused("memory: found an array of 3, expected a list for each of 4 nodes");
  document["run_file"][0] = {"run.seed"};
  refused("run_file[0]: found an array of 1, expected a name and a value");
}

TEST_F(RunVerbsTest, DryRunPrintsTheMemoryAndStartsNothing) {
  const ProgramResult result = run_skippipe("launch --dry-run " + write_run({}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("node 3 (d)"));
  EXPECT_THAT(result.output, HasSubstr("gradient reduction"));
  EXPECT_FALSE(fs::exists(output_folder()));
}

// What a launch tells its nodes goes before the run file's "auto".
TEST_F(RunVerbsTest, ANodeRecomputesWhatItsLaunchChose) {
  const std::string run_file = write_run({});
  const auto dry_run = [&](const std::string& options) {
    return run_skippipe("train --dry-run " + options + run_file);
  };
  EXPECT_THAT(dry_run("--node 1 ").output, Not(HasSubstr("recompute")));
  EXPECT_THAT(dry_run("--node 1 --recompute none,block,none,none ").output, HasSubstr("; recompute block: "));
  EXPECT_THAT(dry_run("--node 2 --recompute none,block,none,none ").output, Not(HasSubstr("recompute")));
  EXPECT_EQ(dry_run("--node 1 --recompute none,block ").exit_code, 2);
  EXPECT_EQ(dry_run("--node 1 --recompute none,auto,none,none ").exit_code, 1);
}

// Nodes of the embedding's stage, the larger one, recompute attention then, those of the other nothing.
TEST_F(RunVerbsTest, RecomputesWhereMemoryIsShortAndComputesTheSame) {
  Sections sections;
  const auto losses = [&](const std::string& compute) {
    sections.compute = compute;
    must_run("launch " + write_run(sections));
    std::vector<double> values;
    for (const nlohmann::json& line : metrics()) values.push_back(line["loss"]);
    fs::remove_all(fs::path(output_folder()) / "checkpoints");
    return values;
  };
  const std::vector<double> expected = losses("recompute = \"none\"");
  EXPECT_EQ(expected.size(), 3u);
  EXPECT_EQ(losses("memory_limit_mb = 3"), expected);
  int recomputing = 0;
  const ProgramResult dry = run_skippipe("launch --dry-run " + write_run(sections));
  for (const MemoryPlan& memory : load_run_description(output_folder()).memory) {
    EXPECT_LE(memory.total_bytes(), 3'000'000);
    EXPECT_THAT(dry.output, HasSubstr(memory.table()));
    recomputing += memory.table().find("; recompute attention: +28 % of a forward in backward") != std::string::npos;
  }
  EXPECT_GT(recomputing, 0);
  EXPECT_LT(recomputing, 4);
  EXPECT_EQ(losses("recompute = \"block\""), expected);
  EXPECT_THAT(load_run_description(output_folder()).memory[0].table(), HasSubstr("; recompute block: +79 %"));
}

TEST_F(RunVerbsTest, ANetworkThatWasMeasuredForAnotherModelIsTold) {
  nlohmann::json network = nlohmann::json::parse(read_file(path("network.json")));
  network["measured_for"] = {{"model",
                              {{"hidden_size", 48},
                               {"intermediate_size", 96},
                               {"num_attention_heads", 4},
                               {"num_key_value_heads", 2},
                               {"head_dim", 12},
                               {"vocab_size", 500}}},
                             {"samples", 4},
                             {"tokens", 32},
                             {"dtype", "f32"}};
  Sections sections;
  sections.plan = "file = \"plan.json\"\nnetwork = \"measured.json\"";
  const std::string told = "warning: " + path("measured.json") + " was measured with vocab_size 500 (here 400): ";
  for (const int vocabulary : {500, 400}) {
    network["measured_for"]["model"]["vocab_size"] = vocabulary;
    folder_->write("measured.json", network.dump());
    const ProgramResult result = run_skippipe("launch " + write_run(sections));
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const size_t found = result.output.find(told);
    EXPECT_EQ(found != std::string::npos, vocabulary == 500) << result.output;
    EXPECT_EQ(result.output.find("warning: ", found == std::string::npos ? 0 : found + 1), std::string::npos)
        << "once, not by each node";
    fs::remove_all(output_folder());
  }
}

TEST_F(RunVerbsTest, SeveralLaunchesMakeOneRun) {
  Sections sections;
  sections.network = fmt::format("addresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  const std::string run_file = write_run(sections);
  BackgroundLaunch first(run_file, "--nodes 0-1"), second(run_file, "--nodes 2,3");
  EXPECT_EQ(first.wait(kLongEnough), 0) << first.output();
  EXPECT_EQ(second.wait(kLongEnough), 0) << second.output();
  EXPECT_EQ(metrics().size(), 3u);
}

TEST_F(RunVerbsTest, AKilledNodeEndsTheRunAndIsNamed) {
  Sections sections;
  sections.run = "iterations = 1000000";
  const std::string run_file = write_run(sections);
  BackgroundLaunch launch(run_file);
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  const std::vector<pid_t> victim = launch.nodes(2);
  ASSERT_EQ(victim.size(), 1u);
  kill(victim.front(), SIGKILL);
  EXPECT_EQ(launch.wait(kLongEnough), 1) << launch.output();
  EXPECT_THAT(launch.output(), HasSubstr("skippipe: node 2 (c) was killed by signal 9"));
  EXPECT_THAT(launch.output(),
              testing::EndsWith("\nno whole checkpoint yet; begin again with: skippipe launch " + run_file + "\n"));
  EXPECT_TRUE(launch.nodes().empty());
}

// Nodes that another machine started see it too.
TEST_F(RunVerbsTest, AKilledNodeOfAnotherLaunchIsNamed) {
  Sections sections;
  sections.run = "iterations = 1000000";
  sections.network = fmt::format("addresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  const std::string run_file = write_run(sections);
  // The node that reports alone, the victim among the others.
  const int reporter = load_plan(path("plan.json")).stages[0][0];
  const int victim = (reporter + 1) % 4;
  BackgroundLaunch first(run_file, fmt::format("--nodes {}", reporter));
  BackgroundLaunch second(run_file, fmt::format("--nodes {},{},{}", victim, (reporter + 2) % 4, (reporter + 3) % 4));
  ASSERT_TRUE(first.wait_for("iteration")) << first.output();
  const std::vector<pid_t> process = first.nodes(victim);
  ASSERT_EQ(process.size(), 1u);
  kill(process.front(), SIGKILL);
  EXPECT_EQ(first.wait(kLongEnough), 1) << first.output();
  EXPECT_THAT(first.output(), HasSubstr(fmt::format("node {}", victim)));
  EXPECT_EQ(second.wait(kLongEnough), 1) << second.output();
  EXPECT_TRUE(first.nodes().empty());
}

TEST_F(RunVerbsTest, AKilledLaunchLeavesNoProcessBehind) {
  Sections sections;
  sections.run = "iterations = 1000000";
  BackgroundLaunch launch(write_run(sections));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  EXPECT_EQ(launch.nodes().size(), 4u);
  launch.kill_it();
  launch.wait(kLongEnough);
  EXPECT_TRUE(launch.wait_for_no_nodes());
}

// The launch that waits for another machine's nodes.
TEST_F(RunVerbsTest, CtrlCEndsALaunchWhoseNodesHaveNotMet) {
  Sections sections;
  sections.network = fmt::format("addresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  BackgroundLaunch launch(write_run(sections), "--nodes 0-1");
  ASSERT_TRUE(launch.wait_for_nodes(2));
  launch.interrupt();
  EXPECT_EQ(launch.wait(kLongEnough), 130) << launch.output();
  EXPECT_TRUE(launch.nodes().empty());
}

TEST_F(RunVerbsTest, CtrlCEndsCleanlyAndLeavesTheWeights) {
  Sections sections;
  sections.run = "iterations = 1000000";
  BackgroundLaunch launch(write_run(sections));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.interrupt();
  EXPECT_EQ(launch.wait(kLongEnough), 130) << launch.output();
  EXPECT_THAT(launch.output(), HasSubstr("stopped after"));
  EXPECT_THAT(launch.output(), testing::ContainsRegex("newest whole checkpoint: iteration [0-9]+; go on with: "));
  EXPECT_TRUE(newest_whole_checkpoint(output_folder()).has_value());
  EXPECT_TRUE(launch.nodes().empty());
}

// No norm is exchanged then, with which nodes could agree on the last iteration: each leaves at once.
TEST_F(RunVerbsTest, CtrlCEndsARunWithoutClipping) {
  Sections sections;
  sections.run = "iterations = 1000000";
  sections.optimizer = "clip_norm = 0";
  sections.plan = "file = \"unclipped.json\"\nnetwork = \"network.json\"";
  must_run(
      "plan --no-norm-exchange --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 "
      "--model " +
      path("config.json") + " --network " + path("network.json") + " --out " + path("unclipped.json"));
  BackgroundLaunch launch(write_run(sections));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.interrupt();
  EXPECT_EQ(launch.wait(kLongEnough), 130) << launch.output();
  EXPECT_TRUE(launch.nodes().empty());
}

// The nodes with a stage train by themselves, numbered without the other.
TEST_F(RunVerbsTest, ANodeThatThePlanLeavesOutTakesNoPart) {
  must_run("replan " + path("plan.json") + " --gone b --out " + path("without-b.json"));
  Sections sections;
  sections.plan = "file = \"without-b.json\"\nnetwork = \"network.json\"";
  const std::string run = write_run(sections);
  const ProgramResult result = run_skippipe("launch " + run);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(metrics().size(), 3u);
  EXPECT_THAT(run_skippipe("launch --dry-run " + run).output,
              AllOf(HasSubstr("node 1 (c)"), HasSubstr("node 2 (d)"), Not(HasSubstr("(b)"))));
  EXPECT_EQ(run_skippipe("train --node 3 " + run).exit_code, 2);
  const ProgramResult report = run_skippipe("report " + output_folder());
  EXPECT_EQ(report.exit_code, 0) << report.output;
}

TEST_F(RunVerbsTest, ASecondCtrlCEndsAtOnce) {
  Sections sections;
  sections.run = "iterations = 1000000";
  // With long links the first Ctrl-C takes a while.
  sections.plan = "file = \"slow-plan.json\"\nnetwork = \"slow.json\"";
  std::string slow = read_file(path("network.json"));
  slow.replace(slow.find("\"latency_ms\": 3"), 15, "\"latency_ms\": 3000");
  folder_->write("slow.json", slow);
  must_run("plan --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("slow.json") + " --out " + path("slow-plan.json"));
  BackgroundLaunch launch(write_run(sections));
  ASSERT_TRUE(launch.wait_for("total")) << launch.output();  // the memory table: all nodes have met
  launch.interrupt();
  ASSERT_TRUE(launch.wait_for("again stops at once")) << launch.output();
  launch.interrupt();
  EXPECT_EQ(launch.wait(kLongEnough), 130) << launch.output();
  EXPECT_TRUE(launch.nodes().empty());
}

TEST_F(RunVerbsTest, RefusesBadRunFiles) {
  EXPECT_EQ(run_skippipe("launch " + path("nowhere.toml")).exit_code, 1);
  EXPECT_EQ(run_skippipe("launch").exit_code, 2);
  EXPECT_EQ(run_skippipe("launch --nodes 3-1 " + write_run({})).exit_code, 2);
  EXPECT_EQ(run_skippipe("launch --nodes 3-9 " + write_run({})).exit_code, 2);
  EXPECT_EQ(run_skippipe("train --node 4 " + write_run({})).exit_code, 2);
  Sections s;
  s.run = "iterations = 3\nepochs = 4";
  expect_refused(s, "unknown field 'run.epochs'");
  s = {};
  s.run = "iterations = 99999999999";
  expect_refused(s, "run.iterations: found 99999999999, expected an integer from 1 to");
  s = {};
  s.run = "iterations = [";
  expect_refused(s, "not valid TOML");
  s = {};
  s.model = "";
  expect_refused(s, "field 'model.config' is missing");
  s = {};
  s.compute = "recompute = \"everything\"";
  expect_refused(s, "compute.recompute: found 'everything', expected one of auto, none, attention, block");
  s = {};
  s.optimizer = "schedule = \"magic\"";
  expect_refused(s, "expected one of constant, cosine, wsd");
  s = {};
  s.optimizer = "warmup_iterations = 4";
  expect_refused(s, "do not fit into 3 iterations");
  s = {};
  s.network = "addresses = [\"127.0.0.1:1\"]";
  expect_refused(s, "found 1 addresses, expected one for each of 4 nodes");
  s = {};
  s.network = "addresses = [\"a\", \"b\", \"c\", \"d\"]";
  expect_refused(s, "expected host:port");
}

TEST_F(RunVerbsTest, RefusesFilesThatContradictEachOther) {
  Sections s;
  s.data = "train = \"tokens/train.tokens\"\nsamples = 3\ntokens = 32";
  expect_refused(s, "samples per microbatch");
  s = {};
  s.data = "train = \"tokens/train.tokens\"\nsamples = 4\ntokens = 16";
  expect_refused(s, "bytes of activations");
  s.data = "train = \"tokens/train.tokens\"\nsamples = 4\ntokens = 65";
  expect_refused(s, ".toml: data.tokens: found 65, expected at most the max_position_embeddings of ");
  s = {};
  s.optimizer = "clip_norm = 0.0";
  expect_refused(s, "gradient clipping");
  s = {};
  std::string other = read_file(path("network.json"));
  other.replace(other.find("\"a\""), 3, "\"z\"");
  folder_->write("other.json", other);
  s.plan = "file = \"plan.json\"\nnetwork = \"other.json\"";
  expect_refused(s, "plan.json");
  s = {};
  Plan skipping = load_plan(path("plan.json"));
  skipping.rules.skip_ratio = 0.5;
  for (PlannedMicrobatch& microbatch : skipping.microbatches) microbatch.visits.resize(1);
  save_plan(skipping, path("skipping.json"));
  s.plan = "file = \"skipping.json\"\nnetwork = \"network.json\"";
  expect_refused(s,
                 "skipping.json breaks the rule on the exposure of stages: stage 1 is in the path of no microbatch and "
                 "would never be trained");
  s = {};
  std::string plan = read_file(path("plan.json"));
  plan.resize(plan.size() / 2);
  folder_->write("half.json", plan);
  s.plan = "file = \"half.json\"\nnetwork = \"network.json\"";
  expect_refused(s, "half.json: not valid JSON");
}

TEST_F(RunVerbsTest, NamesTheFieldOfAFolderThatCannotBe) {
  Sections s;
  s.run = "iterations = 3";
  s.model = "config = \"config.json\"\nweights = \"nowhere\"";
  expect_refused(s, "model.weights: ");
  s = {};
  const std::string run_file = write_run(s);
  std::string text = read_file(run_file);
  const std::string output = "output = \"" + fs::path(output_folder()).filename().string();
  ASSERT_NE(text.find(output), std::string::npos);
  folder_->write("taken.toml", text.replace(text.find(output), output.size(), "output = \"plan.json/x"));
  const ProgramResult result = run_skippipe("launch " + path("taken.toml"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("plan.json/x: cannot create: "));
}

// The embedding, final norm and head on nodes of their own.
TEST_F(RunVerbsTest, TrainsWithNoLayersInStageZero) {
  must_run("plan --method full --layers 0,2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("network.json") + " --out " + path("no-layers.json"));
  Sections sections;
  sections.plan = "file = \"no-layers.json\"\nnetwork = \"network.json\"";
  const ProgramResult result = run_skippipe("launch " + write_run(sections));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(metrics().size(), 3u);
  const ProgramResult evaluated = run_skippipe("eval --without 1 --model " + output_folder() + " --data " +
                                               path("tokens/train.tokens") + " --tokens 32 --samples 4");
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
}

// What only the nodes see: told once, for the node that saw it.
TEST_F(RunVerbsTest, RefusesWhatANodeCannotUse) {
  Sections s;
  s.compute = "memory_limit_mb = 1";
  expect_refused(s,
                 "but only 976.56 KiB are there (compute.memory_limit_mb); with compute.recompute = \"block\" already, "
                 "slots = 1 in the network "
                 "file, data.samples = 2 and a new plan take ");
  s.compute = "memory_limit_mb = 3\nrecompute = \"none\"";
  expect_refused(s, "; compute.recompute = \"attention\" takes ");
  s = {};
  fs::create_directories(path("short"));
  std::string shard = read_file(path("tokens/train.tokens"));
  shard.resize(shard.size() / 2);
  folder_->write("short.tokens", shard);
  s.data = "train = \"short.tokens\"\nsamples = 4\ntokens = 32";
  expect_refused(s, "short.tokens");
  s = {};
  std::string config = read_file(path("config.json"));
  config.replace(config.find("400"), 3, "390");
  folder_->write("small.json", config);
  s.model = "config = \"small.json\"";
  expect_refused(s, "vocabulary of 400");
}

// Half the bytes between nodes that compute in f32; a plan says what it was made for.
TEST_F(RunVerbsTest, MessagesMayBeShorterThanWhatIsComputed) {
  Sections sections;
  sections.network = "wire_dtype = \"bf16\"";
  expect_refused(sections, "plan.json: made for 24576 bytes of activations per message, but ");
  must_run(
      "plan --wire-dtype bf16 --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 "
      "--model " +
      path("config.json") + " --network " + path("network.json") + " --out " + path("short.json"));
  sections.plan = "file = \"short.json\"\nnetwork = \"network.json\"";
  must_run("launch " + write_run(sections));
  const auto rounded = metrics();
  fs::remove_all(output_folder());
  must_run("launch " + write_run({}));
  const auto exact = metrics();
  ASSERT_EQ(rounded.size(), exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    const double loss = exact[i]["loss"];
    EXPECT_NEAR(rounded[i]["loss"].get<double>(), loss, 1e-2 * loss) << i;
    EXPECT_NE(rounded[i]["loss"], exact[i]["loss"]) << i;
  }
}

TEST_F(RunVerbsTest, RefusesBrokenFilesAndKeepsWhatWasThere) {
  fs::create_directories(output_folder());
  std::ofstream(output_folder() + "/kept.txt") << "mine";
  Sections s;
  folder_->write("half-config.json", read_file(path("config.json")).substr(0, 60));
  s.model = "config = \"half-config.json\"";
  expect_refused(s, "half-config.json: not valid JSON");
  s = {};
  folder_->write("bad-network.json", R"({"format": "skippipe-network", "version": 1, "nodes": 7})");
  s.plan = "file = \"plan.json\"\nnetwork = \"bad-network.json\"";
  expect_refused(s, "bad-network.json: nodes: found 7, expected an array");
  s = {};
  auto plan = nlohmann::json::parse(read_file(path("plan.json")));
  plan["microbatches"][0]["path"][1] = plan["microbatches"][0]["path"][0];
  folder_->write("bad-plan.json", plan.dump());
  s.plan = "file = \"bad-plan.json\"\nnetwork = \"network.json\"";
  expect_refused(s, "bad-plan.json breaks the rule on the stages of a path: microbatch 0 visits stage 0 twice");
  s = {};
  std::string shard = read_file(path("tokens/train.tokens"));
  for (size_t i = 64; i + 1 < 64 + 2 * 5000; i += 2) shard[i] = shard[i + 1] = '\xff';
  folder_->write("bad.tokens", shard);
  s.data = "train = \"bad.tokens\"\nsamples = 4\ntokens = 32";
  const ProgramResult result = run_skippipe("launch " + write_run(s));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("token 65535"));
  EXPECT_EQ(read_file(output_folder() + "/kept.txt"), "mine");
}

// Nodes of different runs that share addresses: each says that the other is of another run, none trains.
TEST_F(RunVerbsTest, NodesOfDifferentRunsRefuseEachOther) {
  Sections s;
  s.network = fmt::format("connect_limit_s = 2\naddresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  const std::string first_file = write_run(s);
  const std::string second_file = path("second.toml");
  folder_->write("second.toml", read_file(first_file) + "# another run\n");
  BackgroundLaunch first(first_file, "--nodes 0-1"), second(second_file, "--nodes 2-3");
  EXPECT_EQ(first.wait(kLongEnough), 1) << first.output();
  EXPECT_EQ(second.wait(kLongEnough), 1) << second.output();
  EXPECT_THAT(first.output() + second.output(), HasSubstr("run"));
  EXPECT_TRUE(metrics().empty());
}

TEST_F(RunVerbsTest, AnAddressInUseIsNamed) {
  const LocalAddresses taken = listen_locally(4);
  Sections s;
  s.network = fmt::format("addresses = [\"{}\"]", fmt::join(taken.addresses, "\", \""));
  const ProgramResult result = run_skippipe("train --node 0 " + write_run(s));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr(taken.addresses[0]));
  EXPECT_THAT(result.output, HasSubstr("address in use"));
}

TEST_F(RunVerbsTest, APeerThatIsNotThereIsNamed) {
  Sections s;
  s.network = fmt::format("connect_limit_s = 1\naddresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  const ProgramResult result = run_skippipe("train --node 1 " + write_run(s));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("node 0"));
}

TEST_F(RunVerbsTest, ALaunchTellsWhomItsNodesDidNotMeet) {
  Sections s;
  s.network = fmt::format("connect_limit_s = 1\naddresses = [\"{}\"]", fmt::join(unused_addresses(4), "\", \""));
  const ProgramResult result = run_skippipe("launch --nodes 0-2 " + write_run(s));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("node 3 at 127.0.0.1"));
  EXPECT_THAT(result.output, HasSubstr("not all nodes met"));
}

}  // namespace
}  // namespace skippipe
