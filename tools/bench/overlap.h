// What sending and receiving beside the tasks costs them.
#pragma once

#include <functional>
#include <vector>

#include "comm/transport/transport.h"
#include "engine/model/stage.h"

namespace skippipe {

struct OverlapSettings {
  int64_t message_bytes = int64_t{64} << 20;
  int microbatches = 8;  // a round
  int rounds = 5;
};

struct OverlapResult {
  // Seconds of a microbatch's forward and backward, a value for each round; ascending.
  std::vector<double> alone_s, beside_s;
  // Seconds of an exchange with nothing beside it, ascending.
  std::vector<double> exchange_s;

  double slowdown() const;  // of the medians: 0.05 is 5 % slower
};

// Rounds of microbatches of a middle stage (spec.layout.index > 0), in turns without messages and with one sent and one
// received for each microbatch, while it computes: at most two are under way, and a round ends when all have arrived.
// As in training, one thread obeys the network and copies between the device and pinned memory, another runs the tasks.
//
// `transport` is this end. The other end is a thread of this process that sends back what it receives through `peer`;
// its work is on this machine's cores too. Throws RunError where a message arrives damaged or the network fails, and
// MemoryError where the device has too little.
OverlapResult measure_overlap(const StageSpec& spec, const Context& context, Transport& transport, Transport& peer,
                              const OverlapSettings& settings);

// The same over UCX on this machine's loopback interface, as training between machines sends.
OverlapResult measure_overlap_over_loopback(const StageSpec& spec, const Context& context,
                                            const OverlapSettings& settings);

void print_overlap(const OverlapResult& result, const OverlapSettings& settings);

}  // namespace skippipe
