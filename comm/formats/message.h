// What travels between nodes. PROTOCOL.md specifies the bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace skippipe {

enum class MessageKind : uint8_t {
  kForward = 1,        // activations to the next visit, or back to the data node for the loss
  kBackward = 2,       // gradients of activations
  kReduceScatter = 3,  // a replica's gradients of the receiver's shard
  kAllGather = 4,      // the sum of the sender's shard
  kStats = 5,          // a node's part of the iteration's gradient norm and loss
  kProbe = 6,          // bytes whose journey is timed; the iteration says how to answer
  kProbeReply = 7,     // the answer
  kDocument = 8,       // text in JSON
  kValidation = 9,     // a node's part of the losses of a validation
};

// Element types on the wire; the values are those of kernels' Dtype, and kF64 and kBytes for messages without tensors.
enum class WireDtype : uint8_t { kF32 = 1, kBf16 = 2, kI32 = 3, kF64 = 4, kBytes = 5 };
constexpr uint64_t wire_dtype_bytes(WireDtype dtype) {
  return dtype == WireDtype::kF64 ? 8 : dtype == WireDtype::kBf16 ? 2 : dtype == WireDtype::kBytes ? 1 : 4;
}

struct MessageHeader {
  uint64_t run_id = 0;
  MessageKind kind = MessageKind::kForward;
  uint32_t iteration = 0;
  uint32_t microbatch = 0;  // of the iteration; 0 for the kinds that have none
  uint16_t source = 0;
  uint16_t destination = 0;
  WireDtype dtype = WireDtype::kF32;
  uint8_t rank = 0;                 // dimensions used, at most 4
  std::array<uint32_t, 4> shape{};  // unused dimensions are 0
  uint64_t payload_bytes = 0;       // product of the shape times the element size
  // Filled in by the transport:
  uint64_t sequence = 0;          // counts the messages from source to destination, from 0
  uint64_t payload_checksum = 0;  // XXH3-64 of the payload; 0 where checksums are off

  friend bool operator==(const MessageHeader&, const MessageHeader&) = default;
  std::string to_string() const;  // "forward of iteration 3, microbatch 5, from node 2 to node 4"
};

// Sets dtype, rank, shape and payload_bytes. shape has at most 4 dimensions, each below 2^32.
void set_payload(MessageHeader& header, WireDtype dtype, std::span<const int64_t> shape);

inline constexpr size_t kMessageHeaderBytes = 96;
void encode_header(const MessageHeader& header, std::span<std::byte, kMessageHeaderBytes> out);
// Treats the bytes as hostile: kCorrupt unless magic, version, header checksum, kind, dtype, rank, shape and
// payload_bytes agree.
[[nodiscard]] Status decode_header(std::span<const std::byte> bytes, MessageHeader& header);

}  // namespace skippipe
