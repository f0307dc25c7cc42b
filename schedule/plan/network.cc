#include "schedule/plan/network.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

constexpr const char* kFormat = "skippipe-network";
constexpr int kVersion = 1;
constexpr size_t kMaxFileBytes = size_t{64} << 20;  // that load_json reads
constexpr size_t kMaxNameBytes = 256;
constexpr double kMaxSeconds = 1e6;
constexpr int64_t kMaxBytes = int64_t{1} << 60;
constexpr double kMaxMbitPerSecond = 1e12;
constexpr double kBytesPerSecondOfMbit = 1e6 / 8;

void check_format(const JsonReader& root) {
  if (root.at("format").as_string() != kFormat) root.at("format").fail(fmt::format("\"{}\"", kFormat));
  root.at("version").as_int(kVersion, kVersion);
}

std::string read_name(const JsonReader& field) {
  std::string name = field.as_string();
  if (name.empty() || name.size() > kMaxNameBytes) field.fail(fmt::format("a name of 1 to {} bytes", kMaxNameBytes));
  return name;
}

// Bytes per second, more than 0; without the field 0.
double read_bandwidth(const JsonReader& json, const char* key, const char* without) {
  const auto field = json.find(key);
  if (!field) return 0;
  const double mbit_per_s = field->as_double(0, kMaxMbitPerSecond);
  if (mbit_per_s == 0) field->fail(fmt::format("more than 0, or no such field: {}", without));
  return mbit_per_s * kBytesPerSecondOfMbit;
}

NetworkNode read_node(const JsonReader& json) {
  json.allow_only({"name", "region", "device", "forward_s", "backward_over_forward", "loss_over_forward", "loss_s",
                   "step_s_per_byte", "slots", "memory_bytes", "uplink_mbit_per_s"});
  NetworkNode node;
  node.name = read_name(json.at("name"));
  node.region = json.get_string("region", "");
  node.device = json.get_string("device", node.device);
  node.forward_s = json.at("forward_s").as_double(0, kMaxSeconds);
  node.backward_over_forward = json.get_double("backward_over_forward", node.backward_over_forward, 0, 1000);
  node.loss_over_forward = json.get_double("loss_over_forward", node.loss_over_forward, 0, 1000);
  if (const auto loss = json.find("loss_s")) node.loss_s = loss->as_double(0, kMaxSeconds);
  node.step_s_per_byte = json.get_double("step_s_per_byte", 0, 0, 1);
  node.slots = static_cast<int>(json.get_int("slots", node.slots, 1, kMaxSlots));
  node.memory_bytes = json.get_int("memory_bytes", 0, 0, kMaxBytes);
  node.slots_from_memory = node.memory_bytes > 0 && !json.find("slots");
  node.uplink_bytes_per_s = read_bandwidth(json, "uplink_mbit_per_s", "not shared");
  return node;
}

Link read_link(const JsonReader& json) {
  json.allow_only({"from", "to", "latency_ms", "bandwidth_mbit_per_s", "overhead_ms", "symmetric"});
  return {.latency_s = json.at("latency_ms").as_double(0, kMaxSeconds * 1e3) / 1e3,
          .bandwidth_bytes_per_s = read_bandwidth(json, "bandwidth_mbit_per_s", "infinite"),
          .overhead_s = json.get_double("overhead_ms", 0, 0, kMaxSeconds * 1e3) / 1e3};
}

// Links by pairs of names: of nodes, or of regions.
class LinkTable {
 public:
  explicit LinkTable(std::map<std::string, int> ids) : ids_(std::move(ids)) {}

  void read(const JsonReader& list, const char* what) {
    for (const JsonReader& entry : list.items()) {
      const int from = id(entry.at("from"), what);
      const int to = id(entry.at("to"), what);
      const Link link = read_link(entry);
      put(entry, from, to, link);
      if (from != to && entry.get_bool("symmetric", true)) put(entry, to, from, link);
    }
  }

  const Link* find(int from, int to) const {
    const auto found = links_.find({from, to});
    return found == links_.end() ? nullptr : &found->second;
  }

 private:
  int id(const JsonReader& field, const char* what) const {
    const auto found = ids_.find(field.as_string());
    if (found == ids_.end()) field.fail(fmt::format("the name of a {}", what));
    return found->second;
  }
  void put(const JsonReader& entry, int from, int to, const Link& link) {
    if (!links_.try_emplace({from, to}, link).second)
      entry.fail("one link for each direction (this one is given twice)");
  }

  std::map<std::string, int> ids_;
  std::map<std::pair<int, int>, Link> links_;
};

// delay_s[from][to]: seconds that any message takes. Row by row; empty without the field.
std::vector<Link> read_delays(const JsonReader& root, size_t nodes) {
  std::vector<Link> links;
  const auto matrix = root.find("delay_s");
  if (!matrix) return links;
  const std::vector<JsonReader> rows = matrix->items();
  if (rows.size() != nodes) matrix->fail(fmt::format("{} rows, one for each node", nodes));
  for (const JsonReader& row : rows) {
    const std::vector<JsonReader> delays = row.items();
    if (delays.size() != nodes) row.fail(fmt::format("{} numbers, one for each node", nodes));
    for (const JsonReader& delay : delays) links.push_back({.latency_s = delay.as_double(0, kMaxSeconds)});
  }
  return links;
}

void fill_links(Network& network, const LinkTable& by_node, const std::vector<Link>& delays, const LinkTable& by_region,
                const std::map<std::string, int>& regions, const std::string& file) {
  const int n = network.size();
  std::vector<int> region_of;
  for (const NetworkNode& node : network.nodes) region_of.push_back(regions.at(node.region));
  network.links.assign(static_cast<size_t>(n) * static_cast<size_t>(n), Link{});
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      if (from == to) continue;
      const Link* link = by_node.find(from, to);
      if (!link && !delays.empty())
        link = &delays[static_cast<size_t>(from) * static_cast<size_t>(n) + static_cast<size_t>(to)];
      if (!link) link = by_region.find(region_of[static_cast<size_t>(from)], region_of[static_cast<size_t>(to)]);
      if (!link)
        throw PlanError("{}: no link from '{}' to '{}', expected one in 'links', 'delay_s' or 'region_links'", file,
                        network.nodes[static_cast<size_t>(from)].name, network.nodes[static_cast<size_t>(to)].name);
      network.link(from, to) = *link;
    }
  }
}

nlohmann::ordered_json node_json(const NetworkNode& node) {
  nlohmann::ordered_json json = {{"name", node.name},
                                 {"region", node.region},
                                 {"device", node.device},
                                 {"forward_s", node.forward_s},
                                 {"backward_over_forward", node.backward_over_forward}};
  if (node.loss_s)
    json["loss_s"] = *node.loss_s;
  else
    json["loss_over_forward"] = node.loss_over_forward;
  json["step_s_per_byte"] = node.step_s_per_byte;
  if (!node.slots_from_memory) json["slots"] = node.slots;
  json["memory_bytes"] = node.memory_bytes;
  if (node.uplink_bytes_per_s > 0) json["uplink_mbit_per_s"] = node.uplink_bytes_per_s / kBytesPerSecondOfMbit;
  return json;
}

nlohmann::ordered_json link_json(const std::string& from, const std::string& to, const Link& link) {
  nlohmann::ordered_json json = {{"from", from}, {"to", to}, {"latency_ms", link.latency_s * 1e3}};
  if (link.bandwidth_bytes_per_s > 0) json["bandwidth_mbit_per_s"] = link.bandwidth_bytes_per_s / kBytesPerSecondOfMbit;
  json["overhead_ms"] = link.overhead_s * 1e3;
  json["symmetric"] = false;
  return json;
}

// The nodes of each region, by name.
std::map<std::string, std::vector<int>> nodes_by_region(const Network& network) {
  std::map<std::string, std::vector<int>> regions;
  for (int node = 0; node < network.size(); ++node)
    regions[network.nodes[static_cast<size_t>(node)].region].push_back(node);
  return regions;
}

PlanError too_large(const Network& network) {
  return PlanError(
      "a network of {} nodes whose links differ makes a file of more than {} MiB, which can't be read: give "
      "all links between two regions the same figures",
      network.size(), kMaxFileBytes >> 20);
}

// Appends the links from some nodes to others: one entry for their regions where all are alike, else one for each pair.
class LinkWriter {
 public:
  explicit LinkWriter(const Network& network) : network_(network) {
    const auto regions = nodes_by_region(network);
    for (const auto& [from, senders] : regions)
      for (const auto& [to, receivers] : regions) add(from, senders, to, receivers);
  }

  const std::vector<nlohmann::ordered_json>& by_node() const { return by_node_; }
  const std::vector<nlohmann::ordered_json>& by_region() const { return by_region_; }

 private:
  void add(const std::string& from, const std::vector<int>& senders, const std::string& to,
           const std::vector<int>& receivers) {
    const Link* first = nullptr;
    bool alike = true;
    for_each_pair(senders, receivers, [&](int a, int b) {
      const Link& link = network_.link(a, b);
      if (!first) first = &link;
      alike = alike && link == *first;
    });
    if (!first) return;
    if (alike)
      push(by_region_, link_json(from, to, *first));
    else
      for_each_pair(senders, receivers,
                    [&](int a, int b) { push(by_node_, link_json(name(a), name(b), network_.link(a, b))); });
  }

  // Refuses too many before memory is full of them.
  void push(std::vector<nlohmann::ordered_json>& list, nlohmann::ordered_json link) {
    list.push_back(std::move(link));
    if (by_node_.size() + by_region_.size() > kMaxFileBytes / kLeastLinkBytes) throw too_large(network_);
  }

  template <typename Function>
  static void for_each_pair(const std::vector<int>& senders, const std::vector<int>& receivers, Function function) {
    for (const int a : senders)
      for (const int b : receivers)
        if (a != b) function(a, b);
  }

  const std::string& name(int node) const { return network_.nodes[static_cast<size_t>(node)].name; }

  static constexpr size_t kLeastLinkBytes = 100;

  const Network& network_;
  std::vector<nlohmann::ordered_json> by_node_, by_region_;
};

std::string join_lines(const std::vector<nlohmann::ordered_json>& values) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i)
    text += fmt::format("    {}{}\n", values[i].dump(), i + 1 < values.size() ? "," : "");
  return text;
}

}  // namespace

Network subnetwork(const Network& network, const std::vector<int>& nodes) {
  Network part;
  part.measured_for = network.measured_for;
  part.links.reserve(nodes.size() * nodes.size());
  for (const int from : nodes) {
    part.nodes.push_back(network.nodes[static_cast<size_t>(from)]);
    for (const int to : nodes) part.links.push_back(network.link(from, to));
  }
  return part;
}

Network load_network(const std::filesystem::path& path) {
  const nlohmann::json document = load_json(path);
  return read_network(JsonReader(document, path.string()));
}

Network read_network(const JsonReader& root) {
  check_format(root);
  root.allow_only({"format", "version", "source", "measured_for", "nodes", "links", "delay_s", "region_links"});

  Network network;
  if (const auto measured = root.find("measured_for")) network.measured_for = read_measured_for(*measured);
  std::map<std::string, int> names, regions;
  const JsonReader nodes_field = root.at("nodes");
  const std::vector<JsonReader> nodes = nodes_field.items();
  if (nodes.empty() || nodes.size() > size_t{kMaxNodes}) nodes_field.fail(fmt::format("1 to {} nodes", kMaxNodes));
  for (const JsonReader& json : nodes) {
    network.nodes.push_back(read_node(json));
    const NetworkNode& node = network.nodes.back();
    if (!names.try_emplace(node.name, static_cast<int>(names.size())).second)
      json.at("name").fail("a name that no other node has");
    regions.try_emplace(node.region, static_cast<int>(regions.size()));
  }

  LinkTable by_node(names), by_region(regions);
  if (const auto list = root.find("links")) by_node.read(*list, "node");
  if (const auto list = root.find("region_links")) by_region.read(*list, "node's region");
  fill_links(network, by_node, read_delays(root, network.nodes.size()), by_region, regions, root.where());
  return network;
}

void save_network(const Network& network, const std::filesystem::path& path) {
  std::vector<nlohmann::ordered_json> nodes;
  for (const NetworkNode& node : network.nodes) nodes.push_back(node_json(node));
  const LinkWriter links(network);
  std::string text = fmt::format("{{\n  \"format\": \"{}\",\n  \"version\": {},\n", kFormat, kVersion);
  if (network.measured_for) text += fmt::format("  \"measured_for\": {},\n", to_json(*network.measured_for).dump());
  text += fmt::format("  \"nodes\": [\n{}  ],\n", join_lines(nodes));
  text += fmt::format("  \"links\": [\n{}  ],\n  \"region_links\": [\n{}  ]\n}}\n", join_lines(links.by_node()),
                      join_lines(links.by_region()));
  if (text.size() > kMaxFileBytes) throw too_large(network);
  write_file_atomically(path, text);
}

}  // namespace skippipe
