// Where a node listens, and which network interfaces its data may use: what the other nodes can reach.
//
// A name means different things on different machines. Debian gives a machine's own name to 127.0.1.1, which nobody
// else reaches; a name may have several addresses, of which others try any; two machines may have interfaces with one
// and the same address (docker0, virbr0), which lead nowhere.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/control/socket.h"

namespace skippipe {

// An address that a network interface of this machine carries.
struct InterfaceAddress {
  std::string interface;
  bool is_loopback_interface = false;
  SocketAddress address;  // without a port
};

// Those of interfaces that are up, in the system's order.
std::vector<InterfaceAddress> interface_addresses();

// The address that a packet to another machine would leave from. Sends nothing.
[[nodiscard]] Status source_towards(const SocketAddress& other, SocketAddress& source);

// From where the nodes on other machines are reached.
struct Routes {
  std::vector<SocketAddress> sources;  // our own addresses, each once, without a port
  std::vector<std::string> problems;   // of nodes that were not found, or that there is no route to
};
Routes routes_to_other_machines(const std::vector<NodeAddress>& nodes, int own,
                                const std::vector<InterfaceAddress>& carried);

// Where to listen, given what the node's own name means here: at all of that; and if that is nothing but loopback
// addresses, at those from which nodes on other machines are reached, too.
std::vector<SocketAddress> addresses_to_listen_on(const std::vector<SocketAddress>& own, const Routes& routes);

// What data may use.
struct DataPath {
  std::vector<std::string> interfaces;  // empty: not known
  bool is_ipv6 = false;
  std::string remark;  // if another address of the interface will be used than the node's own; else empty
};

// The interfaces that carry the addresses that the node listens on: not the loopback one if there is another, but the
// one beside the others if a node is named by a loopback address. If none carries any, those of the routes.
DataPath data_path(const std::vector<SocketAddress>& listening, const std::vector<InterfaceAddress>& carried,
                   const Routes& routes, bool has_loopback_peer);

// What connect_ucx needs to know of this machine.
struct LocalPlace {
  std::vector<FileDescriptor> listeners;
  DataPath data;
  std::vector<std::string> remarks;  // for the log: what is done that the user might not expect
};

// `given` listens at this node's address already, or is invalid. Not ok: no place to listen, and why.
[[nodiscard]] Status take_place(const std::vector<NodeAddress>& nodes, int own, FileDescriptor given,
                                LocalPlace& place);

}  // namespace skippipe
