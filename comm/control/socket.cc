#include "comm/control/socket.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace skippipe {
namespace {

Status cannot(StatusCode code, const char* verb, const SocketAddress& address, const char* why) {
  return {code, fmt::format("can't {} {}: {}", verb, address.to_string(), why)};
}

FileDescriptor open_socket(const SocketAddress& address) {
  return FileDescriptor(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void set_option(const FileDescriptor& socket, int level, int option) {
  const int on = 1;
  setsockopt(socket.get(), level, option, &on, sizeof(on));
}

Status cannot_listen(const SocketAddress& address, int error) {
  const bool not_ours = error == EADDRNOTAVAIL || error == EAFNOSUPPORT;
  return cannot(not_ours ? StatusCode::kForeign : StatusCode::kUnreachable, "listen on", address,
                error == EADDRINUSE ? "address in use" : std::strerror(error));
}

}  // namespace

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

Status listen_on(const SocketAddress& address, FileDescriptor& listener) {
  FileDescriptor socket = open_socket(address);
  if (!socket.valid()) return cannot_listen(address, errno);
  set_option(socket, SOL_SOCKET, SO_REUSEADDR);
  if (address.family() == AF_INET6 && !address.is_wildcard()) set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY);
  if (bind(socket.get(), address.get(), address.bytes()) != 0 || listen(socket.get(), SOMAXCONN) != 0) {
    return cannot_listen(address, errno);
  }
  listener = std::move(socket);
  return {};
}

Status listen_on(const NodeAddress& address, FileDescriptor& listener) {
  std::vector<SocketAddress> addresses;
  if (Status status = look_up(address, addresses); !status.ok()) return status;
  return listen_on(addresses.front(), listener);
}

SocketAddress local_address(const FileDescriptor& socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return {};
  return {reinterpret_cast<const sockaddr*>(&address), bytes};
}

uint16_t local_port(const FileDescriptor& socket) { return local_address(socket).port(); }

Status begin_connect(const SocketAddress& address, FileDescriptor& socket) {
  FileDescriptor opened = open_socket(address);
  if (!opened.valid()) return cannot(StatusCode::kUnreachable, "connect to", address, std::strerror(errno));
  set_option(opened, IPPROTO_TCP, TCP_NODELAY);
  if (connect(opened.get(), address.get(), address.bytes()) != 0 && errno != EINPROGRESS) {
    return cannot(StatusCode::kUnreachable, "connect to", address, std::strerror(errno));
  }
  socket = std::move(opened);
  return {};
}

bool is_connected(const FileDescriptor& socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  return getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &bytes) == 0;
}

FileDescriptor accept_from(const FileDescriptor& listener, std::string& from) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  FileDescriptor socket(
      accept4(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) return socket;
  set_option(socket, IPPROTO_TCP, TCP_NODELAY);
  from = SocketAddress(reinterpret_cast<const sockaddr*>(&address), bytes).to_string();
  return socket;
}

}  // namespace skippipe
