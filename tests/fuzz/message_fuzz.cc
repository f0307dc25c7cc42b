// What comes over the network: message headers, control frames, hellos.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "comm/formats/control_frame.h"
#include "comm/formats/message.h"

using namespace skippipe;

namespace {

void read_header(std::span<const std::byte> bytes) {
  MessageHeader header;
  if (!decode_header(bytes, header).ok()) return;
  std::array<std::byte, kMessageHeaderBytes> again{};
  encode_header(header, again);
  if (!std::ranges::equal(again, bytes.first(again.size()))) std::abort();
}

// Checksums keep most damage from the fields behind them: these are any bytes at all, under a sound checksum.
void read_header_of_any_fields(std::span<const std::byte> bytes) {
  MessageHeader header;
  if (bytes.size() < 48) return;
  const auto take = [&](auto& field) {
    std::memcpy(&field, bytes.data(), sizeof(field));
    bytes = bytes.subspan(sizeof(field));
  };
  take(header.kind);
  take(header.dtype);
  take(header.rank);
  take(header.shape);
  take(header.payload_bytes);
  take(header.iteration);
  take(header.microbatch);
  std::array<std::byte, kMessageHeaderBytes> encoded{};
  encode_header(header, encoded);
  MessageHeader decoded;
  if (decode_header(encoded, decoded).ok() && !(decoded == header)) std::abort();
}

void read_frames(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    size_t frame_bytes = 0;
    ControlFrame frame;
    if (!parse_frame(bytes, frame_bytes, frame).ok() || frame_bytes == 0) return;
    if (frame_bytes > bytes.size()) std::abort();
    Hello hello;
    if (decode_hello(frame.body, hello).ok() && !std::ranges::equal(encode_hello(hello), frame.body)) std::abort();
    bytes = bytes.subspan(frame_bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  read_header(bytes);
  read_header_of_any_fields(bytes);
  read_frames(bytes);
  Hello hello;
  if (decode_hello(bytes, hello).ok() && !std::ranges::equal(encode_hello(hello), bytes)) std::abort();
  return 0;
}
