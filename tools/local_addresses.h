#pragma once

#include <string>
#include <vector>

#include "comm/socket.h"

namespace skippipe {

// Listening sockets on ports of the loopback interface that were free. They stay open until the nodes have inherited
// them, so that nobody can take a port meanwhile.
struct LocalAddresses {
  std::vector<FileDescriptor> listeners;
  std::vector<std::string> addresses;  // "127.0.0.1:port"
};

// Throws RunError.
LocalAddresses listen_locally(int count);

}  // namespace skippipe
