// A network of nodes within one process: the transport of tests and of one-process runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/transport/transport.h"

namespace skippipe {

// Hands out one Transport per node. Each is used by one thread at a time (but for wake()); the network itself may be
// used from any thread. A message's payload is copied once, by receive(), straight from the sender's buffer into the
// destination, so a send completes when it has been received. Destroyed after the last use of its transports.
class InProcessNetwork {
 public:
  explicit InProcessNetwork(int node_count, uint64_t run_id, bool payload_checksums = true);
  ~InProcessNetwork();
  InProcessNetwork(const InProcessNetwork&) = delete;
  InProcessNetwork& operator=(const InProcessNetwork&) = delete;

  Transport& transport(int node);

  // The node is gone from now on, as if its process had been killed: every other node reports it, what it has not
  // sent or received yet is lost, and its own transport reports nothing any more.
  void fail(int node, const std::string& why);

 private:
  class Hub;
  class Node;
  std::unique_ptr<Hub> hub_;
};

}  // namespace skippipe
