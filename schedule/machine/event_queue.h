// The simulator's future: events in order of time, and of insertion where times are equal. A 4-ary heap of plain
// values, allocation-free once it has been as large as it gets.
#pragma once

#include <cstdint>
#include <vector>

namespace skippipe {

struct SimulatedEvent {
  enum class Kind : uint8_t {
    kAnnounced,
    kTaskFinished,
    kScattered,
    kReduced,
    kNormExchanged,
    kStepped,
    kSent,
    kLossesExchanged
  };
  double time_s = 0;
  uint32_t sequence = 0;  // set by the queue
  uint32_t iteration = 0;
  int32_t microbatch = -1;
  int16_t node = 0;
  Kind kind = Kind::kTaskFinished;
  uint8_t phase = 0;

  bool before(const SimulatedEvent& other) const {
    return time_s < other.time_s || (time_s == other.time_s && sequence < other.sequence);
  }
};

class EventQueue {
 public:
  bool empty() const { return heap_.empty(); }
  void clear() {
    heap_.clear();
    next_sequence_ = 0;
  }

  void push(SimulatedEvent event) {
    event.sequence = next_sequence_++;
    size_t hole = heap_.size();
    heap_.push_back(event);
    while (hole > 0) {
      const size_t parent = (hole - 1) / kArity;
      if (!event.before(heap_[parent])) break;
      heap_[hole] = heap_[parent];
      hole = parent;
    }
    heap_[hole] = event;
  }

  SimulatedEvent pop() {
    const SimulatedEvent top = heap_.front();
    const SimulatedEvent last = heap_.back();
    heap_.pop_back();
    const size_t size = heap_.size();
    if (size == 0) return top;
    size_t hole = 0;
    for (;;) {
      const size_t first = hole * kArity + 1;
      if (first >= size) break;
      size_t best = first;
      for (size_t child = first + 1; child < first + kArity && child < size; ++child)
        if (heap_[child].before(heap_[best])) best = child;
      if (!heap_[best].before(last)) break;
      heap_[hole] = heap_[best];
      hole = best;
    }
    heap_[hole] = last;
    return top;
  }

 private:
  static constexpr size_t kArity = 4;
  std::vector<SimulatedEvent> heap_;
  uint32_t next_sequence_ = 0;
};

}  // namespace skippipe
