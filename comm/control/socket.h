// TCP sockets for the control connections: non-blocking, owned, IPv4 and IPv6.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace skippipe {

struct NodeAddress {
  std::string host;
  uint16_t port = 0;
  std::string to_string() const;  // "127.0.0.1:7000", "[::1]:7000"
};

// Reads what to_string writes. Throws ConfigError for anything but "host:port" or "[host]:port" with a port above 0.
NodeAddress parse_node_address(std::string_view text);

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

// A listening socket; port 0 takes a free one. kUnreachable says which address and why not ("address in use").
[[nodiscard]] Status listen_on(const NodeAddress& address, FileDescriptor& listener);
uint16_t local_port(const FileDescriptor& socket);

// Begins to connect: the socket is writable when that has succeeded or failed (connect_error). Name look-up may block.
[[nodiscard]] Status begin_connect(const NodeAddress& address, FileDescriptor& socket);
[[nodiscard]] Status connect_error(const FileDescriptor& socket);

// The next connection in the queue, or an invalid descriptor; `from` is the other end's address.
FileDescriptor accept_from(const FileDescriptor& listener, std::string& from);

}  // namespace skippipe
