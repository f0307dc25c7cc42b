#include "comm/control/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace skippipe {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Status unreachable(const NodeAddress& address, const char* verb, const char* why) {
  return {StatusCode::kUnreachable, fmt::format("can't {} {}: {}", verb, address.to_string(), why)};
}

Status look_up(const NodeAddress& address, const char* verb, int flags, AddressList& list) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address.port);
  const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) return unreachable(address, verb, error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error));
  list.reset(found);
  return {};
}

FileDescriptor open_socket(const addrinfo& address) {
  return FileDescriptor(socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void set_option(const FileDescriptor& socket, int level, int option) {
  const int on = 1;
  setsockopt(socket.get(), level, option, &on, sizeof(on));
}

}  // namespace

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

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void FileDescriptor::reset() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

Status listen_on(const NodeAddress& address, FileDescriptor& listener) {
  AddressList list(nullptr, &freeaddrinfo);
  if (Status status = look_up(address, "listen on", AI_PASSIVE, list); !status.ok()) return status;
  FileDescriptor socket = open_socket(*list);
  if (!socket.valid()) return unreachable(address, "listen on", std::strerror(errno));
  set_option(socket, SOL_SOCKET, SO_REUSEADDR);
  if (bind(socket.get(), list->ai_addr, list->ai_addrlen) != 0 || listen(socket.get(), SOMAXCONN) != 0) {
    return unreachable(address, "listen on", errno == EADDRINUSE ? "address in use" : std::strerror(errno));
  }
  listener = std::move(socket);
  return {};
}

uint16_t local_port(const FileDescriptor& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6&>(address).sin6_port);
  return ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Status begin_connect(const NodeAddress& address, FileDescriptor& socket) {
  AddressList list(nullptr, &freeaddrinfo);
  if (Status status = look_up(address, "connect to", 0, list); !status.ok()) return status;
  FileDescriptor opened = open_socket(*list);
  if (!opened.valid()) return unreachable(address, "connect to", std::strerror(errno));
  set_option(opened, IPPROTO_TCP, TCP_NODELAY);
  if (connect(opened.get(), list->ai_addr, list->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return unreachable(address, "connect to", std::strerror(errno));
  }
  socket = std::move(opened);
  return {};
}

Status connect_error(const FileDescriptor& socket) {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error == 0) return {};
  return {StatusCode::kUnreachable, std::strerror(error)};
}

FileDescriptor accept_from(const FileDescriptor& listener, std::string& from) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  FileDescriptor socket(
      accept4(listener.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) return socket;
  set_option(socket, IPPROTO_TCP, TCP_NODELAY);
  char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
  getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof(host), port, sizeof(port),
              NI_NUMERICHOST | NI_NUMERICSERV);
  from = fmt::format("{}:{}", host, port);
  return socket;
}

}  // namespace skippipe
