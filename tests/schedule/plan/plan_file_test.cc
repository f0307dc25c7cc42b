// Network and plan files: round trips, and wrong ones, each refused with one line that names the field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "schedule/plan/validator.h"
#include "tests/schedule/random_plans.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class PlanFile : public testing::Test {
 protected:
  // Loads `text` and expects one line that contains all of `parts`.
  template <typename Load>
  void refuses(Load load, const std::string& text, const std::vector<std::string>& parts) {
    folder_.write("bad.json", text);
    try {
      load(path("bad.json"));
      ADD_FAILURE() << "accepted; expected an error with " << testing::PrintToString(parts);
    } catch (const Error& error) {
      const std::string line = error.what();
      EXPECT_EQ(line.find('\n'), std::string::npos) << line;
      EXPECT_THAT(line, HasSubstr("bad.json"));
      for (const std::string& part : parts) EXPECT_THAT(line, HasSubstr(part));
    }
  }
  std::filesystem::path path(const std::string& name) const { return folder_ / name; }

  const TempFolder folder_;
};

const json kNetwork = json::parse(R"({
  "format": "skippipe-network", "version": 1,
  "nodes": [{"name": "a", "region": "east", "forward_s": 0.1, "slots": 2, "uplink_mbit_per_s": 8},
            {"name": "b", "region": "east", "forward_s": 0.2, "memory_bytes": 123456789012, "loss_s": 0.03},
            {"name": "c", "region": "west", "forward_s": 0.3, "device": "cuda:0", "backward_over_forward": 2,
             "loss_over_forward": 0.5, "step_s_per_byte": 1e-9}],
  "links": [{"from": "a", "to": "b", "latency_ms": 1, "bandwidth_mbit_per_s": 800, "overhead_ms": 2,
             "symmetric": false}],
  "region_links": [{"from": "east", "to": "east", "latency_ms": 3},
                   {"from": "east", "to": "west", "latency_ms": 40, "bandwidth_mbit_per_s": 100}]
})");

TEST_F(PlanFile, ReadsNetworks) {
  folder_.write("network.json", kNetwork.dump());
  const Network network = load_network(path("network.json"));
  ASSERT_EQ(network.size(), 3);
  EXPECT_EQ(network.nodes[0].slots, 2);
  EXPECT_EQ(network.nodes[1].slots, 3);
  EXPECT_EQ(network.nodes[0].memory_bytes, 0);
  EXPECT_FALSE(network.nodes[0].slots_from_memory);
  EXPECT_TRUE(network.nodes[1].slots_from_memory);
  EXPECT_FALSE(network.nodes[2].slots_from_memory) << "no memory is told";
  EXPECT_EQ(network.nodes[2].device, "cuda:0");
  EXPECT_DOUBLE_EQ(network.nodes[0].uplink_bytes_per_s, 1e6);
  EXPECT_EQ(network.nodes[1].uplink_bytes_per_s, 0) << "not shared";
  EXPECT_EQ(network.nodes[2].backward_over_forward, 2);
  EXPECT_DOUBLE_EQ(network.link(0, 1).latency_s, 0.001);
  EXPECT_DOUBLE_EQ(network.link(0, 1).bandwidth_bytes_per_s, 1e8);
  EXPECT_DOUBLE_EQ(network.link(0, 1).overhead_s, 0.002);
  EXPECT_DOUBLE_EQ(network.link(1, 0).latency_s, 0.003) << "the other direction has its region's link";
  EXPECT_EQ(network.link(1, 0).bandwidth_bytes_per_s, 0);
  EXPECT_DOUBLE_EQ(network.link(2, 1).latency_s, 0.04);
  EXPECT_DOUBLE_EQ(network.link(2, 1).transfer_s(12.5e6), 0.04 + 1);

  save_network(network, path("again.json"));
  const Network again = load_network(path("again.json"));
  for (int from = 0; from < 3; ++from)
    for (int to = 0; to < 3; ++to)
      if (from != to) {
        EXPECT_DOUBLE_EQ(again.link(from, to).transfer_s(1e6), network.link(from, to).transfer_s(1e6));
      }
  EXPECT_EQ(again.nodes[2].step_s_per_byte, 1e-9);
  EXPECT_EQ(again.nodes[1].loss_s, 0.03);
  EXPECT_EQ(again.nodes[2].loss_s, std::nullopt);
  EXPECT_EQ(again.nodes[2].loss_over_forward, 0.5);
  EXPECT_EQ(again.nodes[0].region, "east");
  EXPECT_DOUBLE_EQ(again.nodes[0].uplink_bytes_per_s, 1e6);
  EXPECT_EQ(again.nodes[1].uplink_bytes_per_s, 0);
  EXPECT_EQ(again.nodes[1].memory_bytes, 123456789012);
  EXPECT_TRUE(again.nodes[1].slots_from_memory);
  EXPECT_FALSE(again.nodes[0].slots_from_memory);
}

// Links that are alike between two regions are said once; the rest one by one.
TEST_F(PlanFile, SavesAlikeLinksByRegion) {
  folder_.write("network.json", kNetwork.dump());
  save_network(load_network(path("network.json")), path("again.json"));
  const json again = json::parse(read_file(path("again.json")));
  EXPECT_EQ(again["links"].size(), 2u) << "a to b differs from b to a";
  EXPECT_EQ(again["region_links"].size(), 2u) << "east to west and back; in the west there is one node only";
}

TEST_F(PlanFile, LinksMayBeAMatrixOfDelays) {
  json text = kNetwork;
  text["delay_s"] = {{0, 1, 2}, {3, 0, 4}, {5, 6, 0}};
  folder_.write("network.json", text.dump());
  const Network network = load_network(path("network.json"));
  EXPECT_DOUBLE_EQ(network.link(0, 1).latency_s, 0.001) << "named links count first";
  EXPECT_EQ(network.link(1, 0).transfer_s(1e9), 3);
  EXPECT_EQ(network.link(2, 1).transfer_s(1e9), 6);
}

TEST_F(PlanFile, TheExamplesAreNetworks) {
  for (const auto& [name, nodes] :
       {std::pair("five-regions.json", 12), {"published-20-nodes.json", 20}, {"regions-12.json", 12}})
    EXPECT_EQ(load_network(std::filesystem::path(SKIPPIPE_SOURCE_DIR "/examples") / name).size(), nodes) << name;
}

TEST_F(PlanFile, NetworksMayHaveNotes) {
  json text = kNetwork;
  text["_note"] = text["nodes"][0]["_owner"] = "mine";
  text["source"] = "measured by hand";
  folder_.write("network.json", text.dump());
  EXPECT_EQ(load_network(path("network.json")).size(), 3);
}

TEST_F(PlanFile, RefusesWrongNetworks) {
  const auto refuses_network = [&](const std::function<void(json&)>& change, const std::vector<std::string>& parts) {
    json broken = kNetwork;
    change(broken);
    refuses(load_network, broken.dump(), parts);
  };
  refuses_network([](json& n) { n["format"] = "skippipe-plan"; }, {"format", "skippipe-network"});
  refuses_network([](json& n) { n["version"] = 2; }, {"version", "2"});
  refuses_network([](json& n) { n.erase("nodes"); }, {"nodes", "missing"});
  refuses_network([](json& n) { n["nodes"] = json::array(); }, {"nodes"});
  refuses_network([](json& n) { n["nodes"][1]["name"] = "a"; }, {"nodes[1].name", "no other node"});
  refuses_network([](json& n) { n["nodes"][1]["name"] = ""; }, {"nodes[1].name"});
  refuses_network([](json& n) { n["nodes"][1]["forward_s"] = -1; }, {"nodes[1].forward_s", "-1"});
  refuses_network([](json& n) { n["nodes"][1].erase("forward_s"); }, {"nodes[1]", "forward_s"});
  refuses_network([](json& n) { n["nodes"][1]["slots"] = 0; }, {"nodes[1].slots"});
  refuses_network([](json& n) { n["nodes"][1]["slots"] = 1e30; }, {"nodes[1].slots"});
  refuses_network([](json& n) { n["nodes"][1]["memory_bytes"] = -1; }, {"nodes[1].memory_bytes", "-1"});
  refuses_network([](json& n) { n["nodes"][1]["uplink_mbit_per_s"] = 0; },
                  {"nodes[1].uplink_mbit_per_s", "more than 0"});
  refuses_network([](json& n) { n["nodes"][1]["uplink_mbit_per_s"] = -2; }, {"nodes[1].uplink_mbit_per_s", "-2"});
  refuses_network([](json& n) { n["nodes"][1]["uplink_mbit_per_s"] = "nan"; }, {"nodes[1].uplink_mbit_per_s", "nan"});
  refuses_network([](json& n) { n["links"][0]["to"] = "z"; }, {"links[0].to", "\"z\""});
  refuses_network([](json& n) { n["links"][0]["latency_ms"] = "fast"; }, {"links[0].latency_ms", "fast"});
  refuses_network([](json& n) { n["links"].push_back(n["links"][0]); }, {"links[1]", "twice"});
  refuses_network([](json& n) { n["delay_s"] = {{0, 1, 2}}; }, {"delay_s", "3 rows"});
  refuses_network([](json& n) { n["delay_s"] = {{0, 1, 2}, {0, 1}, {0, 1, 2}}; }, {"delay_s[1]", "3 numbers"});
  refuses_network([](json& n) { n["delay_s"] = {{0, -1, 2}, {0, 0, 1}, {0, 1, 2}}; }, {"delay_s[0][1]", "-1"});
  refuses_network([](json& n) { n["links"][0]["bandwidth_mbit_per_s"] = 0; },
                  {"links[0].bandwidth_mbit_per_s", "more than 0"});
  refuses_network([](json& n) { n["region_links"].erase(1); }, {"no link from 'a' to 'c'"});
  refuses_network([](json& n) { n["region_links"][1]["symmetric"] = false; }, {"no link from 'c' to 'a'"});
  refuses_network([](json& n) { n["nodes"][2]["forward_s"] = 1e7; }, {"nodes[2].forward_s"});
  refuses_network([](json& n) { n["nodes"][2]["backward_over_forward"] = -1; }, {"nodes[2].backward_over_forward"});
  refuses_network([](json& n) { n["nodes"][2]["loss_over_forward"] = 1e4; }, {"nodes[2].loss_over_forward"});
  refuses_network([](json& n) { n["nodes"][1]["loss_s"] = -1; }, {"nodes[1].loss_s"});
  refuses_network([](json& n) { n["nodes"][2]["step_s_per_byte"] = 2; }, {"nodes[2].step_s_per_byte"});
  refuses_network([](json& n) { n["links"][0]["overhead_ms"] = -1; }, {"links[0].overhead_ms"});
  refuses_network([](json& n) { n["links"][0]["latency_ms"] = 1e300; }, {"links[0].latency_ms"});
  refuses_network([](json& n) { n["links"][0]["bandwidth_mbit_per_s"] = 1e13; }, {"links[0].bandwidth_mbit_per_s"});
  refuses_network([](json& n) { n["nodes"][1]["uplink_mbits_per_s"] = 5; },
                  {"nodes[1]: unknown field 'uplink_mbits_per_s'; did you mean 'uplink_mbit_per_s'?"});
  refuses_network([](json& n) { n["links"][0]["bandwith_mbit_per_s"] = 5; },
                  {"links[0]: unknown field 'bandwith_mbit_per_s'; did you mean 'bandwidth_mbit_per_s'?"});
  refuses_network([](json& n) { n["region_links"][1]["colour"] = "red"; }, {"region_links[1]: unknown field 'colour'"});
  refuses_network([](json& n) { n["link"] = json::array(); }, {"unknown field 'link'; did you mean 'links'?"});
  std::string not_a_number = kNetwork.dump();
  not_a_number.replace(not_a_number.find("0.03"), 4, "NaN");
  refuses(load_network, not_a_number, {"not valid JSON", "loss_s"});
  refuses(load_network, kNetwork.dump().substr(0, 200), {"not valid JSON"});
  refuses(load_network, "", {"not valid JSON"});
  EXPECT_THROW(load_network(path("absent.json")), FileError);
}

TEST_F(PlanFile, PlansSurviveARoundTrip) {
  for (const uint64_t seed : test::seeds(20)) {
    SCOPED_TRACE(test::replay_command(seed));
    std::optional<test::Case> c = test::random_case(seed);
    if (!c) continue;
    c->plan.seed = ~seed;
    save_plan(c->plan, path("plan.json"));
    const Plan again = load_plan(path("plan.json"));
    save_plan(again, path("again.json"));
    EXPECT_EQ(read_file(path("plan.json")), read_file(path("again.json")));
    EXPECT_EQ(again.seed, c->plan.seed);
    EXPECT_EQ(again.stages, c->plan.stages);
    EXPECT_EQ(again.predicted.iteration_s, c->plan.predicted.iteration_s);
    EXPECT_EQ(again.predicted.busy_share, c->plan.predicted.busy_share);
    EXPECT_EQ(again.rules.skip_ratio, c->plan.rules.skip_ratio);
    EXPECT_TRUE(validate(again, c->network).empty());
  }
}

TEST_F(PlanFile, PlansMayTellWhatStagesTakeOfMemory) {
  Plan plan = test::small_case().plan;
  save_plan(plan, path("plan.json"));
  EXPECT_TRUE(load_plan(path("plan.json")).workload.stage_state_bytes.empty());
  plan.workload.stage_state_bytes = {7, 8};
  plan.workload.stage_slot_bytes = {1, 2};
  save_plan(plan, path("plan.json"));
  const Workload again = load_plan(path("plan.json")).workload;
  EXPECT_EQ(again.stage_state_bytes, plan.workload.stage_state_bytes);
  EXPECT_EQ(again.stage_slot_bytes, plan.workload.stage_slot_bytes);
  json broken = json::parse(read_file(path("plan.json")));
  broken["workload"]["stage_slot_bytes"][1] = -1;
  refuses(load_plan, broken.dump(), {"workload.stage_slot_bytes[1]", "-1"});
  broken["workload"].erase("stage_slot_bytes");
  refuses(load_plan, broken.dump(), {"workload", "'stage_slot_bytes' or neither"});
}

TEST_F(PlanFile, RefusesWrongPlans) {
  save_plan(test::small_case().plan, path("plan.json"));
  const std::string text = read_file(path("plan.json"));
  const json good = json::parse(text);
  const auto refuses_plan = [&](const std::function<void(json&)>& change, const std::vector<std::string>& parts) {
    json broken = good;
    change(broken);
    refuses(load_plan, broken.dump(), parts);
  };
  for (const auto& field : good.items())
    if (field.key() != "network") refuses_plan([&](json& p) { p.erase(field.key()); }, {field.key(), "missing"});
  refuses_plan([](json& p) { p["format"] = 7; }, {"format"});
  refuses_plan([](json& p) { p["rules"]["max_swap"] = 1; }, {"rules: unknown field 'max_swap'", "'max_swaps'"});
  refuses_plan([](json& p) { p["microbatches"][1]["rank"] = 1; }, {"microbatches[1]: unknown field 'rank'"});
  for (const char* part : {"workload", "predicted"})
    refuses_plan([&](json& p) { p[part]["extra"] = 1; }, {part, "unknown field 'extra'"});
  refuses_plan([](json& p) { p["seed"] = -1; }, {"seed"});
  refuses_plan([](json& p) { p["stages"][1][0] = 4; }, {"stages[1][0]", "4"});
  refuses_plan([](json& p) { p["stages"][1] = json::array(); }, {"stages[1]"});
  refuses_plan([](json& p) { p["stages"] = 3; }, {"stages"});
  refuses_plan([](json& p) { p["workload"]["stage_layers"].push_back(1); }, {"workload.stage_layers"});
  refuses_plan([](json& p) { p["workload"]["activation_bytes"] = 1e300; }, {"workload.activation_bytes"});
  refuses_plan([](json& p) { p["microbatches"][2]["path"][1] = -1; }, {"microbatches[2].path[1]", "-1"});
  refuses_plan([](json& p) { p["microbatches"][2]["path"] = {0, 1, 2}; }, {"microbatches[2].path"});
  refuses_plan([](json& p) { p["microbatches"][2]["path"] = json::array(); }, {"microbatches[2].path"});
  refuses_plan([](json& p) { p["microbatches"][2]["ranks"] = {0}; }, {"microbatches[2].ranks"});
  refuses_plan([](json& p) { p["microbatches"][2]["ranks"][0] = 1 << 30; }, {"microbatches[2].ranks[0]"});
  refuses_plan([](json& p) { p["microbatches"][0]["loss_priority"] = 1ll << 40; }, {"microbatches[0].loss_priority"});
  refuses_plan([](json& p) { p["rules"]["skip_ratio"] = 2; }, {"rules.skip_ratio"});
  refuses_plan([](json& p) { p["rules"]["skip_ratio"] = -0.1; }, {"rules.skip_ratio", "-0.1"});
  refuses_plan([](json& p) { p["rules"]["max_jump"] = 0; }, {"rules.max_jump"});
  refuses_plan([](json& p) { p["predicted"]["iteration_s"] = nullptr; }, {"predicted.iteration_s"});
  refuses_plan([](json& p) { p["nodes"][0]["slots"] = 0; }, {"nodes[0].slots"});
  for (size_t length = 0; length + 2 < text.size(); length += 37)
    refuses(load_plan, text.substr(0, length), {"not valid JSON"});
}

}  // namespace
}  // namespace skippipe
