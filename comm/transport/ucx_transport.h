// The transport between processes and machines: UCX active messages for the payloads, and TCP control connections
// (comm/control/control_mesh.h) over which the nodes find each other and notice who has gone. PROTOCOL.md specifies
// both.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "comm/control/socket.h"
#include "comm/transport/transport.h"

namespace skippipe {

struct UcxOptions {
  uint64_t run_id = 0;
  int node = 0;
  std::vector<NodeAddress> addresses;              // of the control ports of all the nodes, this one's among them
  std::chrono::milliseconds connect_limit{30000};  // until all the nodes must have met
  std::chrono::milliseconds heartbeat_interval{1000};
  std::chrono::milliseconds silence_limit{10000};  // a peer that is silent for longer has failed
  bool payload_checksums = true;                   // of what this node sends
  Logger logger = make_null_logger();
  FileDescriptor listener;  // listens at this node's address already; else it is opened
};

// Connects this node to all the others. Not ok: the port can't be listened on ("address in use"), no network interface
// here carries the node's address, its name is a loopback address that leads to nobody, or a peer was not
// reached within the limit or left again; the message says which, where, since when it was tried, and why not. Throws
// ConfigError for options that make no sense and RunError if UCX does not start.
[[nodiscard]] Status connect_ucx(UcxOptions options, std::unique_ptr<Transport>& transport);

}  // namespace skippipe
