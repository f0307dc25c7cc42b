// bench, as a user calls it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/temp_folder.h"
#include "tests/tools/run_program.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;

class BenchVerbTest : public ::testing::Test {
 protected:
  std::string config(int channels, int vocabulary) const {
    const std::string size = std::to_string(channels);
    folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
      "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1,
      "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_size": )" +
                                     size + ", \"vocab_size\": " + std::to_string(vocabulary) + "}");
    return (folder_ / "config.json").string();
  }

  const TempFolder folder_;
};

TEST_F(BenchVerbTest, TellsWhatAStepTakes) {
  const std::string report_file = (folder_ / "bench.json").string();
  const ProgramResult result = run_skippipe("bench --config " + config(32, 100) +
                                            " --samples 2 --tokens 16 --steps 3 --threads 1 --json " + report_file);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"total", "linear forward", "lm head backward", "useful / matrix product: ", "3 steps"})
    EXPECT_THAT(result.output, HasSubstr(part));
  const auto report = nlohmann::json::parse(read_file(report_file));
  ASSERT_EQ(report["results"].size(), 1u);
  EXPECT_EQ(report["results"][0]["steps_s"].size(), 3u);
}

// Wide models begin with a larger loss than that of equal probabilities.
TEST_F(BenchVerbTest, MeasuresWideModels) {
  const ProgramResult result =
      run_skippipe("bench --config " + config(4096, 100) + " --samples 1 --tokens 8 --steps 1 --threads 1");
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST_F(BenchVerbTest, RefusesWhatItCannotMeasure) {
  EXPECT_EQ(run_skippipe("bench --config " + (folder_ / "none").string()).exit_code, 1);
  EXPECT_EQ(run_skippipe("bench --dtype f64").exit_code, 2);
  const ProgramResult large = run_skippipe("bench --samples 65536 --tokens 4096");
  EXPECT_EQ(large.exit_code, 1);
  EXPECT_THAT(large.output, HasSubstr("skippipe: cpu: the node needs "));
}

}  // namespace
}  // namespace skippipe
