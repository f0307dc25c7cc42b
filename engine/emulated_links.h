// A network file's links as delays of what a node sends: one machine behaves like the network.
#pragma once

#include <vector>

#include "comm/shaped_transport.h"
#include "schedule/network.h"

namespace skippipe {

// From `node` to each node of the network.
std::vector<LinkShape> outgoing_links(const Network& network, int node);

}  // namespace skippipe
