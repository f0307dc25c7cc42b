#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/file_writer.h"
#include "engine/trace/trace_file.h"

namespace skippipe {
namespace {

using Track = TraceEvent::Track;
using What = TraceEvent::What;

// Threads of a node, by track; transfers that overlap take further lanes.
constexpr std::array<int, kTraceTrackCount> kFirstThread = {1, 2, 3, 2000, 1000};

// "12.345", exactly
std::string microseconds(int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

std::string title_of(const TraceEvent& event) {
  const char* what = what_name(event.what);
  const std::string of = event.microbatch < 0 ? what : fmt::format("{} {}", what, event.microbatch);
  switch (event.track) {
    case Track::kCompute:
    case Track::kReduction:
      return of;
    case Track::kSend:
      return fmt::format("{} to node {}", of, event.peer);
    case Track::kReceive:
      return fmt::format("{} from node {}", of, event.peer);
    case Track::kWait:
      break;
  }
  if (event.what == What::kReduction) return "for the reduction of the stage's gradients";
  if (event.what == What::kNorm) return "for the other nodes' gradient norms";
  return fmt::format("for {} of microbatch {} from node {}", what, event.microbatch, event.peer);
}

// The same number for both ends of a message, and for no other message of the run (but for one chance in 2^64).
uint64_t message_number(const TraceEvent& event, int node) {
  const bool sends = event.track == Track::kSend;
  const std::array<int64_t, 5> identity = {static_cast<int64_t>(event.what), event.iteration, event.microbatch,
                                           sends ? node : event.peer, sends ? event.peer : node};
  return XXH3_64bits(identity.data(), sizeof(identity));
}

class Writer {
 public:
  explicit Writer(const std::filesystem::path& path) : file_(path) {}

  void write(const Trace& trace) {
    add("{{\"displayTimeUnit\": \"ms\",\n\"otherData\": {},\n\"traceEvents\": [", about(trace));
    for (const TracedNode& node : trace.nodes) write_node(node);
    add("\n]}}\n");
    file_.publish();
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    text_.clear();
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    file_.write(std::as_bytes(std::span(text_)));
  }
  void separate() {
    add("{}", first_ ? "\n" : ",\n");
    first_ = false;
  }

  static std::string about(const Trace& trace) {
    nlohmann::ordered_json nodes = nlohmann::ordered_json::array();
    for (const TracedNode& node : trace.nodes) {
      auto clock = nlohmann::ordered_json::array();
      for (const ClockSample& sample : node.clock)
        clock.push_back({{"at_us", static_cast<double>(sample.at_ns) * 1e-3},
                         {"offset_s", sample.offset.seconds},
                         {"error_s", sample.offset.error_s}});
      nodes.push_back({{"node", node.node},
                       {"name", node.name},
                       {"stage", node.stage},
                       {"dropped", node.dropped},
                       {"clock", clock}});
    }
    return nlohmann::ordered_json(
               {{"format", kTraceFormat}, {"version", kTraceVersion}, {"run_id", trace.run_id}, {"nodes", nodes}})
        .dump();
  }

  void write_node(const TracedNode& node) {
    name("process", node.node, 0, fmt::format("node {} ({}), stage {}", node.node, node.name, node.stage), node.node);
    std::array<std::vector<int64_t>, kTraceTrackCount> lane_ends;
    std::vector<size_t> order(node.events.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t i) { return node.events[i].start_ns; });
    for (const size_t i : order) {
      const TraceEvent& event = node.events[i];
      std::vector<int64_t>& ends = lane_ends[static_cast<size_t>(event.track)];
      const auto lane = std::ranges::find_if(ends, [&](int64_t end_ns) { return end_ns <= event.start_ns; });
      const int thread = kFirstThread[static_cast<size_t>(event.track)] + static_cast<int>(lane - ends.begin());
      if (lane == ends.end()) {
        ends.push_back(event.end_ns);
        name("thread", node.node, thread, track_name(event.track), thread);
      } else {
        *lane = event.end_ns;
      }
      write_event(event, node.node, thread);
    }
  }

  void write_event(const TraceEvent& event, int node, int thread) {
    separate();
    add(R"({{"ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"name":"{}","cat":"{}","args":{{"what":"{}","iteration":{})",
        node, thread, microseconds(event.start_ns), microseconds(event.end_ns - event.start_ns), title_of(event),
        track_name(event.track), what_name(event.what), event.iteration);
    if (event.microbatch >= 0) add(",\"microbatch\":{}", event.microbatch);
    if (event.peer >= 0) add(",\"peer\":{}", event.peer);
    if (event.bytes > 0) add(",\"bytes\":{}", event.bytes);
    if (event.track == Track::kReceive) add(",\"let_in_us\":{}", microseconds(event.let_in_ns - event.start_ns));
    add("}}}}");
    if (event.track != Track::kSend && event.track != Track::kReceive) return;
    separate();
    add(R"({{"ph":"{}","bp":"e","id":"0x{:x}","pid":{},"tid":{},"ts":{},"name":"message","cat":"message"}})",
        event.track == Track::kSend ? "s" : "f", message_number(event, node), node, thread,
        microseconds(event.start_ns));
  }

  void name(const char* kind, int node, int thread, const std::string& text, int place) {
    separate();
    add(R"({{"ph":"M","pid":{},"tid":{},"name":"{}_name","args":{{"name":{}}}}})", node, thread, kind,
        nlohmann::json(text).dump());
    separate();
    add(R"({{"ph":"M","pid":{},"tid":{},"name":"{}_sort_index","args":{{"sort_index":{}}}}})", node, thread, kind,
        place);
  }

  FileWriter file_;
  std::string text_;
  bool first_ = true;
};

}  // namespace

void write_trace(const Trace& trace, const std::filesystem::path& path) { Writer(path).write(trace); }

}  // namespace skippipe
