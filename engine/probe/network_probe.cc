#include "engine/probe/network_probe.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "engine/node/compute_thread.h"
#include "engine/probe/probe_documents.h"

namespace skippipe {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds kLeaveLimit(10'000);
constexpr size_t kMostDocuments = 4096;  // waiting to be read

json settings_json(const NetworkProbeSettings& settings) {
  json object = json::object();
  for (const auto& [name, value] : settings.agreed) object[name] = value;
  return {{"settings", object}, {"machine", settings.machine}};
}

// What `node` told under `key`.
template <typename Read>
auto read_report(const std::string& text, int node, const char* key, Read read) {
  const std::string name = fmt::format("the report of node {}", node);
  const json document = parse_json(text, name);
  return read(JsonReader(document, name).at(key));
}

}  // namespace

std::vector<std::vector<int>> device_waves(const std::vector<std::string>& machines) {
  std::map<std::string, size_t> seen;
  std::vector<std::vector<int>> waves;
  for (size_t node = 0; node < machines.size(); ++node) {
    const size_t wave = seen[machines[node]]++;
    if (wave == waves.size()) waves.emplace_back();
    waves[wave].push_back(static_cast<int>(node));
  }
  return waves;
}

uint64_t probe_run_id(const std::vector<std::string>& addresses) {
  const std::string text = fmt::format("probe {}", fmt::join(addresses, ","));
  return XXH3_64bits(text.data(), text.size());
}

Network measured_network(Network base, const NetworkFigures& figures, double message_bytes) {
  const size_t n = base.nodes.size();
  SKP_CHECK(figures.devices.size() == n && figures.links.size() == n * n, "figures of {} nodes, expected {}",
            figures.devices.size(), n);
  base.links.assign(n * n, Link{});
  for (size_t node = 0; node < n; ++node) apply(base.nodes[node], figures.devices[node]);
  for (size_t i = 0; i < n * n; ++i)
    if (i / n != i % n) base.links[i] = link_of(figures.links[i], message_bytes);
  return base;
}

NetworkProbe::NetworkProbe(Transport& transport, NetworkProbeSettings settings, DeviceProbe device,
                           ProgressHandler on_progress)
    : transport_(transport),
      settings_(std::move(settings)),
      device_(std::move(device)),
      on_progress_(std::move(on_progress)),
      patience_(settings_.limit),
      links_(transport, settings_.links),
      documents_(transport, [this](int from, std::string text) {
        inbox_.push_back({from, std::move(text)});
      }) {
  transport_.set_listener(this);
}

NetworkProbe::~NetworkProbe() {
  ending_ = true;
  [[maybe_unused]] const Status closed = transport_.close(std::chrono::milliseconds(0));
  transport_.set_listener(nullptr);
}

std::optional<NetworkFigures> NetworkProbe::run() {
  agree();
  if (transport_.node() == 0) return lead();
  follow();
  return std::nullopt;
}

// The first document of every node.
void NetworkProbe::agree() {
  const int n = transport_.node_count();
  const json own = settings_json(settings_);
  for (int node = 0; node < n; ++node)
    if (node != transport_.node()) documents_.send(node, own.dump());
  machines_.assign(static_cast<size_t>(n), settings_.machine);
  std::string difference;
  for (int node = 0; node < n; ++node) {
    if (node == transport_.node()) continue;
    const std::string text = next_document(node, "settings");
    machines_[static_cast<size_t>(node)] =
        read_report(text, node, "machine", [](const JsonReader& json) { return json.as_string(); });
    for (const auto& [name, value] : settings_.agreed) {
      const std::string theirs = read_report(
          text, node, "settings", [&name = name](const JsonReader& json) { return json.get_string(name, "nothing"); });
      if (theirs != value && difference.empty())
        difference = fmt::format("node {} probes with {} {}, this node with {}: expected the same on all nodes", node,
                                 name, theirs, value);
    }
  }
  agreed_ = true;
  if (difference.empty()) return end_with(left_early_);
  // The others shall hear what this node has, and say the same.
  [[maybe_unused]] const Status left = transport_.close(kLeaveLimit);
  throw ConfigError(difference);
}

NetworkFigures NetworkProbe::lead() {
  const int n = transport_.node_count();
  NetworkFigures figures;
  figures.devices.resize(static_cast<size_t>(n));
  figures.links.resize(static_cast<size_t>(n) * static_cast<size_t>(n));
  int done = 0;
  const auto advance = [&](size_t tasks) { on_progress_(done += static_cast<int>(tasks), n * n); };
  for (const std::vector<int>& wave : device_waves(machines_)) {
    const std::vector<std::string> reports = ask(wave, {{"task", "device"}});
    for (size_t i = 0; i < wave.size(); ++i)
      figures.devices[static_cast<size_t>(wave[i])] = read_report(reports[i], wave[i], "device", read_probe_result);
    advance(wave.size());
  }
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      if (from == to) continue;
      const std::string report = ask({from}, {{"task", "link"}, {"to", to}}).front();
      figures.links[static_cast<size_t>(from * n + to)] = read_report(report, from, "link", read_link_measurement);
      advance(1);
    }
  }
  ending_ = true;
  std::vector<int> others(static_cast<size_t>(n) - 1);
  std::iota(others.begin(), others.end(), 1);
  ask(others, {{"task", "end"}});
  return figures;
}

std::vector<std::string> NetworkProbe::ask(const std::vector<int>& nodes, const json& task) {
  for (const int node : nodes)
    if (node != 0) documents_.send(node, task.dump());
  std::vector<std::string> reports;
  for (const int node : nodes)
    reports.push_back(node == 0 ? perform(JsonReader(task, "task")).dump() : next_document(node, "report"));
  return reports;
}

void NetworkProbe::follow() {
  while (true) {
    const std::string text = next_document(0, "task");
    const json document = parse_json(text, "a task of node 0");
    const JsonReader task(document, "a task of node 0");
    documents_.send(0, perform(task).dump());
    if (ending_) return;
  }
}

json NetworkProbe::perform(const JsonReader& task) {
  const std::string name = task.at("task").as_string();
  if (name == "device") return {{"device", to_json(measure_device())}};
  if (name == "end") {
    ending_ = true;
    return {{"end", true}};
  }
  if (name != "link") task.at("task").fail("device, link or end");
  const int peer = static_cast<int>(task.at("to").as_int(0, transport_.node_count() - 1));
  if (peer == transport_.node()) task.at("to").fail("another node");
  return {{"link", to_json(measure_link(peer))}};
}

ProbeResult NetworkProbe::measure_device() {
  ProbeResult result;
  ComputeThread compute([this] { transport_.wake(); });
  const auto nodes_here = static_cast<int>(std::ranges::count(machines_, settings_.machine));
  compute.submit([&] { result = device_(nodes_here); });
  wait([&] { return compute.collect(); }, "its device");
  return result;
}

LinkMeasurement NetworkProbe::measure_link(int peer) {
  LinkSamples samples;
  const Status status = links_.measure(peer, samples);
  if (status.code() == StatusCode::kPeerGone) throw PeerError(status.message());
  if (!status.ok()) throw RunError(status.message());
  return summarize(samples);
}

std::string NetworkProbe::next_document(int from, const char* what) {
  auto found = inbox_.end();
  wait(
      [&] {
        found = std::ranges::find(inbox_, from, &Document::from);
        return found != inbox_.end();
      },
      fmt::format("the {} of node {}", what, from));
  std::string text = std::move(found->text);
  inbox_.erase(found);
  return text;
}

void NetworkProbe::wait(const std::function<bool()>& condition, const std::string& what) {
  while (!condition()) {
    if (!status_.ok()) throw PeerError(status_.message());
    for (const Status* status : {&links_.status(), &documents_.status()})
      if (!status->ok()) throw RunError(status->message());
    if (inbox_.size() > kMostDocuments) throw RunError("more than {} documents that nobody asked for", kMostDocuments);
    const bool is_over = patience_.is_over();
    if (is_over && !left_early_.ok()) throw PeerError(left_early_.message());
    if (is_over)
      throw RunError("the probe did not end within {} s; this node still waits for {}", settings_.limit.count(), what);
    transport_.run_once(patience_.due());
  }
}

void NetworkProbe::on_announced(Ticket ticket, const MessageHeader& header) {
  if (links_.on_announced(ticket, header) || documents_.on_announced(ticket, header)) return;
  end_with({StatusCode::kCorrupt, fmt::format("{}: no message of a probe", header.to_string())});
}

void NetworkProbe::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (!links_.on_received(ticket, header, status)) documents_.on_received(ticket, header, status);
}

void NetworkProbe::on_sent(Ticket ticket, const Status& status) {
  if (!links_.on_sent(ticket, status)) documents_.on_sent(ticket, status);
}

void NetworkProbe::on_peer_failed(int, const Status& status) { end_with(status); }

// Nodes but 0 leave when they are told that all is over, some before others hear it. Node 0 leaves when all have heard.
void NetworkProbe::on_peer_left(int node) {
  if (ending_ || (transport_.node() != 0 && node != 0)) return;
  Status left(StatusCode::kPeerGone, fmt::format("node {} left before all was measured", node));
  if (agreed_) return end_with(std::move(left));
  if (left_early_.ok()) patience_ = Patience(kLeaveLimit);
  left_early_ = std::move(left);  // because its settings differ, most likely: they are on their way
}

void NetworkProbe::end_with(Status status) {
  if (status.ok() || !status_.ok()) return;
  links_.cancel(status);
  status_ = std::move(status);
}

}  // namespace skippipe
