// What users get wrong, found before the work: one line, and nothing is lost.
#include "schedule/plan/plan.h"
#include "tests/tools/run_fixture.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PreflightVerbsTest : public RunFixture {
 protected:
  static void SetUpTestSuite() {
    RunFixture::SetUpTestSuite();
    const std::string text = " '" SKIPPIPE_SOURCE_DIR "/LICENSE'";
    must_run("tokenizer --vocabulary 410 --out " + path("large.model") + text);
    folder_->write("noise.model", "nothing of a tokenizer");
    fs::create_directories(path("empty"));
  }

  static void expect_one_line(const ProgramResult& result, const std::string& part) {
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(part));
    EXPECT_EQ(std::ranges::count(result.output, '\n'), 1) << result.output;
  }

  // The same from each verb that starts a run, and no trace of a run in its folder.
  static void expect_found_before(const Sections& sections, const std::string& part, const std::string& options = "") {
    SCOPED_TRACE(part);
    const std::string run_file = write_run(sections) + options;
    expect_one_line(run_skippipe("launch " + run_file), part);
    expect_one_line(run_skippipe("train --node " + data_node() + " " + run_file + some_addresses()), part);
    for (const std::string verb : {"launch --dry-run ", "train --dry-run --node "}) {
      const ProgramResult dry = run_skippipe(verb + (verb.starts_with("train") ? data_node() + " " : "") + run_file);
      EXPECT_EQ(dry.exit_code, 1) << dry.output;
      EXPECT_THAT(dry.output, HasSubstr("skippipe: "));
      EXPECT_THAT(dry.output, HasSubstr(part));
    }
    EXPECT_FALSE(fs::exists(output_folder() + "/run.json"));
  }

  // The first node of stage 0 reads data and writes checkpoints and metrics.
  static std::string data_node() { return std::to_string(load_plan(path("plan.json")).stages[0][0]); }
  static std::string some_addresses() { return " --addresses 127.0.0.1:1,127.0.0.1:2,127.0.0.1:3,127.0.0.1:4"; }
};

TEST_F(PreflightVerbsTest, TheTokenizerOfCheckpointsIsOneThatIsThere) {
  for (const auto& [tokenizer, part] :
       std::vector<std::pair<std::string, std::string>>{{"nowhere.model", "nowhere.model: cannot open: No such file"},
                                                        {"noise.model", "noise.model: not a SentencePiece model"},
                                                        {"large.model", "large.model: a vocabulary of 410, but "},
                                                        {"empty", "empty: no tokenizer there"}}) {
    Sections s;
    s.data += "\ntokenizer = \"" + tokenizer + "\"";
    expect_found_before(s, part);
    EXPECT_THAT(run_skippipe("launch " + write_run(s)).output, HasSubstr("skippipe: data.tokenizer: "));
  }
}

TEST_F(PreflightVerbsTest, TokensAndWeightsAreOpened) {
  Sections s;
  s.data = "train = \"nowhere.tokens\"\nsamples = 4\ntokens = 32";
  expect_found_before(s, "skippipe: data.train: " + path("nowhere.tokens") + ": cannot open");
  s.data = "train = \"tok.model\"\nsamples = 4\ntokens = 32";
  expect_found_before(s, "tok.model: not a token shard");
  s = {};
  const std::string other = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
      "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
      "vocab_size": 400, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})";
  fs::create_directories(path("weights"));
  folder_->write("weights/config.json", other);
  s.model = "config = \"config.json\"\nweights = \"weights\"";
  expect_found_before(s, "weights");
  must_run("launch " + write_run({}));
  fs::remove_all(path("weights"));
  must_run("convert " + output_folder() + " --out " + path("weights"));
  fs::remove_all(output_folder());
  folder_->write("weights/config.json", other);
  expect_found_before(s, ": num_key_value_heads: found 4, expected 2");
}

TEST_F(PreflightVerbsTest, PlacesInTheOutputFolderCanBeWritten) {
  const auto with_a_file = [&](const std::string& name, const std::string& part, const std::string& options = "") {
    fs::create_directories(output_folder());
    std::ofstream(output_folder() + "/" + name) << "mine";
    expect_found_before({}, part, options);
    EXPECT_EQ(read_file(output_folder() + "/" + name), "mine");
    fs::remove_all(output_folder());
  };
  with_a_file("checkpoints", "run.output: ");
  with_a_file("trace", "trace is no folder", " --trace");
  fs::create_directories(output_folder() + "/metrics.jsonl");
  expect_found_before({}, "metrics.jsonl: cannot be replaced: Is a directory");
  fs::remove_all(output_folder());
}

// A node that neither reads data nor writes checkpoints does without the files.
TEST_F(PreflightVerbsTest, ANodeNeedsItsOwnFilesOnly) {
  Sections s;
  s.data = "train = \"nowhere.tokens\"\ntokenizer = \"nowhere.model\"\nsamples = 4\ntokens = 32";
  const std::string last = std::to_string(load_plan(path("plan.json")).stages[1][1]);
  const ProgramResult dry = run_skippipe("train --dry-run --node " + last + " " + write_run(s));
  EXPECT_EQ(dry.exit_code, 0) << dry.output;
}

TEST_F(PreflightVerbsTest, TheMemoryTableSaysWhoseItIs) {
  const Plan plan = load_plan(path("plan.json"));
  const int node = plan.stages[1][0];
  const std::string title =
      fmt::format("memory of node {} ({}), stage 1:\n", node, plan.node_names[static_cast<size_t>(node)]);
  EXPECT_THAT(run_skippipe("launch --dry-run " + write_run({})).output, HasSubstr(title));
  EXPECT_THAT(run_skippipe(fmt::format("train --dry-run --node {} {}", node, write_run({}))).output, HasSubstr(title));
}

TEST_F(PreflightVerbsTest, OutputsAreOpenedBeforeTheWork) {
  const std::string no_folder = path("no/such/out"), text = " '" SKIPPIPE_SOURCE_DIR "/LICENSE'";
  const std::string refused = "no/such/out: cannot create: No such file or directory";
  const std::string plan = " --stages 2 --microbatches 2 --network " + path("network.json");
  expect_one_line(run_skippipe("tokenizer --vocabulary 400 --out " + no_folder + text), refused);
  expect_one_line(run_skippipe("probe --local 2 --config " + path("config.json") + " --out " + no_folder), refused);
  expect_one_line(run_skippipe("bench --config " + path("config.json") + " --json " + no_folder), refused);
  for (const char* option : {"--out", "--map", "--timeline"})
    expect_one_line(run_skippipe(fmt::format("plan{} {} {}", plan, option, no_folder)), refused);
  expect_one_line(run_skippipe("simulate " + path("plan.json") + " --map " + no_folder), refused);
  must_run("launch " + write_run({}));
  const std::string eval =
      "eval --model " + output_folder() + " --data " + path("tokens/train.tokens") + " --tokens 32";
  expect_one_line(run_skippipe(eval + " --json " + no_folder), refused);
  fs::create_directories(output_folder() + "/evaluation.json");
  expect_one_line(run_skippipe(eval), "evaluation.json: cannot be replaced: Is a directory");
}

TEST_F(PreflightVerbsTest, MessagesNameTheOptionThatHelps) {
  must_run("launch " + write_run({}));
  const std::string convert = "convert " + output_folder() + " --out " + path("converted");
  const ProgramResult made = run_skippipe(convert + " --tokenizer " + path("tok.model"));
  EXPECT_EQ(made.exit_code, 0) << made.output;
  EXPECT_THAT(made.output, HasSubstr("made: generation_config.json, "));
  EXPECT_THAT(made.output, HasSubstr("tokenizer.json"));
  expect_one_line(run_skippipe(convert), "converted: exists; --force replaces it");
  expect_one_line(run_skippipe("tokenize --tokenizer " + path("tok.model") + " --out " + path("one") +
                               " '" SKIPPIPE_SOURCE_DIR "/LICENSE'"),
                  "--document-lines");
  expect_one_line(run_skippipe("eval --model " + output_folder() + " --data " + path("tokens/train.tokens") +
                               " --tokens 32 --without 7"),
                  "--without: stage 7 cannot be left out");
}

TEST_F(PreflightVerbsTest, NamesOfOptionsThatThereAreNot) {
  const auto expect_wrong_use = [](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_skippipe(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(part));
  };
  // As they were called before.
  EXPECT_THAT(run_skippipe("generate --model none --prompt y --max-tokens 5").output, HasSubstr("none"));
  EXPECT_THAT(run_skippipe("eval --model none --tokens y --sequence 8").output,
              HasSubstr("note: --tokens FILE --sequence N is now --data FILE --tokens N"));
  expect_wrong_use("eval --model none --data y --tokens many",
                   "--tokens: found 'many', expected a whole number from 1 to 1048576");
  expect_wrong_use("eval --model none --tokens 8", "give --data");
  expect_wrong_use("launch run.toml --dry-rum", "launch: unknown option '--dry-rum'; did you mean '--dry-run'?\n");
  expect_wrong_use("plan --networ=x", "plan: unknown option '--networ'; did you mean '--network'?\n");
}

}  // namespace
}  // namespace skippipe
