#include "tools/verbs/probe_report.h"

#include <fmt/format.h>

#include "engine/model/memory.h"

namespace skippipe {
namespace {

constexpr double kMegabit = 1e6 / 8;

// Shows quartiles and counts those that are noisy.
class Figures {
 public:
  // "1.234 (1.200 to 1.300)", with a star if it is noisy.
  std::string show(const Quartiles& values, double scale, int digits) {
    const Quartiles shown = values.scaled(scale);
    ++count_;
    if (values.noisy()) ++noisy_;
    return fmt::format("{:.{}f} ({:.{}f} to {:.{}f}){}", shown.median, digits, shown.low, digits, shown.high, digits,
                       values.noisy() ? "*" : "");
  }

  void print_warning() const {
    if (noisy_ == 0) return;
    fmt::print(
        "warning: {} of {} figures are noisy (*): the middle half of the measurements spreads over more than "
        "{:.0f} % of the median; measure again when machines and links are quiet\n",
        noisy_, count_, 100 * Quartiles::kNoisyShare);
  }

 private:
  int count_ = 0;
  int noisy_ = 0;
};

std::string describe(const ProbeSettings& settings) {
  return fmt::format("{} x {} tokens, {} layer(s) per stage, {}, {} thread(s); median (quartiles) of {}",
                     settings.batch.samples, settings.batch.tokens, settings.layers_per_stage,
                     dtype_name(settings.dtype), settings.threads, settings.repetitions);
}

// Of a task's seconds, what a layer and sample takes in milliseconds.
double layer_scale(const ProbeSettings& settings) {
  return 1e3 / static_cast<double>(settings.layers_per_stage * settings.batch.samples);
}

double sample_scale(const ProbeSettings& settings) { return 1e3 / static_cast<double>(settings.batch.samples); }

double step_scale(const ProbeResult& result) { return 1e9 / static_cast<double>(result.step_gradient_bytes); }

void print_devices(const Network& network, const NetworkFigures& figures, const ProbeSettings& settings,
                   Figures& shown) {
  fmt::print("devices: {}\n", describe(settings));
  fmt::print("{:<14} {:<30} {:<30} {:<30} {:<24} {:>12} {:>6}\n", "", "forward ms/layer/sample",
             "backward ms/layer/sample", "loss ms/sample", "step ms/MB gradients", "memory", "slots");
  for (size_t node = 0; node < figures.devices.size(); ++node) {
    const ProbeResult& device = figures.devices[node];
    fmt::print("{:<14} {:<30} {:<30} {:<30} {:<24} {:>12} {:>6}\n", network.nodes[node].name,
               shown.show(device.forward, layer_scale(settings), 3),
               shown.show(device.backward, layer_scale(settings), 3),
               shown.show(device.loss, sample_scale(settings), 3), shown.show(device.step, step_scale(device), 3),
               human_bytes(device.memory_bytes), device.fitting_slots);
  }
}

void print_links(const Network& network, const NetworkFigures& figures, size_t message_bytes, Figures& shown) {
  fmt::print("\nlinks: messages of {} bytes; median (quartiles)\n", message_bytes);
  fmt::print("{:<30} {:<30} {:<32} {:>5} {:<32} {:<32} {:>11}\n", "", "latency ms", "Mbit/s of a stream", "in it",
             "Mbit/s of one message alone", "Mbit/s each, both ways at once", "overhead ms");
  for (int from = 0; from < network.size(); ++from) {
    for (int to = 0; to < network.size(); ++to) {
      if (from == to) continue;
      const LinkMeasurement& measured = figures.links[static_cast<size_t>(from * network.size() + to)];
      fmt::print("{:<30} {:<30} {:<32} {:>5} {:<32} {:<32} {:>11.3f}\n",
                 network.nodes[static_cast<size_t>(from)].name + " to " + network.nodes[static_cast<size_t>(to)].name,
                 shown.show(measured.latency_s, 1e3, 3), shown.show(measured.bytes_per_s, 1 / kMegabit, 1),
                 measured.in_flight, shown.show(one_in_flight_bytes_per_s(measured, message_bytes), 1 / kMegabit, 1),
                 shown.show(measured.both_ways_bytes_per_s, 1 / kMegabit, 1), 1e3 * network.link(from, to).overhead_s);
    }
  }
}

}  // namespace

void print_device(const ProbeResult& result, const ProbeSettings& settings) {
  Figures shown;
  const auto line = [&](const char* task, const Quartiles& time, double scale, const char* per,
                        const std::string& figure) {
    fmt::print("{:<10} {:<30} {:<24} {}\n", task, shown.show(time, scale, 3), per, figure);
  };
  fmt::print("{}\n", describe(settings));
  line("forward", result.forward, layer_scale(settings), "ms, layer and sample",
       fmt::format("forward_s {:.3g}", result.forward_s));
  line("backward", result.backward, layer_scale(settings), "ms, layer and sample",
       fmt::format("backward_over_forward {:.3f}", result.backward_over_forward));
  line("loss", result.loss, sample_scale(settings), "ms, sample", fmt::format("loss_s {:.3g}", result.loss_s));
  line("step", result.step, step_scale(result), "ms, MB of gradients",
       fmt::format("step_s_per_byte {:.3g}", result.step_s_per_byte));
  fmt::print("memory     {} available: room for {} slot(s){}\n", human_bytes(result.memory_bytes), result.fitting_slots,
             result.fitting_slots == settings.most_slots ? ", the most asked for" : "");
  shown.print_warning();
}

void print_network(const Network& network, const NetworkFigures& figures, const ProbeSettings& settings,
                   size_t message_bytes) {
  Figures shown;
  print_devices(network, figures, settings, shown);
  print_links(network, figures, message_bytes, shown);
  shown.print_warning();
}

}  // namespace skippipe
