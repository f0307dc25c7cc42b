// tokenizer, tokenize, eval, generate and probe, as a user calls them.
#include <array>

#include "base/file.h"
#include "base/random.h"
#include "engine/checkpoint/model_files.h"
#include "engine/inference/local_model.h"
#include "kernels/cpu_backend.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;

class DataVerbsTest : public VerbTest {
 protected:
  void write_text() const {
    static constexpr std::array<const char*, 8> kSyllables = {"ka", "lo", "mi", "ten", "sur", "ba", "el", "or"};
    Random random(1);
    std::string text;
    for (int word = 1; word <= 3000; ++word) {
      for (uint64_t syllables = 1 + random.below(3); syllables > 0; --syllables)
        text += kSyllables[random.below(kSyllables.size())];
      text += word % 8 == 0 ? "\n" : " ";
    }
    folder_.write("text", text);
  }
  // A model of 3 layers in 3 stages, as a run leaves it.
  void write_model() const {
    ModelConfig config;
    config.channels = 16;
    config.feed_forward = 24;
    config.layers = 3;
    config.heads = config.kv_heads = 2;
    config.head_dim = 8;
    config.vocabulary = 300;
    config.max_positions = 64;
    const std::vector<int> layers = {1, 1, 1};
    LocalModel model(make_cpu_backend(), config, layers, BatchShape{1, 8}, 1, StagePurpose::kTraining);
    const auto checkpoint = checkpoints_folder(folder_ / "run") / checkpoint_name(1);
    CheckpointManifest manifest;
    manifest.layers_per_stage = layers;
    write_checkpoint_description(checkpoint, manifest, config, {});
    for (int i = 0; i < model.stages(); ++i) {
      model.stage(i).initialize(1);
      write_checkpoint_part(checkpoint, i, model.stage(i).parameters(), false);
    }
  }
};

TEST_F(DataVerbsTest, FromTextToPerplexity) {
  write_text();
  write_model();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "a vocabulary of 300");
  expect_ok("tokenize --tokenizer @/tok.model --out @/tokens --document-lines 10 --validation-share 0.2 @/text",
            "validation.tokens: ");
  expect_ok(
      "eval --model @/run --tokens @/tokens/validation.tokens --sequence 16 --samples 8 --skip 0.33 --without 1,2 "
      "--json @/eval.json",
      "without 1, 2");
  EXPECT_THAT(read_file(folder_ / "eval.json"), HasSubstr("\"label\": \"1 of 3 left out at random\""));

  expect_refused("eval --model @/run --tokens @/tokens/validation.tokens --sequence 16 --without 0",
                 "stage 0 cannot be left out");
  expect_refused("eval --model @/run --tokens @/text --sequence 16", "text: not a token shard");
  expect_refused("eval --model @/run --tokens @/tokens/validation.tokens --sequence 65", "max_position_embeddings");
  std::filesystem::resize_file(folder_ / "run/checkpoints/iteration-00000001/stage-02.safetensors", 500);
  expect_refused("eval --model @/run --tokens @/tokens/validation.tokens --sequence 16", "stage-02.safetensors");
}

TEST_F(DataVerbsTest, TellsWhatItTakesFilesFor) {
  write_text();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "");
  folder_.write("d.json", "{\"text\": \"ka lo\"}\n");
  const std::string tokenize = "tokenize --tokenizer @/tok.model --out @/tokens --validation-share 0 ";
  expect_ok(tokenize + "@/d.json", "d.json: read as JSON lines (by what it holds; --format says otherwise)\n");
  expect_ok(tokenize + "--format text @/d.json", "train.tokens: ");
  EXPECT_THAT(run(tokenize + "/dev/stdin", "", "echo '{\"text\": \"ka lo\"}' |").output,
              HasSubstr("/dev/stdin: read as JSON lines"));
  EXPECT_EQ(run(tokenize + "--format csv @/d.json").exit_code, 2);
  folder_.write("d.json", "{\n\"text\": \"ka lo\"}\n");
  expect_refused(tokenize + "@/d.json", "--format text reads it as plain text");
  expect_refused("tokenizer --vocabulary 300 --out @/t.model @/d.json", "--format text reads it as plain text");
}

TEST_F(DataVerbsTest, GeneratesText) {
  write_text();
  write_model();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "");
  const std::string generate = "generate --model @/run --tokenizer @/tok.model --max-tokens 20 ";
  const ProgramResult greedy = run(generate + "--prompt 'ka lo'");
  EXPECT_EQ(greedy.exit_code, 0) << greedy.output;
  EXPECT_THAT(greedy.output, ::testing::ContainsRegex("\nprompt: [0-9]+ tokens, [0-9.]+ tokens/s; generated: "));
  const auto text_of = [](const ProgramResult& result) {
    return result.output.substr(0, result.output.rfind("prompt: "));
  };
  // The same text from a file, from standard input and with the tokenizer in the model's folder.
  folder_.write("prompt", "ka lo\n");
  EXPECT_EQ(text_of(run(generate + "--prompt-file @/prompt")), text_of(greedy));
  EXPECT_EQ(text_of(run(generate + "--prompt-file -", folder_ / "prompt")), text_of(greedy));
  EXPECT_EQ(text_of(run(generate + "--prompt-file /dev/stdin", "", "echo ka lo |")), text_of(greedy));
  EXPECT_EQ(text_of(run(generate + "--prompt-file -", "", "echo ka lo |")), text_of(greedy));
  const auto checkpoint = checkpoints_folder(folder_ / "run") / checkpoint_name(1);
  std::filesystem::copy_file(folder_ / "tok.model", checkpoint / "tokenizer.model");
  EXPECT_EQ(text_of(run("generate --model @/run --max-tokens 20 --prompt 'ka lo'")), text_of(greedy));
  EXPECT_EQ(text_of(run(generate + "--prompt 'ka lo' --threads 1 --temperature 1 --top-k 1")), text_of(greedy));

  const std::string sampled = generate + "--prompt 'ka lo' --temperature 1.5 --top-k 100 --top-p 0.9 --without 1 ";
  EXPECT_EQ(text_of(run(sampled + "--seed 4")), text_of(run(sampled + "--seed 4")));
  EXPECT_NE(text_of(run(sampled + "--seed 4")), text_of(run(sampled + "--seed 5")));
  expect_ok(generate + "--prompt 'ka lo' --without 1 --dry-run", "in 2 layers");
  expect_ok("generate --model @/run --tokenizer @/tok.model --bos --prompt '' --temperature 1", "prompt: 1 tokens");
}

TEST_F(DataVerbsTest, RefusesWhatItCannotGenerateFrom) {
  write_text();
  write_model();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "");
  expect_ok("tokenizer --vocabulary 310 --out @/large.model @/text", "");
  const std::string generate = "generate --model @/run --tokenizer @/tok.model ";
  expect_refused("generate --model @/run --prompt ka", "no tokenizer.model there: give --tokenizer");
  expect_refused("generate --model @/run --tokenizer @/none --prompt ka", "none: cannot open");
  expect_refused("generate --model @/run --tokenizer @/large.model --prompt ka",
                 "the tokenizer has a vocabulary of 310, the model one of 300");
  expect_refused("generate --model @/none --tokenizer @/tok.model --prompt ka", "none");
  expect_refused(generate + "--prompt ''", "the prompt is empty");
  expect_refused(generate + "--prompt-file @/none", "none: cannot open");
  expect_refused(generate + "--prompt-file @/text",
                 "expected at most the model's max_position_embeddings, which is 64");
  folder_.write("bad", "ka\xff");
  expect_refused(generate + "--prompt-file @/bad", "the prompt: byte 2 is not valid UTF-8");
  expect_refused(generate + "--prompt ka --without 3", "stage 3 cannot be left out, expected 1 to 2");
  expect_refused(generate + "--prompt ka --stages 4", "4 stages, expected 1 to 3");
  const auto weights = checkpoints_folder(folder_ / "run") / checkpoint_name(1) / "stage-02.safetensors";
  expect_ok(generate + "--prompt ka --without 2", "generated: ");
  EXPECT_EQ(run(generate + "--prompt ka >/dev/full").exit_code, 1);
  std::string content = read_file(weights);
  content.back() ^= 1;
  write_file_atomically(weights, content);
  const std::string folder = weights.parent_path().string();
  expect_refused("generate --model " + folder + " --tokenizer @/tok.model --prompt ka", "another checksum");
  std::filesystem::resize_file(weights, 500);
  expect_refused(generate + "--prompt ka", "stage-02.safetensors");
}

TEST_F(DataVerbsTest, BadTextIsNamedAndNothingIsWritten) {
  write_text();
  folder_.write("bad", "fine\n\xff\n");
  expect_refused("tokenizer --vocabulary 300 --out @/tok.model @/bad", "bad: byte 5 is not valid UTF-8");
  expect_refused("tokenizer --vocabulary 100000 --out @/tok.model @/text", "fills a vocabulary of at most");
  expect_refused("tokenizer --vocabulary 300 --out @/tok.model @/none", "none: no such file");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "tok.model"));
  expect_refused("tokenize --tokenizer @/text --out @/tokens @/text", "text: not a SentencePiece model");
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "");
  expect_refused("tokenize --tokenizer @/tok.model --out @/tokens @/text @/bad", "bad: byte 5");
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "tokens"));
}

TEST_F(DataVerbsTest, WrongUseEndsWithTwo) {
  for (const char* arguments :
       {"tokenizer", "tokenizer --vocabulary 5 --out x y", "tokenize --bogus", "eval --tokens x --sequence 0",
        "eval --tokens x --sequence 8", "probe --config x --network y", "generate --model x", "generate --prompt x",
        "generate --model x --prompt y --prompt-file z", "generate --model x --prompt y --top-p 0",
        "generate --model x --prompt y --temperature -1", "generate --model x --prompt y --max-tokens 0", "nonsense",
        ""})
    EXPECT_EQ(run(arguments).exit_code, 2) << arguments;
}

TEST_F(DataVerbsTest, HelpShowsAnExample) {
  for (const std::string verb : {"tokenizer", "tokenize", "plan", "simulate", "probe", "train", "launch", "eval",
                                 "generate", "convert", "inspect"})
    expect_ok(verb + " --help", "Example: skippipe " + verb + " ");
}

}  // namespace
}  // namespace skippipe
