#include "tools/local_addresses.h"

#include "base/error.h"
#include "comm/socket.h"

namespace skippipe {

std::vector<std::string> free_local_addresses(int count) {
  std::vector<FileDescriptor> listeners(static_cast<size_t>(count));  // all open at once, so that all ports differ
  std::vector<std::string> addresses;
  for (FileDescriptor& listener : listeners) {
    NodeAddress address{"127.0.0.1", 0};
    if (const Status status = listen_on(address, listener); !status.ok()) throw RunError("{}", status.message());
    address.port = local_port(listener);
    addresses.push_back(address.to_string());
  }
  return addresses;
}

}  // namespace skippipe
