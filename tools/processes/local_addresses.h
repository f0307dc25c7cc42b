#pragma once

#include <string>
#include <vector>

#include "comm/control/socket.h"

namespace skippipe {

// Listening sockets on ports of the loopback interface that were free. They stay open until the nodes have inherited
// them, so that nobody can take a port meanwhile.
struct LocalAddresses {
  std::vector<FileDescriptor> listeners;
  std::vector<std::string> addresses;  // "127.0.0.1:port"

  int listener(int node) const { return addresses.empty() ? -1 : listeners[static_cast<size_t>(node)].get(); }
  // Appends --listen-fd and --addresses, for the process of a node that inherits its listener.
  void add_arguments(std::vector<std::string>& arguments, int node) const;
};

// Throws RunError.
LocalAddresses listen_locally(int count);

}  // namespace skippipe
