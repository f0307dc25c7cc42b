#include "comm/payload.h"

#include <fmt/format.h>
#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the widest vectors that the machine has: three times as fast as the plain function
#endif

#include "base/error.h"

namespace skippipe {

MessageHeader complete_header(const MessageHeader& header, std::span<const std::byte> payload, const Sender& sender,
                              uint64_t sequence) {
  SKP_CHECK(header.destination < sender.node_count && header.destination != sender.node,
            "node {} of {} sends to node {}", sender.node, sender.node_count, header.destination);
  SKP_CHECK(payload.size() == header.payload_bytes, "{}: {} bytes of payload, {} in the header", header.to_string(),
            payload.size(), header.payload_bytes);
  MessageHeader complete = header;
  complete.run_id = sender.run_id;
  complete.source = static_cast<uint16_t>(sender.node);
  complete.sequence = sequence;
  complete.payload_checksum = sender.payload_checksums ? XXH3_64bits(payload.data(), payload.size()) : 0;
  return complete;
}

Status verify_payload(const MessageHeader& header, std::span<const std::byte> payload) {
  if (header.payload_checksum == 0) return {};
  const uint64_t found = XXH3_64bits(payload.data(), payload.size());
  if (found == header.payload_checksum) return {};
  return {StatusCode::kCorrupt, fmt::format("{}: the payload's checksum is {:016x}, expected {:016x}",
                                            header.to_string(), found, header.payload_checksum)};
}

}  // namespace skippipe
