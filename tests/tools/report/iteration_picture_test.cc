#include "tools/report/iteration_picture.h"

#include <gtest/gtest.h>

namespace skippipe {
namespace {

using Track = TraceEvent::Track;
using What = TraceEvent::What;

constexpr int64_t kMs = 1'000'000;

TraceEvent event(Track track, What what, int peer, int64_t start_ms, int64_t end_ms, int64_t let_in_ms = 0) {
  const bool moves = track == Track::kSend || track == Track::kReceive;
  return {.track = track,
          .what = what,
          .iteration = 1,
          .microbatch = moves ? 0 : -1,
          .peer = peer,
          .bytes = moves ? 8'000'000 : 0,
          .start_ns = start_ms * kMs,
          .end_ns = end_ms * kMs,
          .let_in_ns = let_in_ms * kMs};
}

// Announced at 1 ms, let in at 5 ms, there at 9 ms: the link was in use for 5 ms, and free while the receiver had no
// slot.
TEST(IterationPicture, ALinkIsInUseWhileBytesMove) {
  Plan plan;
  plan.stages = {{0}, {1}};
  plan.node_names = {"a", "b"};
  plan.microbatches = {{.visits = {{0}, {1}}}};
  const Trace trace = {
      "run",
      {{0,
        "a",
        0,
        0,
        {},
        {event(Track::kSend, What::kForward, 1, 0, 10), event(Track::kCompute, What::kStep, -1, 10, 11)}},
       {1,
        "b",
        1,
        0,
        {},
        {event(Track::kReceive, What::kForward, 0, 1, 9, 5), event(Track::kCompute, What::kStep, -1, 10, 11)}}}};
  const auto traced = read_iterations(trace, plan);
  ASSERT_TRUE(traced);
  const LinkUse& use = traced->typical.links.at({0, 1});
  EXPECT_EQ(use.messages, 1);
  EXPECT_EQ(use.bytes, 8e6);
  EXPECT_NEAR(use.busy_s, 0.005, 1e-9);
}

// Between two iterations, it belongs to none.
TEST(IterationPicture, LeavesAValidationOut) {
  Plan plan;
  plan.stages = {{0}, {1}};
  plan.node_names = {"a", "b"};
  plan.microbatches = {{.visits = {{0}, {1}}}};
  Trace trace = {"run", {{0, "a", 0, 0, {}, {}}, {1, "b", 1, 0, {}, {}}}};
  for (TracedNode& node : trace.nodes) {
    node.events = {event(Track::kCompute, What::kStep, -1, 0, 10),
                   event(Track::kCompute, What::kValidation, -1, 10, 40),
                   event(Track::kWait, What::kValidation, -1, 40, 50), event(Track::kCompute, What::kStep, -1, 50, 60)};
    node.events.back().iteration = 2;
    const bool sends = node.node == 0;
    node.events.push_back(event(sends ? Track::kSend : Track::kReceive, What::kForward, sends ? 1 : 0, 20, 30, 20));
    node.events.back().microbatch = 1;  // behind that of the iteration
  }
  const auto traced = read_iterations(trace, plan);
  ASSERT_TRUE(traced);
  EXPECT_EQ(traced->count, 2u);
  EXPECT_NEAR(traced->typical.seconds, 0.010, 1e-9);
  EXPECT_TRUE(traced->typical.links.empty());
  for (const NodeTime& time : traced->nodes) EXPECT_NEAR(time.computing, 1, 1e-9);
}

}  // namespace
}  // namespace skippipe
