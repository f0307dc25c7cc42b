// bench, as a user calls it.
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class BenchVerbTest : public VerbTest {
 protected:
  void write_config(int channels) const {
    folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
      "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1,
      "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "vocab_size": 100, "hidden_size": )" +
                                     std::to_string(channels) + "}");
  }
};

TEST_F(BenchVerbTest, TellsWhatAStepTakes) {
  write_config(32);
  const ProgramResult result =
      run("bench --config @/config.json --samples 2 --tokens 16 --steps 3 --threads 1 --json @/bench.json");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"device: CPU (", "total", "linear forward", "lm head backward", "between operations",
                           "useful / matrix product: ", "3 steps", "allocations while steps ran: 0"})
    EXPECT_THAT(result.output, HasSubstr(part));
  EXPECT_THAT(result.output, Not(HasSubstr("NOT the whole model")));
  const auto report = nlohmann::json::parse(read_file(folder_ / "bench.json"));
  ASSERT_EQ(report["results"].size(), 1u);
  const auto& step = report["results"][0];
  EXPECT_EQ(step["steps_s"].size(), 3u);
  EXPECT_EQ(step["samples"], 2);
  EXPECT_EQ(step["layers"], 1);
  EXPECT_EQ(step["allocations"], 0);
  EXPECT_NEAR(step["share_of_ceiling"].get<double>() * step["matrix_product_flop_per_s"].get<double>(),
              step["useful_flop_per_s"].get<double>(), 1);
  EXPECT_NEAR(step["tokens_per_s"].get<double>() * step["step_s"].get<double>(), 32, 1e-6);
  EXPECT_FALSE(step.contains("share_of_datasheet"));
}

// As few samples, tokens and layers as there can be, at its width.
TEST_F(BenchVerbTest, MeasuresAPartOfAModelByName) {
  const ProgramResult result =
      run("bench --shape 125m --layers 1 --samples 1 --tokens 8 --steps 1 --device cpu --json @/bench.json");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part :
       {"model: 125M, C=768, F=2048, L=12, H=12, K=12, D=64, V=32000, untied embeddings, 134.1 M parameters",
        "NOT the whole model: a stage with 1 of its 12 layers, embedding and head"})
    EXPECT_THAT(result.output, HasSubstr(part));
  const auto step = nlohmann::json::parse(read_file(folder_ / "bench.json"))["results"][0];
  EXPECT_EQ(step["model"], "125M");
  EXPECT_EQ(step["model_layers"], 12);
  EXPECT_EQ(step["layers"], 1);
}

TEST_F(BenchVerbTest, MeasuresWhatMessagesCost) {
  write_config(32);
  const ProgramResult result =
      run("bench --overlap --config @/config.json --samples 2 --tokens 16 --steps 1 --threads 1 --json @/bench.json");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("with 64.00 MiB sent and 64.00 MiB received beside each"));
  const auto overlap = nlohmann::json::parse(read_file(folder_ / "bench.json"))["results"][0];
  EXPECT_NEAR(overlap["slowdown"].get<double>(),
              overlap["beside_s"][0].get<double>() / overlap["alone_s"][0].get<double>() - 1, 1e-9);
}

TEST_F(BenchVerbTest, MeasuresRecomputationInTurns) {
  write_config(32);
  const ProgramResult result =
      run("bench --config @/config.json --samples 2 --tokens 16 --steps 1 --threads 1 --recompute none,attention,block "
          "--json @/bench.json");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  // Of 9248 multiplications per token 2080 are queries, keys, values and attention, and the last 2048 are not needed.
  EXPECT_THAT(result.output, HasSubstr("recompute attention: +22 % of a forward in backward"));
  EXPECT_THAT(result.output, HasSubstr("recompute block: +78 % of a forward in backward"));
  EXPECT_THAT(result.output, HasSubstr("f32, recompute block over f32: "));
  const auto report = nlohmann::json::parse(read_file(folder_ / "bench.json"));
  ASSERT_EQ(report["results"].size(), 3u);
  EXPECT_EQ(report["results"][0]["recompute"], "none");
  EXPECT_EQ(report["results"][2]["recompute"], "block");
}

// Wide models begin with a larger loss than that of equal probabilities.
TEST_F(BenchVerbTest, MeasuresWideModels) {
  write_config(4096);
  expect_ok("bench --config @/config.json --samples 1 --tokens 8 --steps 1 --threads 1", "1 steps");
}

TEST_F(BenchVerbTest, RefusesWhatItCannotMeasure) {
  write_config(32);
  expect_refused("bench --config @/none", "none: cannot open");
  expect_refused("bench --config @/config.json --tokens 16 --layers 2", "2 layers of a model of 1, expected 1 to all");
  expect_refused("bench --config @/config.json --tokens 65", "samples of 65 tokens");
  expect_refused("bench --device cuda:4096", "device cuda:4096: ");
  EXPECT_EQ(run("bench --dtype f64").exit_code, 2);
  EXPECT_EQ(run("bench --recompute auto").exit_code, 2);
  EXPECT_EQ(run("bench --device gpu").exit_code, 2);
  EXPECT_EQ(run("bench --shape 8b --config @/config.json").exit_code, 2);
  const ProgramResult unknown = run("bench --shape 3b");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.output, HasSubstr("--shape: 3b not in {125M,500M,1.5B,8B,"));
  const ProgramResult large = run("bench --samples 65536 --tokens 4096");
  EXPECT_EQ(large.exit_code, 1);
  EXPECT_THAT(large.output, HasSubstr("skippipe: cpu: the node needs "));
}

}  // namespace
}  // namespace skippipe
