// What every transport does with a message before it sends it and after its payload arrived.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "comm/formats/message.h"

namespace skippipe {

// The sender's part of a header, common to all the messages of one node.
struct Sender {
  uint64_t run_id = 0;
  int node = 0;
  int node_count = 0;
  bool payload_checksums = true;
};

// Called now and then while a checksum is computed, so that a transport need not stand still meanwhile; may be empty.
using Meanwhile = std::function<void()>;

// `header` with source, run id, sequence and checksum filled in. Throws InternalError if the destination is no other
// node of the run or the payload has not the size in the header.
MessageHeader complete_header(const MessageHeader& header, std::span<const std::byte> payload, const Sender& sender,
                              uint64_t sequence, const Meanwhile& meanwhile = {});

// kCorrupt, naming the message, unless the payload has the checksum in the header (or the header has none).
[[nodiscard]] Status verify_payload(const MessageHeader& header, std::span<const std::byte> payload,
                                    const Meanwhile& meanwhile = {});

}  // namespace skippipe
