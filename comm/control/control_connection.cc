#include "comm/control/control_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace skippipe {
namespace {

// Room for the longest frame, so that a reader that takes frames always makes room for the rest of the next one.
constexpr size_t kMaxBufferedBytes = 2 * (kFrameHeaderBytes + kMaxFrameBodyBytes);

Status ended(std::string why) { return {StatusCode::kPeerGone, std::move(why)}; }
bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

ControlConnection::ControlConnection(FileDescriptor socket, std::string where, Clock::time_point now)
    : socket_(std::move(socket)), where_(std::move(where)), opened_(now), last_heard_(now) {}

void ControlConnection::queue(ControlKind kind, std::span<const std::byte> body) { append_frame(out_, kind, body); }

Status ControlConnection::exchange(Clock::time_point now) {
  const Status written = write_queued();
  // Read even after a failed write: the other end may have said why it is leaving.
  Status read = read_available(now);
  open_ = written.ok() && read.ok();
  return written.ok() ? read : written;
}

Status ControlConnection::write_queued() {
  size_t written = 0;
  Status status;
  while (written < out_.size()) {
    const ssize_t count = send(socket_.get(), out_.data() + written, out_.size() - written, MSG_NOSIGNAL);
    if (count < 0) {
      if (!would_block(errno)) status = ended(std::strerror(errno));
      break;
    }
    written += static_cast<size_t>(count);
  }
  out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(written));
  return status;
}

Status ControlConnection::read_available(Clock::time_point now) {
  in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(std::exchange(taken_, 0)));
  const size_t before = in_.size();
  in_.resize(kMaxBufferedBytes);
  const ssize_t count = recv(socket_.get(), in_.data() + before, in_.size() - before, 0);
  const int error = errno;
  in_.resize(before + (count > 0 ? static_cast<size_t>(count) : 0));
  if (count > 0) last_heard_ = now;
  if (count == 0) return ended("the connection was closed");
  if (count < 0 && !would_block(error)) return ended(std::strerror(error));
  return {};
}

Status ControlConnection::take_frame(std::optional<ControlFrame>& frame) {
  frame.reset();
  size_t frame_bytes = 0;
  ControlFrame found;
  Status status = parse_frame(std::span(in_).subspan(taken_), frame_bytes, found);
  if (!status.ok() || frame_bytes == 0) return status;
  taken_ += frame_bytes;
  frame = found;
  return {};
}

void ControlConnection::watch(int poller) {
  const uint32_t wanted = EPOLLIN | (out_.empty() ? 0u : uint32_t{EPOLLOUT});
  if (wanted == watched_) return;
  epoll_event event{};
  event.events = wanted;
  epoll_ctl(poller, watched_ == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, socket_.get(), &event);
  watched_ = wanted;
}

}  // namespace skippipe
