#include "comm/control/local_place.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace skippipe {
namespace {

const InterfaceAddress* carrier_of(const SocketAddress& address, const std::vector<InterfaceAddress>& carried) {
  const auto found =
      std::ranges::find_if(carried, [&](const InterfaceAddress& each) { return each.address.has_host_of(address); });
  return found == carried.end() ? nullptr : &*found;
}

bool is_of_this_machine(const std::vector<SocketAddress>& addresses, const std::vector<InterfaceAddress>& carried) {
  return std::ranges::any_of(addresses, [&](const SocketAddress& address) {
    return address.is_loopback() || address.is_wildcard() || carrier_of(address, carried) != nullptr;
  });
}

template <typename T>
void add_once(std::vector<T>& list, const T& value) {
  if (std::ranges::find(list, value) == list.end()) list.push_back(value);
}

bool all_loopback(const std::vector<SocketAddress>& addresses) {
  return std::ranges::all_of(addresses, &SocketAddress::is_loopback);
}

std::string list_hosts(const std::vector<SocketAddress>& addresses) {
  std::vector<std::string> hosts;
  for (const SocketAddress& address : addresses) hosts.push_back(address.host());
  return fmt::format("{}", fmt::join(hosts, ", "));
}

std::string list_carried(const std::vector<InterfaceAddress>& carried) {
  std::vector<std::string> list;
  for (const InterfaceAddress& each : carried)
    if (!each.address.is_loopback()) list.push_back(fmt::format("{} ({})", each.address.host(), each.interface));
  return list.empty() ? "none" : fmt::format("{}", fmt::join(list, ", "));
}

// UCX takes the first address that an interface has in the family.
std::string remark_on(const InterfaceAddress& ours, const std::vector<InterfaceAddress>& carried) {
  const auto first = std::ranges::find_if(carried, [&](const InterfaceAddress& each) {
    return each.interface == ours.interface && each.address.family() == ours.address.family();
  });
  if (first->address.has_host_of(ours.address)) return {};
  return fmt::format("data goes over {}, the first address of {}, not over {}: the other nodes must reach both",
                     first->address.host(), ours.interface, ours.address.host());
}

// Whether the routes decide something: a node that listens on an address of a real interface needs none.
bool needs_routes(const std::vector<SocketAddress>& own, const std::vector<InterfaceAddress>& carried) {
  return std::ranges::none_of(own, [&](const SocketAddress& address) {
    const InterfaceAddress* carrier = carrier_of(address, carried);
    return carrier != nullptr && !carrier->is_loopback_interface;
  });
}

// Opens what this machine carries of `addresses`, all at one port.
Status open_listeners(const std::vector<SocketAddress>& addresses, std::vector<FileDescriptor>& listeners) {
  Status not_ours;
  for (const SocketAddress& address : addresses) {
    const uint16_t port = listeners.empty() ? address.port() : local_port(listeners.front());
    FileDescriptor listener;
    Status status = listen_on(address.with_port(port), listener);
    if (status.ok()) {
      listeners.push_back(std::move(listener));
    } else if (status.code() == StatusCode::kForeign) {
      not_ours = std::move(status);
    } else {
      return status;
    }
  }
  return listeners.empty() ? not_ours : Status();
}

// What the other nodes can't know: the node's own name is nothing but a loopback address.
Status judge_loopback(const NodeAddress& name, const std::vector<SocketAddress>& own, const Routes& routes,
                      std::vector<std::string>& remarks) {
  if (!all_loopback(own) || (routes.sources.empty() && routes.problems.empty())) return {};
  const std::string what = fmt::format("'{}' is {} on this machine, a loopback address that no other machine reaches",
                                       name.host, list_hosts(own));
  if (routes.sources.empty())
    return {StatusCode::kUnreachable,
            fmt::format("{}, and there is no way to the other nodes: {}", what, fmt::join(routes.problems, "; "))};
  remarks.push_back(fmt::format("{}: it listens on {}, too", what, list_hosts(routes.sources)));
  return {};
}

Status listen_at(const NodeAddress& name, const std::vector<SocketAddress>& own, const Routes& routes,
                 const std::vector<InterfaceAddress>& carried, LocalPlace& place) {
  if (Status status = judge_loopback(name, own, routes, place.remarks); !status.ok()) return status;
  const Status status = open_listeners(addresses_to_listen_on(own, routes), place.listeners);
  if (status.ok()) return {};
  const std::string where = own.front().host() == name.host ? "" : fmt::format("'{}': ", name.host);
  if (status.code() != StatusCode::kForeign) return {status.code(), where + status.message()};
  return {StatusCode::kUnreachable,
          fmt::format("{}{}: no network interface of this machine carries it (they carry {}); a node's address is one "
                      "that its machine carries and the others reach (behind NAT, that of a VPN)",
                      where, status.message(), list_carried(carried))};
}

bool is_loopback_name(const NodeAddress& name) {
  if (name.host == "localhost") return true;
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  if (inet_pton(AF_INET, name.host.c_str(), &v4.sin_addr) == 1)
    return SocketAddress(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4)).is_loopback();
  return name.host == "::1";
}

}  // namespace

std::vector<InterfaceAddress> interface_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> list(first, &freeifaddrs);
  std::vector<InterfaceAddress> addresses;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    const int family = each->ifa_addr == nullptr ? AF_UNSPEC : each->ifa_addr->sa_family;
    if ((each->ifa_flags & IFF_UP) == 0 || (family != AF_INET && family != AF_INET6)) continue;
    const std::string label = each->ifa_name;  // an alias is called "eth0:1"
    addresses.push_back(
        {label.substr(0, label.find(':')), (each->ifa_flags & IFF_LOOPBACK) != 0,
         SocketAddress(each->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6))});
  }
  return addresses;
}

Status source_towards(const SocketAddress& other, SocketAddress& source) {
  const FileDescriptor socket(::socket(other.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() || connect(socket.get(), other.get(), other.bytes()) != 0)
    return {StatusCode::kUnreachable, fmt::format("{}: {}", other.host(), std::strerror(errno))};
  source = local_address(socket).with_port(0);
  return {};
}

Routes routes_to_other_machines(const std::vector<NodeAddress>& nodes, int own,
                                const std::vector<InterfaceAddress>& carried) {
  Routes routes;
  for (int node = 0; node < static_cast<int>(nodes.size()); ++node) {
    if (node == own || is_loopback_name(nodes[node])) continue;
    std::vector<SocketAddress> addresses;
    if (const Status found = look_up(nodes[node], addresses); !found.ok()) {
      add_once(routes.problems, found.message());
      continue;
    }
    if (is_of_this_machine(addresses, carried)) continue;
    for (const SocketAddress& address : addresses) {
      SocketAddress source;
      if (const Status status = source_towards(address, source); status.ok()) {
        add_once(routes.sources, source);
      } else {
        add_once(routes.problems, status.message());
      }
    }
  }
  return routes;
}

std::vector<SocketAddress> addresses_to_listen_on(const std::vector<SocketAddress>& own, const Routes& routes) {
  std::vector<SocketAddress> all = own;
  if (!all_loopback(own)) return all;
  for (const SocketAddress& source : routes.sources) add_once(all, source.with_port(own.front().port()));
  return all;
}

DataPath data_path(const std::vector<SocketAddress>& listening, const std::vector<InterfaceAddress>& carried,
                   const Routes& routes, bool has_loopback_peer) {
  std::vector<const InterfaceAddress*> ours;
  for (const std::vector<SocketAddress>* addresses : {&listening, &routes.sources}) {
    for (const SocketAddress& address : *addresses) {
      const InterfaceAddress* carrier = carrier_of(address, carried);
      if (carrier != nullptr && !carrier->is_loopback_interface) ours.push_back(carrier);
    }
    if (!ours.empty()) break;
  }
  const auto loopback = std::ranges::find_if(carried, &InterfaceAddress::is_loopback_interface);
  DataPath path;
  for (const InterfaceAddress* each : ours) add_once(path.interfaces, each->interface);
  // Two nodes must have an interface in common that leads from one to the other.
  if ((ours.empty() ? all_loopback(listening) : has_loopback_peer) && loopback != carried.end())
    add_once(path.interfaces, loopback->interface);
  const auto v4 =
      std::ranges::find_if(ours, [](const InterfaceAddress* each) { return each->address.family() == AF_INET; });
  path.is_ipv6 = !ours.empty() && v4 == ours.end();
  if (!ours.empty()) path.remark = remark_on(path.is_ipv6 ? *ours.front() : **v4, carried);
  return path;
}

Status take_place(const std::vector<NodeAddress>& nodes, int own, FileDescriptor given, LocalPlace& place) {
  const std::vector<InterfaceAddress> carried = interface_addresses();
  std::vector<SocketAddress> listening;
  if (given.valid()) {
    listening.push_back(local_address(given));
    place.listeners.push_back(std::move(given));
  } else if (Status status = look_up(nodes[own], listening); !status.ok()) {
    return status;
  }
  Routes routes;
  if (needs_routes(listening, carried)) routes = routes_to_other_machines(nodes, own, carried);
  if (place.listeners.empty()) {
    if (Status status = listen_at(nodes[own], listening, routes, carried, place); !status.ok()) return status;
  }
  listening.clear();
  for (const FileDescriptor& listener : place.listeners) listening.push_back(local_address(listener));
  place.data = data_path(listening, carried, routes, std::ranges::any_of(nodes, is_loopback_name));
  if (!place.data.remark.empty()) place.remarks.push_back(place.data.remark);
  return {};
}

}  // namespace skippipe
