#include "comm/formats/message.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "comm/formats/wire.h"

namespace skippipe {
namespace {

// Offsets of the fields; PROTOCOL.md has the same table.
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = 4,
  kHeaderBytesAt = 6,
  kRunIdAt = 8,
  kSequenceAt = 16,
  kPayloadBytesAt = 24,
  kPayloadChecksumAt = 32,
  kIterationAt = 40,
  kMicrobatchAt = 44,
  kSourceAt = 48,
  kDestinationAt = 50,
  kKindAt = 52,
  kDtypeAt = 53,
  kRankAt = 54,
  kShapeAt = 56,
  kHeaderChecksumAt = 88,
};
constexpr uint32_t kMagic = 0x4d504b53;  // "SKPM"
constexpr uint16_t kVersion = 1;

const char* kind_name(MessageKind kind) {
  switch (kind) {
    case MessageKind::kForward:
      return "forward";
    case MessageKind::kBackward:
      return "backward";
    case MessageKind::kReduceScatter:
      return "reduce-scatter";
    case MessageKind::kAllGather:
      return "all-gather";
    case MessageKind::kStats:
      return "stats";
    case MessageKind::kProbe:
      return "probe";
    case MessageKind::kProbeReply:
      return "probe reply";
    case MessageKind::kDocument:
      return "document";
    case MessageKind::kValidation:
      return "validation losses";
  }
  return "unknown kind";
}

bool has_microbatch(MessageKind kind) {
  return kind == MessageKind::kForward || kind == MessageKind::kBackward || kind == MessageKind::kProbe ||
         kind == MessageKind::kProbeReply;
}

// nullopt where the product does not fit.
std::optional<uint64_t> payload_size(WireDtype dtype, std::span<const uint32_t> shape) {
  if (shape.empty()) return 0;
  uint64_t bytes = wire_dtype_bytes(dtype);
  for (const uint32_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, uint64_t{dimension}, &bytes)) return std::nullopt;
  }
  return bytes;
}

Status corrupt(std::string message) { return {StatusCode::kCorrupt, "message header: " + std::move(message)}; }

}  // namespace

std::string MessageHeader::to_string() const {
  const std::string which = has_microbatch(kind) ? fmt::format(", microbatch {}", microbatch) : "";
  return fmt::format("{} of iteration {}{}, from node {} to node {}", kind_name(kind), iteration, which, source,
                     destination);
}

void set_payload(MessageHeader& header, WireDtype dtype, std::span<const int64_t> shape) {
  if (shape.size() > header.shape.size()) throw ShapeError("a message has {} dimensions, at most 4 fit", shape.size());
  header.dtype = dtype;
  header.rank = static_cast<uint8_t>(shape.size());
  header.shape = {};
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0 || shape[i] > std::numeric_limits<uint32_t>::max()) {
      throw ShapeError("dimension {} of a message is {}, expected 0 to 2^32 - 1", i, shape[i]);
    }
    header.shape[i] = static_cast<uint32_t>(shape[i]);
  }
  const auto bytes = payload_size(dtype, std::span(header.shape).first(shape.size()));
  if (!bytes) throw ShapeError("a message of more than 2^64 bytes");
  header.payload_bytes = *bytes;
}

void encode_header(const MessageHeader& header, std::span<std::byte, kMessageHeaderBytes> out) {
  std::ranges::fill(out, std::byte{0});
  put_field(out, kMagicAt, kMagic);
  put_field(out, kVersionAt, kVersion);
  put_field(out, kHeaderBytesAt, static_cast<uint16_t>(kMessageHeaderBytes));
  put_field(out, kRunIdAt, header.run_id);
  put_field(out, kSequenceAt, header.sequence);
  put_field(out, kPayloadBytesAt, header.payload_bytes);
  put_field(out, kPayloadChecksumAt, header.payload_checksum);
  put_field(out, kIterationAt, header.iteration);
  put_field(out, kMicrobatchAt, header.microbatch);
  put_field(out, kSourceAt, header.source);
  put_field(out, kDestinationAt, header.destination);
  put_field(out, kKindAt, header.kind);
  put_field(out, kDtypeAt, header.dtype);
  put_field(out, kRankAt, header.rank);
  put_field(out, kShapeAt, header.shape);
  put_field(out, kHeaderChecksumAt, uint64_t{XXH3_64bits(out.data(), kHeaderChecksumAt)});
}

Status decode_header(std::span<const std::byte> bytes, MessageHeader& header) {
  if (bytes.size() != kMessageHeaderBytes) {
    return corrupt(fmt::format("{} bytes, expected {}", bytes.size(), kMessageHeaderBytes));
  }
  if (get_field<uint32_t>(bytes, kMagicAt) != kMagic) return corrupt("wrong magic number");
  if (const auto version = get_field<uint16_t>(bytes, kVersionAt); version != kVersion) {
    return corrupt(fmt::format("version {}, expected {}", version, kVersion));
  }
  if (get_field<uint64_t>(bytes, kHeaderChecksumAt) != XXH3_64bits(bytes.data(), kHeaderChecksumAt)) {
    return corrupt("wrong checksum");
  }

  MessageHeader read;
  read.run_id = get_field<uint64_t>(bytes, kRunIdAt);
  read.sequence = get_field<uint64_t>(bytes, kSequenceAt);
  read.payload_bytes = get_field<uint64_t>(bytes, kPayloadBytesAt);
  read.payload_checksum = get_field<uint64_t>(bytes, kPayloadChecksumAt);
  read.iteration = get_field<uint32_t>(bytes, kIterationAt);
  read.microbatch = get_field<uint32_t>(bytes, kMicrobatchAt);
  read.source = get_field<uint16_t>(bytes, kSourceAt);
  read.destination = get_field<uint16_t>(bytes, kDestinationAt);
  read.rank = get_field<uint8_t>(bytes, kRankAt);
  read.shape = get_field<std::array<uint32_t, 4>>(bytes, kShapeAt);

  const auto kind = get_field<uint8_t>(bytes, kKindAt);
  if (kind < 1 || kind > uint8_t(MessageKind::kValidation))
    return corrupt(fmt::format("kind {}, expected 1 to 9", kind));
  read.kind = MessageKind{kind};
  const auto dtype = get_field<uint8_t>(bytes, kDtypeAt);
  if (dtype < 1 || dtype > uint8_t(WireDtype::kBytes)) return corrupt(fmt::format("dtype {}, expected 1 to 5", dtype));
  read.dtype = WireDtype{dtype};
  if (read.rank > read.shape.size()) return corrupt(fmt::format("rank {}, expected 0 to 4", read.rank));
  if (std::any_of(read.shape.begin() + read.rank, read.shape.end(), [](uint32_t d) { return d != 0; })) {
    return corrupt(fmt::format("a dimension beyond rank {} is not 0", read.rank));
  }
  const auto expected_bytes = payload_size(read.dtype, std::span(read.shape).first(read.rank));
  if (expected_bytes != read.payload_bytes) {
    return corrupt(fmt::format("{} payload bytes, which is not what its shape needs", read.payload_bytes));
  }

  // The reserved bytes must be what a writer of this version leaves there.
  std::array<std::byte, kMessageHeaderBytes> canonical;
  encode_header(read, canonical);
  if (!std::ranges::equal(bytes, canonical)) return corrupt("a reserved byte is not 0");
  header = read;
  return {};
}

}  // namespace skippipe
