// bench, as a user calls it.
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;

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
  for (const char* part :
       {"device: CPU (", "total", "linear forward", "lm head backward", "useful / matrix product: ", "3 steps"})
    EXPECT_THAT(result.output, HasSubstr(part));
  const auto report = nlohmann::json::parse(read_file(folder_ / "bench.json"));
  ASSERT_EQ(report["results"].size(), 1u);
  EXPECT_EQ(report["results"][0]["steps_s"].size(), 3u);
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
  expect_refused("bench --config @/none", "none: cannot open");
  EXPECT_EQ(run("bench --dtype f64").exit_code, 2);
  EXPECT_EQ(run("bench --recompute auto").exit_code, 2);
  const ProgramResult large = run("bench --samples 65536 --tokens 4096");
  EXPECT_EQ(large.exit_code, 1);
  EXPECT_THAT(large.output, HasSubstr("skippipe: cpu: the node needs "));
}

}  // namespace
}  // namespace skippipe
