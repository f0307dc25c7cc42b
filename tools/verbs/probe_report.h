// What the verb `probe` shows, on standard output.
#pragma once

#include "engine/probe/network_probe.h"
#include "engine/probe/probe.h"
#include "schedule/plan/network.h"

namespace skippipe {

// A line per task of one device, and its memory.
void print_device(const ProbeResult& result, const ProbeSettings& settings);

// A line per device and per link of `network`, which has these figures.
void print_network(const Network& network, const NetworkFigures& figures, const ProbeSettings& settings,
                   size_t message_bytes);

}  // namespace skippipe
