#include "comm/control/socket_address.h"

#include <fmt/format.h>
#include <netdb.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace skippipe {

std::string NodeAddress::to_string() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

NodeAddress parse_node_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const std::string_view port = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  NodeAddress address{std::string(host), 0};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  const bool port_is_good = error == std::errc() && end == port.data() + port.size() && address.port > 0;
  if (!port_is_good || host.empty() || (!bracketed && host.find_first_of("[]:") != std::string_view::npos)) {
    throw ConfigError("address '{}': expected host:port or [host]:port, with a port from 1 to 65535", text);
  }
  return address;
}

SocketAddress::SocketAddress(const sockaddr* address, socklen_t bytes) : bytes_(bytes) {
  SKP_CHECK(bytes <= sizeof(storage_));
  std::memcpy(&storage_, address, bytes);
}

uint16_t SocketAddress::port() const { return ntohs(family() == AF_INET6 ? v6().sin6_port : v4().sin_port); }

SocketAddress SocketAddress::with_port(uint16_t port) const {
  SocketAddress address = *this;
  // The port has the same place in both families.
  reinterpret_cast<sockaddr_in&>(address.storage_).sin_port = htons(port);
  return address;
}

bool SocketAddress::is_loopback() const {
  if (family() == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&v6().sin6_addr);
  return family() == AF_INET && (ntohl(v4().sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
}

bool SocketAddress::is_wildcard() const {
  if (family() == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&v6().sin6_addr);
  return family() == AF_INET && v4().sin_addr.s_addr == INADDR_ANY;
}

bool SocketAddress::has_host_of(const SocketAddress& other) const {
  if (family() != other.family()) return false;
  if (family() != AF_INET6) return v4().sin_addr.s_addr == other.v4().sin_addr.s_addr;
  return IN6_ARE_ADDR_EQUAL(&v6().sin6_addr, &other.v6().sin6_addr) && v6().sin6_scope_id == other.v6().sin6_scope_id;
}

std::string SocketAddress::host() const {
  char text[NI_MAXHOST] = "?";
  getnameinfo(get(), bytes_, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return text;
}

std::string SocketAddress::to_string() const { return NodeAddress{host(), port()}.to_string(); }

Status look_up(const NodeAddress& name, std::vector<SocketAddress>& addresses) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(name.host.c_str(), std::to_string(name.port).c_str(), &hints, &found);
  if (error != 0) {
    return {StatusCode::kUnreachable, fmt::format("can't look up '{}': {}", name.host,
                                                  error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error))};
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  addresses.clear();
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    if (each->ai_family != AF_INET && each->ai_family != AF_INET6) continue;
    const SocketAddress address(each->ai_addr, each->ai_addrlen);
    if (std::ranges::find(addresses, address) == addresses.end()) addresses.push_back(address);
  }
  if (addresses.empty()) return {StatusCode::kUnreachable, fmt::format("'{}' has no IP address", name.host)};
  return {};
}

}  // namespace skippipe
