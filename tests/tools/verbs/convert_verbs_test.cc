// convert and inspect, as a user calls them.
#include "base/file.h"
#include "engine/checkpoint/model_files.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;

class ConvertVerbsTest : public VerbTest {};

TEST_F(ConvertVerbsTest, ThereAndBackAgain) {
  expect_ok("convert % --out @/stages --layers-per-stage 0,1,1", "a checkpoint with 0 + 1 + 1 layers in 3 stages");
  expect_ok("convert @/stages --out @/two --stages 2", "1 + 1 layers in 2 stages");
  expect_ok("convert @/two --out @/out --dtype bf16 --max-shard-size 6KB", "14.8 kB as BF16, without tokenizer");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out/model.safetensors.index.json"));
  expect_refused("convert @/two --out @/out", "out: exists");
  expect_ok("convert @/two --out @/out --force", "29.6 kB as F32");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/model.safetensors.index.json"));
  EXPECT_EQ(folder_.files(), 3u);
}

TEST_F(ConvertVerbsTest, SaysWhatBecomesOfTheTokenizer) {
  expect_ok("convert % --out @/hf", "without tokenizer");
  folder_.write("hf/tokenizer.json", "{}");
  folder_.write("hf/chat_template.jinja", "{{ x }}");
  folder_.write("hf/generation_config.json", "{\"temperature\": 0.5}");
  folder_.write("hf/notes.txt", "");
  const char* kept = "taken along as they are: chat_template.jinja, generation_config.json, tokenizer.json\n";
  expect_ok("convert @/hf --out @/stages --stages 2", kept);
  expect_ok("convert @/stages --out @/back", kept);
  EXPECT_EQ(read_file(folder_ / "back/generation_config.json"), "{\"temperature\": 0.5}");
  expect_ok("convert @/hf --out @/none --tokenizer none",
            "left out, as --tokenizer asks: chat_template.jinja, tokenizer.json");
  expect_ok("convert @/hf --out @/noted", "not taken along: notes.txt");
  std::filesystem::create_directory(folder_ / "other");
  folder_.write("other/tokenizer.json", "{\"other\": 1}");
  expect_ok("convert @/stages --out @/replaced --tokenizer @/other", "replaced, as --tokenizer asks: tokenizer.json\n");
  EXPECT_EQ(read_file(folder_ / "replaced/tokenizer.json"), "{\"other\": 1}");
  expect_refused("convert @/hf --out @/never --tokenizer @/stages/none", "none: cannot open");
  folder_.write("hf/tokenizer.json", "version https://git-lfs.github.com/spec/v1\n");
  expect_refused("convert @/hf --out @/never",
                 "hf/tokenizer.json: not a file of a tokenizer or of settings: found a Git LFS pointer");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
}

TEST_F(ConvertVerbsTest, BadInputIsNamedAndNothingIsWritten) {
  folder_.write("file", "x");
  expect_refused("convert @/none --out @/out", "none");
  expect_refused("convert % --out @/file/out", "file/out: cannot create: ");
  expect_refused("convert % --out @/file --force", "file: exists and is no model");
  expect_refused("convert % --out @ --force", "exists and is no model");
  std::filesystem::create_symlink("gone", folder_ / "dangling");
  for (const char* out : {"dangling", "dangling/out", "dangling --force"})
    expect_refused(std::string("convert % --out @/") + out, "dangling: a link to 'gone', which is not there");
  std::filesystem::remove(folder_ / "dangling");
  expect_refused("convert % --out @/out --stages 3", "3");
  expect_refused("convert % --out @/out --tokenizer @/file", "file: not a SentencePiece model");
  EXPECT_EQ(folder_.files(), 1u);
}

TEST_F(ConvertVerbsTest, AFullDiskIsToldWithTheNameThatWasGiven) {
  const ProgramResult full = run("convert % --out @/out", "/dev/null", "ulimit -f 8;");
  EXPECT_EQ(full.exit_code, 1) << full.output;
  EXPECT_THAT(full.output, HasSubstr("/out/model.safetensors: cannot write: File too large\n"));
  EXPECT_THAT(full.output, ::testing::Not(HasSubstr(".tmp")));
  EXPECT_EQ(folder_.files(), 0u);
}

// Written as they are, so that they can be looked at, but no success.
TEST_F(ConvertVerbsTest, WeightsThatAreNotFiniteAreToldOf) {
  expect_ok("convert % --out @/model", "");
  std::string bytes = read_file(folder_ / "model/model.safetensors");
  bytes.replace(bytes.size() - 4, 4, std::string("\0\0\xc0\xff", 4));
  folder_.write("model/model.safetensors", bytes);
  const std::string problem =
      "model/model.safetensors: tensor 'lm_head.weight': 1 of 976 values are not finite, the first, at [60, 15], is "
      "not "
      "a number";
  expect_refused("convert @/model --out @/copy --dtype bf16", problem + "; ");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "copy/model.safetensors"));
  expect_refused("convert @/model --out @/stages --stages 2", problem + "; ");
  const ProgramResult inspected = run("inspect @/model");
  EXPECT_EQ(inspected.exit_code, 1);
  EXPECT_THAT(inspected.output, HasSubstr("not whole: " + folder_.path().string() + "/" + problem));
  EXPECT_EQ(run("inspect @/stages").exit_code, 1);
}

TEST_F(ConvertVerbsTest, TellsWhatTransformersWillNotLoad) {
  expect_ok("convert % --out @/model", "");
  std::string config = read_file(folder_ / "model/config.json");
  config.insert(config.find('{') + 1, "\"use_cache_\": 1, ");
  const auto cache = config.find("\"use_cache\": true");
  ASSERT_NE(cache, std::string::npos) << config;
  folder_.write("model/config.json", config.replace(cache, 17, "\"use_cache\": 1"));
  expect_ok("convert @/model --out @/copy", "copy: transformers 5 will not load it: use_cache: found 1, expected true");
  EXPECT_THAT(read_file(folder_ / "copy/config.json"), HasSubstr("\"use_cache_\": 1"));
}

TEST_F(ConvertVerbsTest, InspectSaysWhetherAFileIsWhole) {
  expect_ok("inspect %", "  lm_head.weight                                  BF16    1.91 KiB  61 x 16\n");
  expect_ok("inspect %", "tensors        21 in 3 files, 14.47 KiB");
  EXPECT_TRUE(run("inspect %").output.ends_with("\nwhole\n"));
  expect_ok("convert % --out @/stages --stages 2", "");
  std::filesystem::resize_file(folder_ / "stages/stage-01.safetensors", 100);
  const ProgramResult result = run("inspect @/stages");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("\nnot whole: "));
  EXPECT_THAT(result.output, HasSubstr("stage-01.safetensors: 100 bytes, expected "));
  expect_refused("inspect @/none", "none: no such file or folder");
}

TEST_F(ConvertVerbsTest, WrongUseEndsWithTwo) {
  for (const char* arguments :
       {"inspect", "convert", "convert %", "convert % --out @/out --dtype f64",
        "convert % --out @/out --stages 1 --dtype f32", "convert % --out @/out --stages 1 --layers-per-stage 2",
        "convert % --out @/out --max-shard-size many"})
    EXPECT_EQ(run(arguments).exit_code, 2) << arguments;
}

}  // namespace
}  // namespace skippipe
