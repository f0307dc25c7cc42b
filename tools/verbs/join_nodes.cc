#include "tools/verbs/join_nodes.h"

#include <fmt/format.h>

#include "base/error.h"
#include "tools/processes/process_settings.h"

namespace skippipe {

std::unique_ptr<Transport> join_nodes(UcxOptions options, int node, const std::vector<std::string>& addresses,
                                      int listen_fd) {
  const int nodes = static_cast<int>(addresses.size());
  // UCX ends the process where it gets none.
  require_open_files(open_files_of_node(nodes), fmt::format("a node of {}", nodes));
  options.node = node;
  for (const std::string& address : addresses) options.addresses.push_back(parse_node_address(address));
  if (listen_fd >= 0) options.listener = FileDescriptor(listen_fd);
  std::unique_ptr<Transport> transport;
  if (const Status status = connect_ucx(std::move(options), transport); !status.ok()) {
    if (status.code() == StatusCode::kPeerGone) throw PeerError(status.message());
    throw RunError(status.message());  // the others may yet see that this node ended
  }
  return transport;
}

}  // namespace skippipe
