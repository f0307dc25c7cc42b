// A network file's links as delays of what a node sends: one machine behaves like the network.
#pragma once

#include <optional>

#include "comm/transport/shaped_transport.h"
#include "schedule/plan/network.h"

namespace skippipe {

// Puts the links of `node`, and its uplink if it has one, around `inner`.
void emulate_links(std::optional<ShapedTransport>& shaped, Transport& inner, const Network& network, int node);

}  // namespace skippipe
