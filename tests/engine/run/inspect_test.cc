#include "engine/run/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "engine/checkpoint/convert.h"
#include "engine/files/token_shards.h"
#include "schedule/plan/network.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

const fs::path kSource = SKIPPIPE_SOURCE_DIR;
const fs::path kModel = kSource / "tests/engine/golden/sharded";

class InspectTest : public ::testing::Test {
 protected:
  fs::path checkpoint(const std::string& name = "checkpoint") const {
    write_model_checkpoint(folder_ / name, ModelFiles(kModel), std::vector<int>{1, 1}, {});
    return folder_ / name;
  }
  static void expect_whole(const fs::path& path, const std::string& kind) {
    const Inspection found = inspect(path);
    EXPECT_EQ(found.kind, kind) << path;
    EXPECT_THAT(found.problems, ElementsAre()) << path;
  }
  static void expect_problem(const fs::path& path, const std::string& kind, const std::string& part) {
    const Inspection found = inspect(path);
    EXPECT_EQ(found.kind, kind) << path;
    EXPECT_THAT(found.problems, Contains(HasSubstr(part))) << path;
  }

  const TempFolder folder_;
};

TEST_F(InspectTest, KnowsWhatLiesInTheTree) {
  expect_whole(kModel, "Hugging Face model");
  expect_whole(kModel / "config.json", "model configuration");
  expect_whole(kModel / "model.safetensors.index.json", "index of a sharded model");
  expect_whole(kModel / "model-00001-of-00003.safetensors", "safetensors");
  expect_whole(kSource / "examples/published-20-nodes.json", "network");
  EXPECT_EQ(inspect(kModel).tensors.size(), 21u);
  expect_problem(kSource / "README.md", "", "no file or folder of skippipe");
  expect_problem(kSource / "engine", "", "no file or folder of skippipe");
  SKP_EXPECT_ERROR(inspect(kSource / "none"), FileError, "none: no such file or folder");
}

TEST_F(InspectTest, WeightsThatAreNotFiniteAreAProblem) {
  const fs::path path = checkpoint();
  std::string bytes = read_file(path / "stage-01.safetensors");
  bytes.replace(bytes.size() - 4, 4, std::string("\0\0\x80\x7f", 4));
  folder_.write("f.safetensors", bytes);
  expect_problem(folder_ / "f.safetensors", "safetensors", "1 of ");
  expect_problem(folder_ / "f.safetensors", "safetensors", "is infinite");

  const fs::path model = folder_ / "model";
  write_hugging_face_model(model, ModelFiles(path), {});
  bytes = read_file(model / "model.safetensors");
  bytes.replace(bytes.size() - 4, 4, std::string("\0\0\xc0\x7f", 4));
  folder_.write("model/model.safetensors", bytes);
  expect_problem(model, "Hugging Face model",
                 "model.safetensors: tensor 'lm_head.weight': 1 of 976 values are not "
                 "finite, the first, at [60, 15], is not a number");
}

TEST_F(InspectTest, ACheckpointIsWholeOrItsProblemsAreNamed) {
  const fs::path path = checkpoint();
  expect_whole(path, "checkpoint");
  expect_whole(path / "stage-01.safetensors", "safetensors");
  EXPECT_THAT(inspect(path).facts, Contains(Pair("stages", "2 with 1 + 1 layers")));
  std::string content = read_file(path / "stage-01.safetensors");
  content.back() = static_cast<char>(content.back() + 1);
  folder_.write("checkpoint/stage-01.safetensors", content);
  expect_problem(path, "checkpoint", "stage-01.safetensors: the content has another checksum");
  fs::remove(path / "stage-01.safetensors");
  expect_problem(path, "checkpoint", "stage-01.safetensors: No such file");
  folder_.write("checkpoint/config.json", "{}");
  expect_problem(path, "checkpoint", "config.json: 2 bytes, expected");
  folder_.write("checkpoint/manifest.json", R"({"format": "skippipe-checkpoint"})");
  expect_problem(path, "checkpoint", "field 'version' is missing");
  expect_problem(path / "manifest.json", "manifest of a checkpoint", "field 'version' is missing");
  expect_whole(path / "stage-00.json", "part of a checkpoint");
  folder_.write("part", R"({"format": "skippipe-checkpoint-part", "version": 1, "stage": 0})");
  expect_problem(folder_ / "part", "part of a checkpoint", "field 'files' is missing");
  folder_.write("run.json", R"({"format": "skippipe-run", "version": 1, "run_id": "7", "run_file": [], "plan": 4})");
  expect_problem(folder_ / "run.json", "description of a run", "run.json: ");
}

TEST_F(InspectTest, AModelWithMissingTensorsIsNotWhole) {
  fs::copy(kModel, folder_ / "model");
  fs::remove(folder_ / "model/model-00002-of-00003.safetensors");
  expect_problem(folder_ / "model", "Hugging Face model", "model-00002-of-00003.safetensors: cannot open");
  fs::remove(folder_ / "model/model.safetensors.index.json");
  expect_problem(folder_ / "model", "Hugging Face model", "tensor 'model.layers.0.input_layernorm.weight' is in none");
  EXPECT_FALSE(inspect(folder_ / "model").tensors.empty());
}

TEST_F(InspectTest, ARunsFolderIsLookedAtPartByPart) {
  fs::create_directories(folder_ / "run/checkpoints");
  fs::create_directories(folder_ / "run/trace");
  checkpoint("run/checkpoints/iteration-00000020");
  const std::string line = R"({"iteration": 0, "loss": 8.5})";
  folder_.write("run/metrics.jsonl", line + "\n" + R"({"iteration": 1, "loss": 7.25})" + "\n");
  folder_.write("run/trace/run.json", R"({"traceEvents": [{"ph": "X"}]})");
  folder_.write("run/evaluation.json", R"({"format": "skippipe-evaluation", "predicted_tokens": 5, "results": []})");
  const fs::path run = folder_ / "run";
  expect_whole(run, "output folder of a run");
  EXPECT_EQ(inspect(run).facts.size(), 5u);
  expect_whole(run / "metrics.jsonl", "metrics of a run");
  EXPECT_THAT(inspect(run / "metrics.jsonl").facts, Contains(Pair("loss", "8.5000 to 7.2500")));
  expect_whole(run / "trace/run.json", "trace");
  expect_whole(run / "evaluation.json", "evaluation");

  folder_.write("run/metrics.jsonl", "");  // it has just begun
  expect_whole(run, "output folder of a run");
  folder_.write("run/metrics.jsonl", line + "\n" + line + "\n");
  expect_problem(run, "output folder of a run", "metrics.jsonl:2: iteration: found 0");
  folder_.write("run/metrics.jsonl", line + "\n" + line.substr(0, 9));
  expect_problem(run, "output folder of a run", "metrics.jsonl:2: the line is not complete");
  folder_.write("run/trace/run.json", R"({"traceEvents": [{}]})");
  expect_problem(run, "output folder of a run", "field 'ph' is missing");
}

TEST_F(InspectTest, ARunWithoutACheckpointSaysSo) {
  fs::create_directories(folder_ / "run");
  folder_.write("run/metrics.jsonl", R"({"iteration": 0, "loss": 8.5})"
                                     "\n");
  expect_whole(folder_ / "run", "output folder of a run");
  EXPECT_THAT(inspect(folder_ / "run").facts,
              Contains(Pair("checkpoint", "none yet: nothing to resume from, to evaluate or to convert")));
}

TEST_F(InspectTest, FoldersOfTokensAndTokenizersAreKnown) {
  fs::create_directories(folder_ / "tokens");
  TokenShardWriter writer(folder_ / "tokens/train.tokens", 10, 7);
  writer.append(std::vector<int32_t>{1, 2});
  writer.end_document();
  writer.finish();
  expect_whole(folder_ / "tokens", "folder of token shards");
  EXPECT_THAT(inspect(folder_ / "tokens").facts, Contains(Pair("whole", "train.tokens (token shard)")));
  folder_.write("tokens/validation.tokens", "skptokn\nand no more");
  expect_problem(folder_ / "tokens", "folder of token shards", "validation.tokens: ");

  fs::create_directories(folder_ / "tokenizer");
  folder_.write("tokenizer/tokenizer.json", R"({"model": {"vocab": {"a": 0, "b": 1}}})");
  expect_whole(folder_ / "tokenizer", "folder of a tokenizer");
  EXPECT_THAT(inspect(folder_ / "tokenizer/tokenizer.json").facts, Contains(Pair("vocabulary", "2")));
  folder_.write("tokenizer/tokenizer.model", "none");
  expect_problem(folder_ / "tokenizer", "folder of a tokenizer", "not a SentencePiece model");
}

TEST_F(InspectTest, FilesAreReadToTheirEnd) {
  TokenShardWriter writer(folder_ / "shard", 10, 7);
  for (const int32_t token : {1, 9, 3}) {
    writer.append(std::span(&token, 1));
    writer.end_document();
  }
  writer.finish();
  expect_whole(folder_ / "shard", "token shard");
  std::string shard = read_file(folder_ / "shard");
  std::string damaged = shard;
  damaged[64 + 2] = 10;  // beyond the vocabulary
  folder_.write("shard", damaged);
  expect_problem(folder_ / "shard", "token shard", "10");
  damaged = shard;
  damaged[shard.size() - 8] = 1;  // the last document would begin with the one before
  folder_.write("shard", damaged);
  expect_problem(folder_ / "shard", "token shard", "document");
  folder_.write("shard", shard.substr(0, shard.size() - 1));
  expect_problem(folder_ / "shard", "token shard", "bytes");

  const std::string tensors = read_file(kModel / "model-00001-of-00003.safetensors");
  folder_.write("tensors", tensors.substr(0, tensors.size() - 1));
  expect_problem(folder_ / "tensors", "safetensors", "expected within");
  folder_.write("config", R"({"model_type": "qwen2"})");
  expect_problem(folder_ / "config", "model configuration", "qwen2");
  folder_.write("network", R"({"format": "skippipe-network", "version": 1, "nodes": 7})");
  expect_problem(folder_ / "network", "network", "nodes");
  folder_.write("run", "[run]\nseed = 1\n");
  expect_problem(folder_ / "run", "run file", "field 'run.output' is missing");
  folder_.write("half", R"({"format": "skippipe-netw)");
  expect_problem(folder_ / "half", "JSON", "half: not valid JSON");
  folder_.write("half", R"({"format": "skippipe-network", "nodes": [)");
  expect_problem(folder_ / "half", "network", "half: not valid JSON");
  folder_.write("other", R"({"format": "skippipe-netwrok", "nodes": []})");
  expect_problem(folder_ / "other", "JSON", R"(found JSON whose format is "skippipe-netwrok")");
  folder_.write("other", R"({"nodes": []})");
  expect_problem(folder_ / "other", "JSON", "found JSON that has no format");
  folder_.write("empty", "");
  expect_problem(folder_ / "empty", "",
                 "no file or folder of skippipe or a Hugging Face model: found nothing (0 bytes)");
  folder_.write("zip", "PK\3\4 and more");
  expect_problem(folder_ / "zip", "", "no file or folder of skippipe or a Hugging Face model: found a zip archive");
  folder_.write("noise", std::string("\n\x05\x00\xff", 4));
  expect_problem(folder_ / "noise", "SentencePiece model", "not a SentencePiece model");
}

}  // namespace
}  // namespace skippipe
