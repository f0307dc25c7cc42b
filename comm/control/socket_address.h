// Addresses of nodes as a user writes them, and as the kernel takes them.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace skippipe {

struct NodeAddress {
  std::string host;
  uint16_t port = 0;
  std::string to_string() const;  // "127.0.0.1:7000", "[::1]:7000"
};

// Reads what to_string writes. Throws ConfigError for anything but "host:port" or "[host]:port" with a port above 0.
NodeAddress parse_node_address(std::string_view text);

// An IPv4 or IPv6 address with a port: a value.
class SocketAddress {
 public:
  SocketAddress() = default;  // of no family
  SocketAddress(const sockaddr* address, socklen_t bytes);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t bytes() const { return bytes_; }
  int family() const { return storage_.ss_family; }
  uint16_t port() const;
  SocketAddress with_port(uint16_t port) const;

  bool is_loopback() const;  // 127.0.0.0/8, ::1
  bool is_wildcard() const;  // 0.0.0.0, ::
  bool has_host_of(const SocketAddress& other) const;
  bool operator==(const SocketAddress& other) const { return has_host_of(other) && port() == other.port(); }
  std::string host() const;       // "10.0.0.1", "fe80::1%eth0"
  std::string to_string() const;  // as NodeAddress

 private:
  const sockaddr_in& v4() const { return reinterpret_cast<const sockaddr_in&>(storage_); }
  const sockaddr_in6& v6() const { return reinterpret_cast<const sockaddr_in6&>(storage_); }

  sockaddr_storage storage_{};
  socklen_t bytes_ = 0;
};

// All that a name stands for, IPv4 and IPv6, in the system's order of preference, each once. kUnreachable says why
// there is nothing. May block for as long as the system's resolver does.
[[nodiscard]] Status look_up(const NodeAddress& name, std::vector<SocketAddress>& addresses);

}  // namespace skippipe
