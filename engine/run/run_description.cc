#include "engine/run/run_description.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

constexpr const char* kFormat = "skippipe-run";
constexpr int kVersion = 1;
constexpr int64_t kMaxBlockBytes = int64_t{1} << 50;
constexpr size_t kMaxBlocks = 4096;  // of a node

std::filesystem::path description_file(const std::filesystem::path& run_folder) { return run_folder / "run.json"; }

nlohmann::ordered_json memory_json(const MemoryPlan& memory) {
  auto blocks = nlohmann::ordered_json::array();
  for (const MemoryPlan::Block& block : memory.blocks())
    blocks.push_back(
        {{"region", region_name(block.region)}, {"name", block.name}, {"bytes", block.bytes}, {"note", block.note}});
  return blocks;
}

Region read_region(const JsonReader& json) {
  const std::string name = json.as_string();
  for (int i = 0; i < kRegionCount; ++i)
    if (name == region_name(static_cast<Region>(i))) return static_cast<Region>(i);
  json.fail("a region of the memory table");
}

MemoryPlan read_memory(const JsonReader& json) {
  MemoryPlan memory;
  const auto blocks = json.items();
  if (blocks.size() > kMaxBlocks) json.fail(fmt::format("at most {} blocks", kMaxBlocks));
  for (const JsonReader& block : blocks)
    memory.add(read_region(block.at("region")), block.at("name").as_string(),
               block.at("bytes").as_int(0, kMaxBlockBytes), block.at("note").as_string());
  return memory;
}

std::pair<std::string, std::string> read_field(const JsonReader& json) {
  const auto field = json.items();
  if (field.size() != 2) json.fail("a name and a value");
  return {field[0].as_string(), field[1].as_string()};
}

std::vector<std::pair<std::string, std::string>> read_model(const JsonReader& json) {
  std::vector<std::pair<std::string, std::string>> fields;
  for (const std::string& key : json.keys())
    if (json.at(key).value().is_primitive()) fields.emplace_back(key, json.at(key).value().dump());
  return fields;
}

}  // namespace

std::string run_id_text(uint64_t run_id) { return fmt::format("{:016x}", run_id); }

void write_run_description(const TrainingRun& run, Backend& backend) {
  nlohmann::ordered_json document;
  document["format"] = kFormat;
  document["version"] = kVersion;
  document["run_id"] = run_id_text(run.file.run_id);
  document["run_file"] = run_file_values(run.file);
  document["model"] = load_json(run.file.model_config);
  document["network"] = load_json(run.file.network);
  document["plan"] = load_json(run.file.plan);
  for (int node = 0; node < run.network.size(); ++node)
    document["memory"].push_back(memory_json(plan_node_memory(run, node, backend)));
  write_file_atomically(description_file(run.file.output), document.dump(1) + "\n");
}

RunDescription load_run_description(const std::filesystem::path& run_folder) {
  return load_run_description_file(description_file(run_folder));
}

RunDescription load_run_description_file(const std::filesystem::path& path) {
  const nlohmann::json document = load_json(path);
  const JsonReader root(document, path.string());
  if (root.at("format").as_string() != kFormat) root.at("format").fail(fmt::format("\"{}\"", kFormat));
  root.at("version").as_int(kVersion, kVersion);
  RunDescription description;
  description.run_id = root.at("run_id").as_string();
  for (const JsonReader& field : root.at("run_file").items()) description.run_file.push_back(read_field(field));
  description.model = read_model(root.at("model"));
  description.network = read_network(root.at("network"));
  description.plan = read_plan(root.at("plan"));
  for (const JsonReader& node : root.at("memory").items()) description.memory.push_back(read_memory(node));
  const auto planned = static_cast<size_t>(description.plan.node_count());
  if (description.network.nodes.size() != planned) root.at("network").fail(fmt::format("the plan's {} nodes", planned));
  leave_out_unused(description.plan, description.network);
  const auto nodes = static_cast<size_t>(description.plan.node_count());
  if (description.memory.size() != nodes) root.at("memory").fail(fmt::format("a list for each of {} nodes", nodes));
  return description;
}

}  // namespace skippipe
