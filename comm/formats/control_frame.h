// The bytes of a control connection (PROTOCOL.md): frames with a checksum, and the hello that opens it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace skippipe {

enum class ControlKind : uint16_t {
  kHello = 1,      // who I am; the first frame in either direction
  kHeartbeat = 2,  // I am still here, and my clock says so much
  kGoodbye = 3,    // I am leaving, after so many messages to you
  kFarewell = 4,   // all these messages were announced here: you may go
  kClock = 5,      // my clock when your heartbeat came
};

inline constexpr size_t kFrameHeaderBytes = 24;
inline constexpr size_t kHelloFixedBytes = 16;
inline constexpr size_t kHeartbeatBytes = 8;  // of the body; likewise below
inline constexpr size_t kGoodbyeBytes = 8;
inline constexpr size_t kClockBytes = 16;
inline constexpr size_t kMaxFrameBodyBytes = 16384;  // UCX worker addresses take a few hundred bytes

struct ControlFrame {
  ControlKind kind = ControlKind::kHeartbeat;
  std::span<const std::byte> body;
};

// Appends a frame. The body has at most kMaxFrameBodyBytes.
void append_frame(std::vector<std::byte>& out, ControlKind kind, std::span<const std::byte> body);

// Reads the frame at the start of hostile bytes. `frame_bytes` is its length, or 0 while it is incomplete; frame.body
// points into `bytes`. kCorrupt as soon as what is there can't be the start of a frame.
[[nodiscard]] Status parse_frame(std::span<const std::byte> bytes, size_t& frame_bytes, ControlFrame& frame);

struct Hello {
  uint64_t run_id = 0;
  uint16_t node = 0;
  uint16_t node_count = 0;
  std::vector<std::byte> worker_address;  // where UCX reaches the sender

  friend bool operator==(const Hello&, const Hello&) = default;
};
std::vector<std::byte> encode_hello(const Hello& hello);
[[nodiscard]] Status decode_hello(std::span<const std::byte> body, Hello& hello);

}  // namespace skippipe
