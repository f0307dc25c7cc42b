#include "engine/probe/link_measurement.h"

#include <algorithm>

namespace skippipe {

LinkMeasurement summarize(const LinkSamples& samples) {
  LinkMeasurement result;
  result.latency_s = quartiles(samples.round_trip_s).scaled(0.5);
  std::vector<double> transfers = samples.single_s;
  for (double& seconds : transfers) seconds = std::max(0.0, seconds - result.latency_s.median);
  result.transfer_s = quartiles(std::move(transfers));
  result.bytes_per_s = quartiles(samples.stream_bytes_per_s);
  result.both_ways_bytes_per_s = quartiles(samples.both_ways_bytes_per_s);
  result.in_flight = samples.in_flight;
  return result;
}

Quartiles one_in_flight_bytes_per_s(const LinkMeasurement& measurement, size_t message_bytes) {
  const auto rate = [&](double seconds) { return static_cast<double>(message_bytes) / std::max(seconds, 1e-9); };
  const Quartiles& time = measurement.transfer_s;
  return {rate(time.median), rate(time.high), rate(time.low)};
}

Link link_of(const LinkMeasurement& measurement, double message_bytes) {
  Link link{.latency_s = measurement.latency_s.median,
            .bandwidth_bytes_per_s = measurement.bytes_per_s.median,
            .overhead_s = 0};
  link.overhead_s = std::max(0.0, measurement.transfer_s.median - link.transfer_s(message_bytes));
  return link;
}

}  // namespace skippipe
