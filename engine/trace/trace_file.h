// Traces as files, in Chrome's trace format (opens in Perfetto and chrome://tracing).
//
// Each traced node writes RUN/trace/node-NN.json, on its own clock. merge_traces puts them on node 0's clock, in one
// file, RUN/trace.json. Both look like this:
//
//   {"otherData": {"format": "skippipe-trace", "version": 1, "run_id": "00112233aabbccdd",
//     "nodes": [{"node": 3, "name": "paris-1", "stage": 2, "dropped": 0,
//                "clock": [{"at_us": 1.5, "offset_s": 0.25, "error_s": 0.0001}, ...]}]},
//    "traceEvents": [...]}
//
// offset_s: node 0's clock says so much more than this node's; error_s: give or take. A process stands for a node
// (pid), its threads (tid) for what the node computes, what it waits for, its reductions, and lanes of what it receives
// and sends. What happened is an event of phase X with name, cat (the track), ts and dur in microseconds, and args:
// what, iteration and, where there is one, microbatch, peer, bytes; of what was received also let_in_us, the time from
// the announcement until the node had a place for the content. Arrows (phases s and f) lead from the start of a
// message's sending to its announcement; metadata (phase M) names nodes and threads.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/trace/trace.h"
#include "engine/trace/traced_transport.h"

namespace skippipe {

inline constexpr char kTraceFormat[] = "skippipe-trace";
inline constexpr int kTraceVersion = 1;

struct TracedNode {
  int node = 0;
  std::string name;
  int stage = 0;
  uint64_t dropped = 0;            // events for which there was no room
  std::vector<ClockSample> clock;  // empty: never compared
  std::vector<TraceEvent> events;
};

struct Trace {
  std::string run_id;
  std::vector<TracedNode> nodes;  // by number
};

// The part of one node.
std::filesystem::path trace_part_file(const std::filesystem::path& run_folder, int node);
std::filesystem::path merged_trace_file(const std::filesystem::path& run_folder);

// Throws FileError.
void write_trace(const Trace& trace, const std::filesystem::path& path);
Trace read_trace(const std::filesystem::path& path);

// All the times on node 0's clock, the first event at 0. Offsets that their errors can't tell from 0 are 0 (nodes on
// one machine share its clock); a node whose clock was never compared keeps its own.
void align(Trace& trace);

// Reads the parts of a run that its folder has, and aligns them. Those of other runs (before it was resumed with fewer
// nodes, say) are passed over. Nothing if there are none. Throws FileError: a bad part.
std::optional<Trace> merge_traces(const std::filesystem::path& run_folder, const std::string& run_id);

}  // namespace skippipe
