#include "comm/point_to_point/documents.h"

#include <fmt/format.h>

#include <array>

#include "base/error.h"

namespace skippipe {

Documents::Documents(Transport& transport, Handler on_document)
    : transport_(transport),
      on_document_(std::move(on_document)),
      incoming_(static_cast<size_t>(transport.node_count())) {}

void Documents::send(int node, std::string text) {
  SKP_CHECK(text.size() <= kMaxBytes, "a document of {} bytes", text.size());
  MessageHeader header;
  header.kind = MessageKind::kDocument;
  header.destination = static_cast<uint16_t>(node);
  set_payload(header, WireDtype::kBytes, std::array{static_cast<int64_t>(text.size())});
  auto held = std::make_unique<std::string>(std::move(text));
  const Ticket ticket = transport_.send(header, std::as_bytes(std::span(*held)));
  outgoing_.emplace(ticket, std::move(held));
}

bool Documents::on_announced(Ticket ticket, const MessageHeader& header) {
  if (header.kind != MessageKind::kDocument) return false;
  if (header.dtype != WireDtype::kBytes || header.payload_bytes > kMaxBytes) {
    status_ = {StatusCode::kCorrupt, fmt::format("{}: {} bytes, expected a text of at most {}", header.to_string(),
                                                 header.payload_bytes, kMaxBytes)};
    return true;
  }
  Incoming& incoming = incoming_[header.source];
  incoming.waiting.push_back({ticket, header.payload_bytes});
  receive_next(incoming);
  return true;
}

void Documents::receive_next(Incoming& incoming) {
  if (incoming.receiving || incoming.waiting.empty()) return;
  const Announced next = incoming.waiting.front();
  incoming.waiting.pop_front();
  incoming.receiving = true;
  incoming.text.assign(next.bytes, '\0');
  transport_.receive(next.ticket, std::as_writable_bytes(std::span(incoming.text)));
}

bool Documents::on_received(Ticket, const MessageHeader& header, const Status& status) {
  if (header.kind != MessageKind::kDocument) return false;
  Incoming& incoming = incoming_[header.source];
  incoming.receiving = false;
  if (status.ok()) {
    on_document_(header.source, std::move(incoming.text));
  } else if (status_.ok()) {
    status_ = status;
  }
  receive_next(incoming);
  return true;
}

bool Documents::on_sent(Ticket ticket, const Status&) { return outgoing_.erase(ticket) > 0; }

}  // namespace skippipe
