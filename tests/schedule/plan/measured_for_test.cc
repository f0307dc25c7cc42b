// What a network file says that it was measured for: read, written, compared.
#include "schedule/plan/measured_for.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "schedule/plan/network.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using nlohmann::json;

const json kMeasuredFor = json::parse(R"({
  "model": {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 32, "vocab_size": 8000},
  "samples": 4, "tokens": 256, "dtype": "bf16"})");

MeasuredFor read(const json& document) { return read_measured_for(JsonReader(document, "network.json: measured_for")); }

TEST(MeasuredFor, SurvivesARoundTrip) {
  const MeasuredFor measured = read(kMeasuredFor);
  EXPECT_EQ(measured.num_key_value_heads, 4);
  EXPECT_EQ(measured.tokens, 256);
  EXPECT_EQ(measured.dtype, "bf16");
  EXPECT_EQ(json(to_json(measured)), kMeasuredFor);
}

TEST(MeasuredFor, StaysWithItsNetwork) {
  const TempFolder folder;
  Network network = test::random_network(1, 4);
  save_network(network, folder / "network.json");
  EXPECT_FALSE(load_network(folder / "network.json").measured_for) << "nobody need say";
  network.measured_for = read(kMeasuredFor);
  save_network(subnetwork(network, {2, 0}), folder / "network.json");
  EXPECT_EQ(load_network(folder / "network.json").measured_for, network.measured_for);
}

TEST(MeasuredFor, NamesWhatDiffers) {
  const MeasuredFor measured = read(kMeasuredFor);
  EXPECT_EQ(describe_difference(measured, measured), "");
  MeasuredFor other = measured;
  other.hidden_size = 4096;
  other.tokens = 2048;
  other.dtype = "f32";
  EXPECT_EQ(describe_difference(measured, other),
            "hidden_size 256 (here 4096), tokens 256 (here 2048), dtype bf16 (here f32)");
}

TEST(MeasuredFor, RefusesWhatMakesNoSense) {
  const auto refuses = [](const std::string& part, const std::function<void(json&)>& change) {
    json broken = kMeasuredFor;
    change(broken);
    SKP_EXPECT_ERROR((void)read(broken), FileError, "network.json: measured_for" + part);
  };
  refuses(".samples: found 0", [](json& m) { m["samples"] = 0; });
  refuses(".tokens: found \"many\"", [](json& m) { m["tokens"] = "many"; });
  refuses(".dtype: found \"f64\", expected f32 or bf16", [](json& m) { m["dtype"] = "f64"; });
  refuses(": field 'model' is missing", [](json& m) { m.erase("model"); });
  refuses(".model: field 'head_dim' is missing", [](json& m) { m["model"].erase("head_dim"); });
  refuses(": unknown field 'token'; did you mean 'tokens'?", [](json& m) { m["token"] = 1; });
  refuses(".model: unknown field 'vocabulary_size'; did you mean 'vocab_size'?",
          [](json& m) { m["model"]["vocabulary_size"] = 1; });
}

}  // namespace
}  // namespace skippipe
