#include "comm/transport/payload.h"

#include <fmt/format.h>
#define XXH_STATIC_LINKING_ONLY  // for a state on the stack
#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the widest vectors that the machine has: three times as fast as the plain function
#endif

#include <algorithm>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

uint64_t payload_checksum(std::span<const std::byte> payload, const Meanwhile& meanwhile) {
  if (payload.size() <= kChunkBytes || !meanwhile) return XXH3_64bits(payload.data(), payload.size());
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (; !payload.empty(); payload = payload.subspan(std::min(kChunkBytes, payload.size()))) {
    XXH3_64bits_update(&state, payload.data(), std::min(kChunkBytes, payload.size()));
    meanwhile();
  }
  return XXH3_64bits_digest(&state);
}

}  // namespace

MessageHeader complete_header(const MessageHeader& header, std::span<const std::byte> payload, const Sender& sender,
                              uint64_t sequence, const Meanwhile& meanwhile) {
  SKP_CHECK(header.destination < sender.node_count && header.destination != sender.node,
            "node {} of {} sends to node {}", sender.node, sender.node_count, header.destination);
  SKP_CHECK(payload.size() == header.payload_bytes, "{}: {} bytes of payload, {} in the header", header.to_string(),
            payload.size(), header.payload_bytes);
  MessageHeader complete = header;
  complete.run_id = sender.run_id;
  complete.source = static_cast<uint16_t>(sender.node);
  complete.sequence = sequence;
  complete.payload_checksum = sender.payload_checksums ? payload_checksum(payload, meanwhile) : 0;
  return complete;
}

Status verify_payload(const MessageHeader& header, std::span<const std::byte> payload, const Meanwhile& meanwhile) {
  if (header.payload_checksum == 0) return {};
  const uint64_t found = payload_checksum(payload, meanwhile);
  if (found == header.payload_checksum) return {};
  return {StatusCode::kCorrupt, fmt::format("{}: the payload's checksum is {:016x}, expected {:016x}",
                                            header.to_string(), found, header.payload_checksum)};
}

}  // namespace skippipe
