// From the samples of a link probe to the link of a network file.
#pragma once

#include "comm/point_to_point/link_probe.h"
#include "engine/probe/quartiles.h"
#include "schedule/plan/network.h"

namespace skippipe {

// One direction, as its sender saw it.
struct LinkMeasurement {
  Quartiles latency_s;              // half the round trip of a small message and its reply
  Quartiles transfer_s;             // one large message alone, from sending it until it was there
  Quartiles bytes_per_s;            // of a stream with in_flight large messages under way
  Quartiles both_ways_bytes_per_s;  // of each direction, with such a stream in both at once
  int in_flight = 0;
};

// The way back of a large message's reply is taken to last as long as a small message.
LinkMeasurement summarize(const LinkSamples& samples);

// What one message of message_bytes at a time makes of the link.
Quartiles one_in_flight_bytes_per_s(const LinkMeasurement& measurement, size_t message_bytes);

// Medians: the latency is that of small messages, the bandwidth that of the stream, and the overhead what a single
// message of message_bytes needs beyond latency and bytes / bandwidth, if anything.
Link link_of(const LinkMeasurement& measurement, double message_bytes);

}  // namespace skippipe
