// TCP sockets for the control connections: non-blocking, owned, IPv4 and IPv6.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/status.h"
#include "comm/control/socket_address.h"

namespace skippipe {

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// A listening socket; port 0 takes a free one. An IPv6 socket takes no IPv4 connections, but for the wildcard's. Not
// ok: kForeign if no interface here carries the address (or the machine has none of its family), kUnreachable else; the
// message says which address and why not ("address in use").
[[nodiscard]] Status listen_on(const SocketAddress& address, FileDescriptor& listener);
// The same at the first address that a name has.
[[nodiscard]] Status listen_on(const NodeAddress& address, FileDescriptor& listener);
SocketAddress local_address(const FileDescriptor& socket);
uint16_t local_port(const FileDescriptor& socket);

// Begins to connect: the socket is writable when that has succeeded or failed.
[[nodiscard]] Status begin_connect(const SocketAddress& address, FileDescriptor& socket);
bool is_connected(const FileDescriptor& socket);

// The next connection in the queue, or an invalid descriptor; `from` is the other end's address.
FileDescriptor accept_from(const FileDescriptor& listener, std::string& from);

}  // namespace skippipe
