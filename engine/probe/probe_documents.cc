#include "engine/probe/probe_documents.h"

#include <nlohmann/json.hpp>

namespace skippipe {
namespace {

constexpr double kMaxSeconds = 1e6;
constexpr double kMaxRatio = 1000;
constexpr double kMaxBytesPerSecond = 1e17;
constexpr int64_t kMaxBytes = int64_t{1} << 60;
constexpr size_t kMaxNameBytes = 64;

nlohmann::json to_json(const Quartiles& values) { return {values.low, values.median, values.high}; }

Quartiles read_quartiles(const JsonReader& json, double most) {
  const std::vector<JsonReader> values = json.items();
  if (values.size() != 3) json.fail("three quartiles");
  const double low = values[0].as_double(0, most);
  const double median = values[1].as_double(low, most);
  return {median, low, values[2].as_double(median, most)};
}

}  // namespace

nlohmann::json to_json(const ProbeResult& result) {
  return {{"forward", to_json(result.forward)},
          {"backward", to_json(result.backward)},
          {"loss", to_json(result.loss)},
          {"step", to_json(result.step)},
          {"step_gradient_bytes", result.step_gradient_bytes},
          {"forward_s", result.forward_s},
          {"backward_over_forward", result.backward_over_forward},
          {"loss_s", result.loss_s},
          {"step_s_per_byte", result.step_s_per_byte},
          {"memory_bytes", result.memory_bytes},
          {"device", result.device},
          {"slots", result.slots},
          {"fitting_slots", result.fitting_slots}};
}

ProbeResult read_probe_result(const JsonReader& json) {
  ProbeResult result;
  result.forward = read_quartiles(json.at("forward"), kMaxSeconds);
  result.backward = read_quartiles(json.at("backward"), kMaxSeconds);
  result.loss = read_quartiles(json.at("loss"), kMaxSeconds);
  result.step = read_quartiles(json.at("step"), kMaxSeconds);
  result.step_gradient_bytes = json.at("step_gradient_bytes").as_int(1, kMaxBytes);
  result.forward_s = json.at("forward_s").as_double(0, kMaxSeconds);
  result.backward_over_forward = json.at("backward_over_forward").as_double(0, kMaxRatio);
  result.loss_s = json.at("loss_s").as_double(0, kMaxSeconds);
  result.step_s_per_byte = json.at("step_s_per_byte").as_double(0, 1);
  result.memory_bytes = json.at("memory_bytes").as_int(0, kMaxBytes);
  const JsonReader device = json.at("device");
  result.device = device.as_string();
  if (result.device.size() > kMaxNameBytes) device.fail("the name of a device");
  result.slots = static_cast<int>(json.at("slots").as_int(1, kMaxSlots));
  result.fitting_slots = static_cast<int>(json.at("fitting_slots").as_int(1, result.slots));
  return result;
}

nlohmann::json to_json(const LinkMeasurement& measurement) {
  return {{"latency_s", to_json(measurement.latency_s)},
          {"transfer_s", to_json(measurement.transfer_s)},
          {"bytes_per_s", to_json(measurement.bytes_per_s)},
          {"both_ways_bytes_per_s", to_json(measurement.both_ways_bytes_per_s)},
          {"in_flight", measurement.in_flight}};
}

LinkMeasurement read_link_measurement(const JsonReader& json) {
  LinkMeasurement measurement;
  measurement.latency_s = read_quartiles(json.at("latency_s"), kMaxSeconds);
  measurement.transfer_s = read_quartiles(json.at("transfer_s"), kMaxSeconds);
  measurement.bytes_per_s = read_quartiles(json.at("bytes_per_s"), kMaxBytesPerSecond);
  measurement.both_ways_bytes_per_s = read_quartiles(json.at("both_ways_bytes_per_s"), kMaxBytesPerSecond);
  measurement.in_flight = static_cast<int>(json.at("in_flight").as_int(1, 1 << 16));
  return measurement;
}

}  // namespace skippipe
