#include "tools/processes/local_addresses.h"

#include <fmt/ranges.h>

#include "base/error.h"

namespace skippipe {

void LocalAddresses::add_arguments(std::vector<std::string>& arguments, int node) const {
  arguments.insert(arguments.end(), {"--listen-fd", std::to_string(listener(node))});
  arguments.insert(arguments.end(), {"--addresses", fmt::format("{}", fmt::join(addresses, ","))});
}

LocalAddresses listen_locally(int count) {
  LocalAddresses local;
  for (int i = 0; i < count; ++i) {
    NodeAddress address{"127.0.0.1", 0};
    FileDescriptor listener;
    if (const Status status = listen_on(address, listener); !status.ok()) throw RunError("{}", status.message());
    address.port = local_port(listener);
    local.listeners.push_back(std::move(listener));
    local.addresses.push_back(address.to_string());
  }
  return local;
}

}  // namespace skippipe
