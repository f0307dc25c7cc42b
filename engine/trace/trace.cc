#include "engine/trace/trace.h"

#include <utility>

#include "base/error.h"
#include "comm/control/clock_offset.h"

namespace skippipe {
namespace {

using What = TraceEvent::What;

What what_of(MessageKind kind) {
  switch (kind) {
    case MessageKind::kForward:
      return What::kForward;
    case MessageKind::kBackward:
      return What::kBackward;
    case MessageKind::kReduceScatter:
      return What::kReduceScatter;
    case MessageKind::kAllGather:
      return What::kAllGather;
    case MessageKind::kStats:
      return What::kStats;
    default:
      throw InternalError("no node of a run sends a message of kind {}", static_cast<int>(kind));
  }
}

What what_of(const Waiting& waiting) {
  if (waiting.validation) return What::kValidation;
  switch (waiting.what) {
    case Waiting::For::kMessage:
      return waiting.phase == Phase::kForward ? What::kForward : What::kBackward;
    case Waiting::For::kReduction:
      return What::kReduction;
    case Waiting::For::kNorm:
      return What::kNorm;
    default:
      throw InternalError("a node that computes nothing waits for {}", describe(waiting));
  }
}

// The others are few and small.
bool is_of_iteration(const MessageHeader& header) { return header.kind != MessageKind::kValidation; }

TraceEvent transfer(TraceEvent::Track track, const MessageHeader& header, int peer) {
  const bool has_microbatch = header.kind == MessageKind::kForward || header.kind == MessageKind::kBackward;
  return {.track = track,
          .what = what_of(header.kind),
          .iteration = header.iteration,
          .microbatch = has_microbatch ? static_cast<int32_t>(header.microbatch) : -1,
          .peer = peer,
          .bytes = static_cast<int64_t>(header.payload_bytes)};
}

}  // namespace

const char* track_name(TraceEvent::Track track) {
  constexpr const char* kNames[kTraceTrackCount] = {"compute", "wait", "reduction", "send", "receive"};
  return kNames[static_cast<size_t>(track)];
}

const char* what_name(What what) {
  constexpr const char* kNames[kTraceWhatCount] = {"forward",    "loss",       "backward",  "norm",
                                                   "step",       "checkpoint", "reduction", "reduce-scatter",
                                                   "all-gather", "stats",      "validation"};
  return kNames[static_cast<size_t>(what)];
}

Tracer::Tracer(const TraceLimits& limits) : limits_(limits) {
  events_.resize(limits.events);  // every page is there from now on
  events_.clear();
}

void Tracer::computed(What what, uint32_t iteration, int microbatch, Time start, Time end) {
  add({.track = TraceEvent::Track::kCompute, .what = what, .iteration = iteration, .microbatch = microbatch}, start,
      end);
}

void Tracer::reduced(uint32_t iteration, Time start, Time end) {
  add({.track = TraceEvent::Track::kReduction, .what = What::kReduction, .iteration = iteration}, start, end);
}

void Tracer::sent(const MessageHeader& header, Time start, Time end) {
  if (!is_of_iteration(header)) return;
  add(transfer(TraceEvent::Track::kSend, header, header.destination), start, end);
}

void Tracer::received(const MessageHeader& header, Time start, Time let_in, Time end) {
  if (!is_of_iteration(header)) return;
  TraceEvent event = transfer(TraceEvent::Track::kReceive, header, header.source);
  event.let_in_ns = steady_ns(let_in);
  add(event, start, end);
}

void Tracer::waits(const Waiting& waiting) {
  if (waiting == waiting_) return;
  works();
  waiting_ = waiting;
  waiting_since_ = Clock::now();
}

void Tracer::works() {
  const Waiting waiting = std::exchange(waiting_, {});
  if (waiting.what == Waiting::For::kNothing) return;
  add({.track = TraceEvent::Track::kWait,
       .what = what_of(waiting),
       .iteration = waiting.iteration,
       .microbatch = waiting.microbatch,
       .peer = waiting.peer},
      waiting_since_, Clock::now());
}

void Tracer::add(TraceEvent event, Time start, Time end) {
  if (event.iteration < limits_.first_iteration || event.iteration > limits_.last_iteration) return;
  if (events_.size() == limits_.events) {
    ++dropped_;
    return;
  }
  event.start_ns = steady_ns(start);
  event.end_ns = steady_ns(end);
  events_.push_back(event);
}

}  // namespace skippipe
