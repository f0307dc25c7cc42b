#include "engine/trace/trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 28;
constexpr int kMaxNodes = 1024;
constexpr double kMaxMicroseconds = 4e15;
constexpr double kMaxOffsetSeconds = 4.1e9;
// Two offsets tell the clocks' drift if they are so far apart.
constexpr int64_t kDriftSpanNs = 10'000'000'000;

int64_t ns_of(double microseconds) { return std::llround(microseconds * 1e3); }

template <typename T>
T one_of(const JsonReader& json, int count, const char* (*name_of)(T)) {
  const std::string name = json.as_string();
  for (int i = 0; i < count; ++i)
    if (name == name_of(static_cast<T>(i))) return static_cast<T>(i);
  json.fail("a name that traces know");
}

TraceEvent read_event(const JsonReader& json) {
  TraceEvent event;
  event.track = one_of(json.at("cat"), kTraceTrackCount, track_name);
  const JsonReader args = json.at("args");
  event.what = one_of(args.at("what"), kTraceWhatCount, what_name);
  event.iteration = static_cast<uint32_t>(args.at("iteration").as_int(0, std::numeric_limits<uint32_t>::max()));
  event.microbatch = static_cast<int32_t>(args.get_int("microbatch", -1, 0, std::numeric_limits<int32_t>::max()));
  event.peer = static_cast<int32_t>(args.get_int("peer", -1, 0, kMaxNodes - 1));
  event.bytes = args.get_int("bytes", 0, 0, int64_t{1} << 50);
  event.start_ns = ns_of(json.at("ts").as_double(0, kMaxMicroseconds));
  event.end_ns = event.start_ns + ns_of(json.at("dur").as_double(0, kMaxMicroseconds / 100));
  if (event.track == TraceEvent::Track::kReceive)
    event.let_in_ns = event.start_ns + ns_of(args.at("let_in_us").as_double(0, kMaxMicroseconds / 100));
  return event;
}

TracedNode read_node(const JsonReader& json) {
  TracedNode node;
  node.node = static_cast<int>(json.at("node").as_int(0, kMaxNodes - 1));
  node.name = json.at("name").as_string();
  node.stage = static_cast<int>(json.at("stage").as_int(0, kMaxNodes - 1));
  node.dropped = static_cast<uint64_t>(json.at("dropped").as_int(0));
  for (const JsonReader& sample : json.at("clock").items())
    node.clock.push_back({ns_of(sample.at("at_us").as_double(0, kMaxMicroseconds)),
                          {sample.at("offset_s").as_double(-kMaxOffsetSeconds, kMaxOffsetSeconds),
                           sample.at("error_s").as_double(0, kMaxOffsetSeconds)}});
  return node;
}

double seconds_of(const ClockOffset& offset) { return std::abs(offset.seconds) <= offset.error_s ? 0 : offset.seconds; }

// How far node 0's clock is ahead at a time of the node's clock.
double offset_at(const std::vector<ClockSample>& clock, int64_t at_ns) {
  if (clock.empty()) return 0;
  const ClockSample& first = clock.front();
  const ClockSample& last = clock.back();
  if (last.at_ns - first.at_ns < kDriftSpanNs)
    return seconds_of((first.offset.error_s < last.offset.error_s ? first : last).offset);
  const double share =
      std::clamp(static_cast<double>(at_ns - first.at_ns) / static_cast<double>(last.at_ns - first.at_ns), 0.0, 1.0);
  return std::lerp(seconds_of(first.offset), seconds_of(last.offset), share);
}

}  // namespace

std::filesystem::path trace_part_file(const std::filesystem::path& run_folder, int node) {
  return run_folder / "trace" / fmt::format("node-{:02}.json", node);
}

std::filesystem::path merged_trace_file(const std::filesystem::path& run_folder) { return run_folder / "trace.json"; }

Trace read_trace(const std::filesystem::path& path) {
  const nlohmann::json document = load_json(path, kMaxFileBytes);
  const JsonReader root(document, path.string());
  const JsonReader about = root.at("otherData");
  if (about.at("format").as_string() != kTraceFormat) about.at("format").fail(fmt::format("\"{}\"", kTraceFormat));
  about.at("version").as_int(kTraceVersion, kTraceVersion);
  Trace trace;
  trace.run_id = about.at("run_id").as_string();
  std::vector<int> place(kMaxNodes, -1);
  for (const JsonReader& json : about.at("nodes").items()) {
    trace.nodes.push_back(read_node(json));
    int& at = place[static_cast<size_t>(trace.nodes.back().node)];
    if (at >= 0) json.at("node").fail("each node once");
    at = static_cast<int>(trace.nodes.size()) - 1;
  }
  for (const JsonReader& json : root.at("traceEvents").items()) {
    if (json.at("ph").as_string() != "X") continue;  // arrows and names follow from the rest
    const int at = place[static_cast<size_t>(json.at("pid").as_int(0, kMaxNodes - 1))];
    if (at < 0) json.at("pid").fail("one of the nodes");
    trace.nodes[static_cast<size_t>(at)].events.push_back(read_event(json));
  }
  return trace;
}

void align(Trace& trace) {
  int64_t begin_ns = std::numeric_limits<int64_t>::max();
  for (TracedNode& node : trace.nodes)
    for (TraceEvent& event : node.events) {
      const auto shift_ns = std::llround(offset_at(node.clock, event.start_ns) * 1e9);
      event.start_ns += shift_ns;
      event.end_ns += shift_ns;
      if (event.track == TraceEvent::Track::kReceive) event.let_in_ns += shift_ns;
      begin_ns = std::min(begin_ns, event.start_ns);
    }
  for (TracedNode& node : trace.nodes)
    for (TraceEvent& event : node.events) {
      event.start_ns -= begin_ns;
      event.end_ns -= begin_ns;
      if (event.track == TraceEvent::Track::kReceive) event.let_in_ns -= begin_ns;
    }
}

std::optional<Trace> merge_traces(const std::filesystem::path& run_folder, const std::string& run_id) {
  Trace merged{.run_id = run_id, .nodes = {}};
  for (int node = 0; node < kMaxNodes; ++node) {
    const std::filesystem::path part_file = trace_part_file(run_folder, node);
    if (!std::filesystem::exists(part_file)) continue;
    Trace part = read_trace(part_file);
    if (part.run_id != run_id) continue;
    if (part.nodes.size() != 1 || part.nodes.front().node != node)
      throw FileError("{}: expected the part of node {}, and of no other", part_file.string(), node);
    merged.nodes.push_back(std::move(part.nodes.front()));
  }
  if (merged.nodes.empty()) return std::nullopt;
  align(merged);
  return merged;
}

}  // namespace skippipe
