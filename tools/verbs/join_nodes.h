// How a verb that is one node of several meets the others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/transport/transport.h"
#include "comm/transport/ucx_transport.h"

namespace skippipe {

// Connects to the nodes at `addresses` ("host:port"). listen_fd: a socket that listens at this node's address already,
// or -1. Node, addresses and listener of `options` are filled in. Throws ConfigError, PeerError where another node left
// or failed, RunError where the nodes did not meet.
std::unique_ptr<Transport> join_nodes(UcxOptions options, int node, const std::vector<std::string>& addresses,
                                      int listen_fd);

}  // namespace skippipe
