// One TCP connection with its buffers: frames in, frames out, never blocking.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/control/clock_offset.h"
#include "comm/control/socket.h"
#include "comm/formats/control_frame.h"

namespace skippipe {

// Used by one thread. Works on a socket that is still connecting: it just has nothing to read yet.
class ControlConnection {
 public:
  // `where` is the other end, for messages.
  ControlConnection(FileDescriptor socket, std::string where, Clock::time_point now);

  // Queues a frame, for the next exchange.
  void queue(ControlKind kind, std::span<const std::byte> body);
  // Writes what is queued and reads what is there, up to a bound. Not ok: the connection has ended, and why. Frames
  // that were read before that are still to be taken.
  [[nodiscard]] Status exchange(Clock::time_point now);
  // The next whole frame, if there is one; its body is valid until the next call. kCorrupt: no frames can follow.
  [[nodiscard]] Status take_frame(std::optional<ControlFrame>& frame);
  // Has epoll descriptor `poller` report what exchange waits for.
  void watch(int poller);

  const std::string& where() const { return where_; }
  bool is_open() const { return open_; }  // as far as the last exchange saw
  bool is_connected() const { return skippipe::is_connected(socket_); }
  Clock::time_point opened() const { return opened_; }
  Clock::time_point last_heard() const { return last_heard_; }
  void forgive_silence(Clock::time_point now) { last_heard_ = now; }

 private:
  Status write_queued();
  Status read_available(Clock::time_point now);

  FileDescriptor socket_;
  const std::string where_;
  const Clock::time_point opened_;
  Clock::time_point last_heard_;
  std::vector<std::byte> in_, out_;
  bool open_ = true;
  size_t taken_ = 0;  // bytes of in_ that were taken as frames
  uint32_t watched_ = 0;
};

}  // namespace skippipe
