#include "comm/formats/control_frame.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "comm/formats/wire.h"

namespace skippipe {
namespace {

constexpr uint32_t kMagic = 0x43504b53;  // "SKPC"
constexpr uint16_t kVersion = 2;
constexpr size_t kChecksumAt = 16;  // of the bytes before it and of the body

uint64_t frame_checksum(std::span<const std::byte> frame) {
  const std::span<const std::byte> body = frame.subspan(kFrameHeaderBytes);
  return XXH3_64bits_withSeed(body.data(), body.size(), XXH3_64bits(frame.data(), kChecksumAt));
}

// A hello's varies.
size_t body_bytes_of(ControlKind kind) {
  switch (kind) {
    case ControlKind::kHeartbeat:
      return kHeartbeatBytes;
    case ControlKind::kGoodbye:
      return kGoodbyeBytes;
    case ControlKind::kClock:
      return kClockBytes;
    case ControlKind::kHello:
    case ControlKind::kFarewell:
      break;
  }
  return 0;
}

Status corrupt(std::string message) { return {StatusCode::kCorrupt, std::move(message)}; }

}  // namespace

void append_frame(std::vector<std::byte>& out, ControlKind kind, std::span<const std::byte> body) {
  SKP_CHECK(body.size() <= kMaxFrameBodyBytes, "{} bytes of body", body.size());
  const size_t start = out.size();
  out.resize(start + kFrameHeaderBytes + body.size());
  const std::span<std::byte> frame = std::span(out).subspan(start);
  put_field(frame, 0, kMagic);
  put_field(frame, 4, kVersion);
  put_field(frame, 6, kind);
  put_field(frame, 8, static_cast<uint32_t>(body.size()));
  put_field(frame, 12, uint32_t{0});
  std::ranges::copy(body, frame.begin() + kFrameHeaderBytes);
  put_field(frame, kChecksumAt, frame_checksum(frame));
}

Status parse_frame(std::span<const std::byte> bytes, size_t& frame_bytes, ControlFrame& frame) {
  frame_bytes = 0;
  const size_t magic_bytes = std::min(bytes.size(), sizeof(kMagic));
  if (std::memcmp(bytes.data(), &kMagic, magic_bytes) != 0) return corrupt("wrong magic number");
  if (bytes.size() < kFrameHeaderBytes) return {};
  if (const auto version = get_field<uint16_t>(bytes, 4); version != kVersion) {
    return corrupt(fmt::format("version {}, expected {}", version, kVersion));
  }
  const auto kind = get_field<uint16_t>(bytes, 6);
  if (kind < uint16_t(ControlKind::kHello) || kind > uint16_t(ControlKind::kClock)) {
    return corrupt(fmt::format("a frame of kind {}, expected 1 to 5", kind));
  }
  const auto body_bytes = get_field<uint32_t>(bytes, 8);
  if (body_bytes > kMaxFrameBodyBytes) {
    return corrupt(fmt::format("a frame of {} bytes, expected at most {}", body_bytes, kMaxFrameBodyBytes));
  }
  if (get_field<uint32_t>(bytes, 12) != 0) return corrupt("a reserved byte is not 0");
  if (bytes.size() < kFrameHeaderBytes + body_bytes) return {};
  const std::span<const std::byte> whole = bytes.first(kFrameHeaderBytes + body_bytes);
  if (get_field<uint64_t>(whole, kChecksumAt) != frame_checksum(whole)) return corrupt("wrong checksum");
  const size_t expected = body_bytes_of(ControlKind{kind});
  if (ControlKind{kind} != ControlKind::kHello && body_bytes != expected) {
    return corrupt(fmt::format("a frame of kind {} with {} bytes, expected {}", kind, body_bytes, expected));
  }
  frame_bytes = whole.size();
  frame = {ControlKind{kind}, whole.subspan(kFrameHeaderBytes)};
  return {};
}

std::vector<std::byte> encode_hello(const Hello& hello) {
  std::vector<std::byte> body(kHelloFixedBytes + hello.worker_address.size());
  put_field(std::span(body), 0, hello.run_id);
  put_field(std::span(body), 8, hello.node);
  put_field(std::span(body), 10, hello.node_count);
  put_field(std::span(body), 12, static_cast<uint32_t>(hello.worker_address.size()));
  std::ranges::copy(hello.worker_address, body.begin() + kHelloFixedBytes);
  return body;
}

Status decode_hello(std::span<const std::byte> body, Hello& hello) {
  if (body.size() <= kHelloFixedBytes) return corrupt(fmt::format("a hello of {} bytes", body.size()));
  hello.run_id = get_field<uint64_t>(body, 0);
  hello.node = get_field<uint16_t>(body, 8);
  hello.node_count = get_field<uint16_t>(body, 10);
  const std::span<const std::byte> address = body.subspan(kHelloFixedBytes);
  if (get_field<uint32_t>(body, 12) != address.size()) {
    return corrupt(fmt::format("a hello with {} bytes of address, of {} that it names", address.size(),
                               get_field<uint32_t>(body, 12)));
  }
  hello.worker_address.assign(address.begin(), address.end());
  return {};
}

}  // namespace skippipe
