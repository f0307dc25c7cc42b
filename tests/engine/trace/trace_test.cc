// Traces: complete, in order, and the same after a file in between.
#include "engine/trace/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "base/file.h"
#include "comm/transport/in_process_transport.h"
#include "engine/trace/trace_file.h"
#include "engine/trace/traced_transport.h"
#include "tests/engine/node/distributed_scenario.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe::testing {
namespace {

using Track = TraceEvent::Track;
using What = TraceEvent::What;

TracedNode run_traced(const TrainingRun& run, int n, InProcessNetwork& network, const TraceLimits& limits) {
  Tracer tracer(limits);
  TracedTransport transport(network.transport(n), tracer);
  run_node(run, n, transport, &tracer);
  const std::span<const TraceEvent> events = tracer.events();
  const int stage = run.plan.stage_of_nodes()[static_cast<size_t>(n)];
  return {n, "n", stage, tracer.dropped(), transport.clock_samples(), {events.begin(), events.end()}};
}

std::vector<TracedNode> trace_of(const TrainingRun& run, const TraceLimits& limits = {}) {
  InProcessNetwork network(run.network.size(), run.file.run_id);
  std::vector<TracedNode> nodes(static_cast<size_t>(run.network.size()));
  std::vector<std::exception_ptr> errors(nodes.size());
  {
    std::vector<std::jthread> threads;
    for (size_t n = 0; n < nodes.size(); ++n)
      threads.emplace_back([&, n] {
        try {
          nodes[n] = run_traced(run, static_cast<int>(n), network, limits);
        } catch (const std::exception& error) {
          errors[n] = std::current_exception();
          network.fail(static_cast<int>(n), error.what());
        }
      });
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return nodes;
}

// What the plan says that a node computes, over all iterations.
std::multiset<std::tuple<What, uint32_t, int>> planned_work(const TrainingRun& run, int node) {
  std::multiset<std::tuple<What, uint32_t, int>> work;
  for (uint32_t iteration = 0; iteration < run.file.iterations; ++iteration) {
    for (size_t m = 0; m < run.plan.microbatches.size(); ++m) {
      const PlannedMicrobatch& microbatch = run.plan.microbatches[m];
      for (const PlannedVisit& visit : microbatch.visits) {
        if (visit.node != node) continue;
        work.insert({What::kForward, iteration, static_cast<int>(m)});
        work.insert({What::kBackward, iteration, static_cast<int>(m)});
      }
      if (microbatch.data_node() == node) work.insert({What::kLoss, iteration, static_cast<int>(m)});
    }
    if (run.file.clip_norm > 0) work.insert({What::kNorm, iteration, -1});
    work.insert({What::kStep, iteration, -1});
    const ValidationPlan validation = run.validation();
    if (validation.interval == 0) continue;
    if ((iteration + 1) % validation.interval != 0 && iteration + 1 != run.file.iterations) continue;
    for (size_t m = 0; m < validation.microbatches.size(); ++m) {
      const PlannedMicrobatch& microbatch = validation.microbatches[m];
      const int number = static_cast<int>(run.plan.microbatches.size() + m);
      for (const PlannedVisit& visit : microbatch.visits)
        if (visit.node == node) work.insert({What::kValidation, iteration, number});
      if (microbatch.data_node() == node) work.insert({What::kValidation, iteration, number});  // its loss
    }
  }
  return work;
}

std::vector<TraceEvent> on_tracks(const TracedNode& node, std::set<Track> tracks) {
  std::vector<TraceEvent> events;
  std::ranges::copy_if(node.events, std::back_inserter(events),
                       [&](const TraceEvent& event) { return tracks.contains(event.track); });
  std::ranges::stable_sort(events, {}, &TraceEvent::start_ns);
  return events;
}

void expect_true_to_plan(const TrainingRun& run, const TracedNode& node) {
  std::multiset<std::tuple<What, uint32_t, int>> work;
  for (const TraceEvent& event : on_tracks(node, {Track::kCompute}))
    work.insert({event.what, event.iteration, event.microbatch});
  EXPECT_EQ(work, planned_work(run, node.node)) << "node " << node.node;
  const bool replicated = run.plan.stages[static_cast<size_t>(node.stage)].size() > 1;
  EXPECT_EQ(on_tracks(node, {Track::kReduction}).size(), replicated ? run.file.iterations : 0u);
  // A node computes one thing at a time, and waits only while it does not.
  const std::vector<TraceEvent> line = on_tracks(node, {Track::kCompute, Track::kWait});
  for (size_t i = 0; i < line.size(); ++i) {
    EXPECT_LE(line[i].start_ns, line[i].end_ns);
    const int64_t free_ns = i > 0 ? line[i - 1].end_ns : 0;
    EXPECT_LE(free_ns, line[i].start_ns) << "node " << node.node << ", event " << i;
  }
}

// Every message has two ends, and its sending began first.
void expect_matching_ends(const std::vector<TracedNode>& nodes) {
  std::map<std::tuple<What, uint32_t, int, int, int>, std::vector<TraceEvent>> messages;
  for (const TracedNode& node : nodes)
    for (const TraceEvent& event : on_tracks(node, {Track::kSend, Track::kReceive})) {
      const bool sends = event.track == Track::kSend;
      messages[{event.what, event.iteration, event.microbatch, sends ? node.node : event.peer,
                sends ? event.peer : node.node}]
          .push_back(event);
    }
  EXPECT_FALSE(messages.empty());
  for (const auto& [identity, ends] : messages) {
    ASSERT_EQ(ends.size(), 2u) << what_name(std::get<0>(identity)) << " of iteration " << std::get<1>(identity);
    const bool sent_first = ends[0].track == Track::kSend;
    const TraceEvent& sent = ends[sent_first ? 0 : 1];
    const TraceEvent& received = ends[sent_first ? 1 : 0];
    ASSERT_EQ(sent.track, Track::kSend);
    ASSERT_EQ(received.track, Track::kReceive);
    EXPECT_EQ(sent.bytes, received.bytes);
    EXPECT_GT(sent.bytes, 0);
    EXPECT_LE(sent.start_ns, received.start_ns);
  }
}

TEST(Trace, HasAllThatNodesDid) {
  const TempFolder folder;
  int waits = 0;
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    SCOPED_TRACE(seed);
    const TrainingRun run = make_scenario(seed, folder.path());
    const std::vector<TracedNode> nodes = trace_of(run);
    expect_matching_ends(nodes);
    for (const TracedNode& node : nodes) {
      EXPECT_EQ(node.dropped, 0u);
      expect_true_to_plan(run, node);
      waits += static_cast<int>(on_tracks(node, {Track::kWait}).size());
    }
  }
  EXPECT_GT(waits, 100);
}

TEST(Trace, KeepsToItsIterationsAndItsMemory) {
  const TempFolder folder;
  const TrainingRun run = make_scenario(1, folder.path());
  size_t kept = 0;
  for (const TracedNode& node : trace_of(run, {.first_iteration = 1, .last_iteration = 1})) {
    kept += node.events.size();
    for (const TraceEvent& event : node.events) ASSERT_EQ(event.iteration, 1u);
  }
  EXPECT_GT(kept, 0u);
  for (const TracedNode& node : trace_of(run, {.events = 5})) {
    EXPECT_EQ(node.events.size(), 5u);
    EXPECT_GT(node.dropped, 0u);
  }
}

Trace small_trace() {
  const TraceEvent task{Track::kCompute, What::kForward, 3, 5, -1, 0, 1'000'000'001, 1'000'500'000};
  const TraceEvent sent{Track::kSend, What::kForward, 3, 5, 1, 4096, 1'000'500'000, 1'002'000'000};
  const TraceEvent wait{Track::kWait, What::kNorm, 3, -1, -1, 0, 1'002'000'000, 1'003'000'000};
  const TraceEvent received{Track::kReceive, What::kForward, 3, 5, 0, 4096, 501'000'000, 501'000'007, 501'000'003};
  return {"00112233aabbccdd",
          {{0, "a \"quoted\" <name>", 0, 7, {{1'000, {0, 0}}}, {task, sent, wait}},
           {1, "b", 1, 0, {{1'000, {0.5, 0.001}}}, {received}}}};
}

TEST(TraceFile, ReadsWhatItWrote) {
  const TempFolder folder;
  const Trace trace = small_trace();
  write_trace(trace, folder / "trace.json");
  const Trace read = read_trace(folder / "trace.json");
  EXPECT_EQ(read.run_id, trace.run_id);
  ASSERT_EQ(read.nodes.size(), 2u);
  for (size_t n = 0; n < 2; ++n) {
    EXPECT_EQ(read.nodes[n].name, trace.nodes[n].name);
    EXPECT_EQ(read.nodes[n].stage, trace.nodes[n].stage);
    EXPECT_EQ(read.nodes[n].dropped, trace.nodes[n].dropped);
    EXPECT_EQ(read.nodes[n].events, trace.nodes[n].events);
    ASSERT_EQ(read.nodes[n].clock.size(), 1u);
    EXPECT_EQ(read.nodes[n].clock[0].at_ns, trace.nodes[n].clock[0].at_ns);
    EXPECT_EQ(read.nodes[n].clock[0].offset.seconds, trace.nodes[n].clock[0].offset.seconds);
  }
}

// Both ends of a message carry the same number, so that viewers draw an arrow.
TEST(TraceFile, ArrowsHaveTwoEnds) {
  const TempFolder folder;
  write_trace(small_trace(), folder / "trace.json");
  std::map<std::string, std::string> ends;
  const auto document = nlohmann::json::parse(read_file(folder / "trace.json"));
  for (const auto& event : document["traceEvents"])
    if (event.contains("id")) ends[event["id"].get<std::string>()] += event["ph"].get<std::string>();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends.begin()->second, "sf");
}

TEST(TraceFile, MergingAlignsTheClocks) {
  const TempFolder folder;
  Trace whole = small_trace();
  std::filesystem::create_directories(folder / "trace");
  EXPECT_FALSE(merge_traces(folder.path(), whole.run_id));
  for (const TracedNode& node : whole.nodes)
    write_trace({whole.run_id, {node}}, trace_part_file(folder.path(), node.node));
  // Of a node that the run, resumed, no longer has.
  Trace other{"another", {whole.nodes[1]}};
  other.nodes[0].node = 2;
  write_trace(other, trace_part_file(folder.path(), 2));
  const auto merged = merge_traces(folder.path(), whole.run_id);
  ASSERT_TRUE(merged);
  ASSERT_EQ(merged->nodes.size(), 2u);
  EXPECT_EQ(merged->nodes[0].events[0].start_ns, 0);
  EXPECT_EQ(merged->nodes[1].events[0].start_ns, 1'001'000'000 - 1'000'000'001) << "half a second ahead";
  EXPECT_EQ(merged->nodes[1].events[0].let_in_ns, 501'000'003 + 500'000'000 - 1'000'000'001);

  whole.nodes[1].clock = {{1'000, {0.0005, 0.001}}};
  align(whole);
  EXPECT_EQ(whole.nodes[1].events[0].start_ns, 0) << "an offset that may be none is none";
  EXPECT_EQ(whole.nodes[0].events[0].start_ns, 1'000'000'001 - 501'000'000);

  whole = small_trace();
  whole.nodes[1].clock = {{0, {1, 0.001}}, {20'000'000'000, {2, 0.001}}};
  whole.nodes[1].events[0].start_ns = whole.nodes[1].events[0].end_ns = 10'000'000'000;
  align(whole);
  EXPECT_EQ(whole.nodes[1].events[0].start_ns, 11'500'000'000 - 1'000'000'001) << "clocks that drift";
}

TEST(TraceFile, BadPartsAreRefused) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "trace");
  const Trace whole = small_trace();
  write_trace({whole.run_id, {whole.nodes[0]}}, trace_part_file(folder.path(), 0));
  const auto good = nlohmann::json::parse(read_file(trace_part_file(folder.path(), 0)));
  const auto refused = [&](const nlohmann::json& part, const std::string& why) {
    folder.write("trace/node-00.json", part.dump());
    SKP_EXPECT_ERROR(merge_traces(folder.path(), whole.run_id), FileError, why);
  };
  size_t task = 0;
  while (good["traceEvents"][task]["ph"] != "X") ++task;
  for (const auto& [field, value, why] :
       std::vector<std::tuple<std::string, nlohmann::json, std::string>>{{"ts", -1, "a number from 0"},
                                                                         {"ts", 1e300, "a number from 0"},
                                                                         {"dur", -1, "a number from 0"},
                                                                         {"pid", 1, "one of the nodes"},
                                                                         {"pid", 5000, "an integer from 0 to 1023"},
                                                                         {"cat", "thought", "a name that traces know"},
                                                                         {"args", 5, "an object with 'what'"}}) {
    auto part = good;
    part["traceEvents"][task][field] = value;
    refused(part, why);
  }
  auto part = good;
  part["otherData"]["format"] = "another";
  refused(part, "skippipe-trace");
  part = good;
  part["otherData"]["nodes"][0]["clock"][0]["offset_s"] = 1e12;
  refused(part, "offset_s: found 1000000000000.0");
  part = good;
  part["otherData"]["nodes"].push_back(part["otherData"]["nodes"][0]);
  refused(part, "each node once");
  folder.write("trace/node-00.json", good.dump().substr(0, 200));
  SKP_EXPECT_ERROR(merge_traces(folder.path(), whole.run_id), FileError, "not valid JSON");

  folder.write("trace/node-00.json", good.dump());
  write_trace(whole, trace_part_file(folder.path(), 1));
  SKP_EXPECT_ERROR(merge_traces(folder.path(), whole.run_id), FileError, "expected the part of node 1");
}

}  // namespace
}  // namespace skippipe::testing
