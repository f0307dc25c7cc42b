// tokenizer, tokenize, eval, generate and probe, as a user calls them.
#include <algorithm>
#include <array>
#include <functional>
#include <span>

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
  // A model of 3 layers in 3 stages, as a run leaves it; `change` sees its parameters first.
  void write_model(const std::function<void(const Parameter&)>& change = {}) const {
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
      if (change) std::ranges::for_each(model.stage(i).parameters(), change);
      write_checkpoint_part(checkpoint, i, model.stage(i).parameters(), false);
    }
  }
  // One that is sure of the same token after any other.
  void write_model_that_says(int32_t token) const {
    write_model([token](const Parameter& parameter) {
      const std::span<float> values(parameter.weight.as<float>(), static_cast<size_t>(parameter.weight.elements()));
      if (parameter.name.find("o_proj") != std::string::npos || parameter.name.find("down_proj") != std::string::npos)
        std::ranges::fill(values, 0.0f);
      if (parameter.name.find("embed_tokens") != std::string::npos) std::ranges::fill(values, 1.0f);
      if (parameter.name != "lm_head.weight") return;
      std::ranges::fill(values, 0.0f);
      const auto channels = static_cast<size_t>(parameter.weight.dim(1));
      std::ranges::fill(values.subspan(static_cast<size_t>(token) * channels, channels), 1.0f);
    });
  }
};

TEST_F(DataVerbsTest, FromTextToPerplexity) {
  write_text();
  write_model();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "a vocabulary of 300");
  expect_ok("tokenize --tokenizer @/tok.model --out @/tokens --document-lines 10 --validation-share 0.2 @/text",
            "validation.tokens: ");
  expect_ok(
      "eval --model @/run --data @/tokens/validation.tokens --tokens 16 --samples 8 --skip 0.33 --without 1,2 "
      "--json @/eval.json",
      "without 1, 2");
  EXPECT_THAT(read_file(folder_ / "eval.json"), HasSubstr("\"label\": \"1 of 3 left out at random\""));

  // An LM head of the largest numbers there are: finite, but not what it computes.
  expect_ok("convert @/run --out @/large --tokenizer none", "");
  std::string weights = read_file(folder_ / "large/model.safetensors");
  for (size_t end = weights.size(), i = end - size_t{300} * 16 * 4; i < end; i += 4)
    weights.replace(i, 4, std::string("\xff\xff\x7f\x7f", 4));
  folder_.write("large/model.safetensors", weights);
  expect_refused("eval --model @/large --stages 1 --data @/tokens/validation.tokens --tokens 16 --samples 8",
                 "the whole model: the loss is not a number, expected a finite number");

  expect_refused("eval --model @/run --data @/tokens/validation.tokens --tokens 16 --without 0",
                 "stage 0 cannot be left out");
  expect_refused("eval --model @/run --data @/text --tokens 16", "text: not a token shard");
  expect_refused("eval --model @/run --data @/tokens/validation.tokens --tokens 65",
                 "--tokens: found 65, expected at most the max_position_embeddings of ");

  // Of no run: in one piece, unless stages are to be left out.
  expect_ok("convert @/run --out @/hf", "a Hugging Face model");
  const std::string of_model = "eval --model @/hf --data @/tokens/validation.tokens --tokens 16 --samples 8";
  expect_ok(of_model + " --json @/whole.json", "the whole model");
  const auto perplexity = [&](const char* file) {
    const std::string text = read_file(folder_ / file);
    return text.substr(text.find("\"perplexity\""), 30);
  };
  EXPECT_EQ(perplexity("whole.json"), perplexity("eval.json"));
  for (const char* left_out : {" --skip 0.33", " --without 1"}) {
    const ProgramResult uncut = run(of_model + left_out);
    EXPECT_EQ(uncut.exit_code, 2);
    EXPECT_THAT(uncut.output, HasSubstr("hf is no checkpoint and has no stages to leave out: give --stages"));
    expect_ok(of_model + left_out + " --stages 3", "all 3 stages");
  }
  std::filesystem::resize_file(folder_ / "run/checkpoints/iteration-00000001/stage-02.safetensors", 500);
  expect_refused("eval --model @/run --data @/tokens/validation.tokens --tokens 16", "stage-02.safetensors");
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
  const ProgramResult csv = run(tokenize + "--format csv @/d.json");
  EXPECT_EQ(csv.exit_code, 2);
  EXPECT_THAT(csv.output, HasSubstr("--format: csv not in {auto,text,jsonl}"));
  folder_.write("d.json", "{\n\"text\": \"ka lo\"}\n");
  expect_refused(tokenize + "@/d.json", "--format text reads it as plain text");
  expect_refused("tokenizer --vocabulary 300 --out @/t.model @/d.json", "--format text reads it as plain text");
}

TEST_F(DataVerbsTest, GeneratesText) {
  write_text();
  write_model();
  expect_ok("tokenizer --vocabulary 300 --out @/tok.model @/text", "");
  const std::string generate = "generate --model @/run --tokenizer @/tok.model --max-new-tokens 20 ";
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
  EXPECT_EQ(text_of(run("generate --model @/run --max-new-tokens 20 --prompt 'ka lo'")), text_of(greedy));
  EXPECT_EQ(text_of(run(generate + "--prompt 'ka lo' --threads 1 --temperature 1 --top-k 1")), text_of(greedy));

  const std::string sampled = generate + "--prompt 'ka lo' --temperature 1.5 --top-k 100 --top-p 0.9 --without 1 ";
  EXPECT_EQ(text_of(run(sampled + "--seed 4")), text_of(run(sampled + "--seed 4")));
  EXPECT_NE(text_of(run(sampled + "--seed 4")), text_of(run(sampled + "--seed 5")));
  expect_ok(generate + "--prompt 'ka lo' --without 1 --dry-run", "in 2 layers");
  expect_ok("generate --model @/run --tokenizer @/tok.model --bos --prompt '' --temperature 1", "prompt: 1 tokens");
}

TEST_F(DataVerbsTest, GenerateStopsAtEveryEndToken) {
  write_text();
  expect_ok("tokenizer --vocabulary 290 --out @/tok.model @/text", "");
  const auto model_that_says = [&](int32_t token) {
    write_model_that_says(token);
    const auto checkpoint = checkpoints_folder(folder_ / "run") / checkpoint_name(1);
    std::filesystem::copy_file(folder_ / "tok.model", checkpoint / "tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);
    return checkpoint;
  };
  const char* generate = "generate --model @/run --max-new-tokens 5 --prompt ka";
  const auto expect_end = [&](const std::string& reason) { expect_ok(generate, "; " + reason + "\n"); };
  // A token beyond the tokenizer's pieces, which only the files name.
  auto checkpoint = model_that_says(295);
  expect_end("--max-new-tokens reached");
  write_file_atomically(checkpoint / "generation_config.json", "{\"eos_token_id\": [280, 295]}");
  expect_end("the text ended");
  write_file_atomically(checkpoint / "generation_config.json", "{\"eos_token_id\": [280, 305]}");
  write_file_atomically(checkpoint / "added_tokens.json", "{\"<|x|>\": 295}");
  expect_ok(generate, "<|x|><|x|><|x|><|x|><|x|>\n");
  expect_ok(generate, "generation_config.json: eos_token_id[1]: 305 is no token of the model");
  // One of the pieces.
  checkpoint = model_that_says(280);
  expect_end("the text ended");
  write_file_atomically(checkpoint / "generation_config.json", "{\"eos_token_id\": 2}");
  expect_end("--max-new-tokens reached");
  // BOS as the tokenizer's files say, unless the user does.
  expect_ok(generate, "prompt: 1 tokens");
  write_file_atomically(checkpoint / "tokenizer_config.json", "{\"add_bos_token\": true}");
  expect_ok(generate, "prompt: 2 tokens");
  expect_ok(generate + std::string(" --no-bos"), "prompt: 1 tokens");
  // What a run has seen behind its documents ends a text whatever the files say.
  checkpoint = model_that_says(2);
  write_file_atomically(checkpoint / "generation_config.json", "{\"eos_token_id\": 7}");
  expect_end("--max-new-tokens reached");
  CheckpointManifest manifest = load_checkpoint_manifest(checkpoint);
  manifest.run = {{"run.seed", "1"}};
  manifest.replicas = {1, 1, 1};
  manifest.microbatches = 1;
  write_checkpoint_description(checkpoint, manifest, ModelFiles(checkpoint).config(), {});
  expect_end("the text ended");
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
       {"tokenizer", "tokenizer --vocabulary 5 --out x y", "tokenize --bogus", "eval --data x --tokens 0",
        "eval --data x --tokens 8", "probe --config x --network y", "generate --model x", "generate --prompt x",
        "generate --model x --prompt y --prompt-file z", "generate --model x --prompt y --top-p 0",
        "generate --model x --prompt y --temperature -1", "generate --model x --prompt y --max-new-tokens 0",
        "nonsense", ""})
    EXPECT_EQ(run(arguments).exit_code, 2) << arguments;
}

TEST_F(DataVerbsTest, NumbersThatAreNoneAreNamedAndNeverWrap) {
  const auto expect_wrong_use = [&](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(part)) << arguments;
  };
  for (const std::string number :
       {"-1", "1e3", "0x10", "99999999999999999999", "'1 2'", "' 1'", "+1", "7x", "''", "1.5"}) {
    const std::string bare = number.front() == '\'' ? number.substr(1, number.size() - 2) : number;
    for (const std::string option :
         {"tokenize --tokenizer x --out y z --seed", "tokenizer --vocabulary 300 --out x y --seed",
          "tokenize --tokenizer x --out y z --document-lines", "eval --model x --data y --tokens 8 --samples",
          "generate --model x --prompt y --seed", "plan --network x --stages 2 --microbatches 2 --seed"})
      expect_wrong_use(option + " " + number, "found '" + bare + "', expected a whole number from 0 to");
  }
  for (const std::string number : {"1e3", "0x10", "99999999999999999999", "'1 2'", "8z"}) {
    expect_wrong_use("eval --model x --data y --tokens " + number, "expected a whole number");
    expect_wrong_use("eval --model x --data y --tokens 8 --without 1," + number, "expected a whole number");
    expect_wrong_use("train x --node " + number, "expected a whole number");
  }
  for (const std::string number : {"nan", "inf", "0x1p-1", "1e999", "0.1x", "' 0.1'"})
    expect_wrong_use("tokenize --tokenizer x --out y z --validation-share " + number, "expected a number");
  for (const std::string size : {"-1", "-1GB", "0x10", "99999999999999999999", "'1 GB'", "1.5GB"})
    expect_wrong_use("convert x --out y --max-shard-size " + size, "expected a whole number with or without a unit");
  // Plain decimals, also with zeros in front: no other base.
  expect_refused("eval --model @/none --data y --tokens 010 --samples 18446744073709551615", "none");
  expect_refused("convert @/none --out y --max-shard-size 2GB", "none");
}

TEST_F(DataVerbsTest, HelpShowsAnExample) {
  for (const std::string verb : {"tokenizer", "tokenize", "plan", "simulate", "probe", "train", "launch", "eval",
                                 "generate", "convert", "inspect"})
    expect_ok(verb + " --help", "Example: skippipe " + verb + " ");
}

}  // namespace
}  // namespace skippipe
