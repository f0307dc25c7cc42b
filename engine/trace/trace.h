// What a node really did, recorded while it runs: tasks, transfers, reductions, and what it waited for.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "comm/formats/message.h"
#include "comm/transport/transport.h"
#include "schedule/machine/node_machine.h"

namespace skippipe {

struct TraceEvent {
  enum class Track : uint8_t { kCompute, kWait, kReduction, kSend, kReceive };
  // Not every track has every one: kCompute the first six, transfers forward, backward and the collectives' messages.
  // kValidation: tasks and waits of the validation that follows the iteration; its messages are forwards of
  // microbatches behind the iteration's.
  enum class What : uint8_t {
    kForward,
    kLoss,
    kBackward,
    kNorm,
    kStep,
    kSnapshot,
    kReduction,
    kReduceScatter,
    kAllGather,
    kStats,
    kValidation
  };

  Track track = Track::kCompute;
  What what = What::kForward;
  uint32_t iteration = 0;
  int32_t microbatch = -1;  // -1: of none
  int32_t peer = -1;        // kSend: to whom; kReceive: from whom; kWait: who sends what is missing; -1: nobody
  int64_t bytes = 0;        // kSend, kReceive
  int64_t start_ns = 0;     // of the node's steady clock
  int64_t end_ns = 0;
  int64_t let_in_ns = 0;  // kReceive: there was a place for its content, which may be moved only from then on

  friend bool operator==(const TraceEvent&, const TraceEvent&) = default;
};
inline constexpr int kTraceTrackCount = 5;
inline constexpr int kTraceWhatCount = 11;
const char* track_name(TraceEvent::Track track);  // "compute"
const char* what_name(TraceEvent::What what);     // "forward"

struct TraceLimits {
  uint32_t first_iteration = 0;  // what belongs to others is not recorded
  uint32_t last_iteration = std::numeric_limits<uint32_t>::max();
  size_t events = 100'000;  // 5 MB; what comes after them is counted, not kept
};

// Takes its memory (host memory, outside of the slab) at the start and no more later. Used by the event thread.
class Tracer {
 public:
  using Time = Clock::time_point;

  explicit Tracer(const TraceLimits& limits);

  void computed(TraceEvent::What what, uint32_t iteration, int microbatch, Time start, Time end);
  void reduced(uint32_t iteration, Time start, Time end);
  // A message from when the node handed it to the transport until its buffer was free again.
  void sent(const MessageHeader& header, Time start, Time end);
  // A message from its announcement until its content was there; `let_in`: when the node gave it a place.
  void received(const MessageHeader& header, Time start, Time let_in, Time end);
  // From now on the node computes nothing for want of this; called again, it goes on or another wait begins.
  void waits(const Waiting& waiting);
  // The node computes from now on, or has ended: a wait under way ends.
  void works();

  std::span<const TraceEvent> events() const { return events_; }
  uint64_t dropped() const { return dropped_; }
  int64_t bytes() const { return static_cast<int64_t>(events_.capacity() * sizeof(TraceEvent)); }
  const TraceLimits& limits() const { return limits_; }

 private:
  void add(TraceEvent event, Time start, Time end);

  const TraceLimits limits_;
  std::vector<TraceEvent> events_;
  uint64_t dropped_ = 0;
  Waiting waiting_;  // kNothing: it computes
  Time waiting_since_{};
};

}  // namespace skippipe
