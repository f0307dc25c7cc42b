#include "engine/trace/traced_transport.h"

#include "comm/control/clock_offset.h"

namespace skippipe {
namespace {

// Documents are of the start, before the iterations.
bool is_traced(const MessageHeader& header) { return header.kind != MessageKind::kDocument; }

}  // namespace

TracedTransport::TracedTransport(Transport& inner, Tracer& tracer) : inner_(inner), tracer_(tracer) {
  inner_.set_listener(this);
}

TracedTransport::~TracedTransport() { inner_.set_listener(nullptr); }

Ticket TracedTransport::send(const MessageHeader& header, std::span<const std::byte> payload) {
  const auto start = Clock::now();
  const Ticket ticket = inner_.send(header, payload);
  sending_[ticket] = {header, start};
  return ticket;
}

void TracedTransport::receive(Ticket ticket, std::span<std::byte> destination) {
  if (const auto found = arriving_.find(ticket); found != arriving_.end()) found->second.let_in = Clock::now();
  inner_.receive(ticket, destination);
}

void TracedTransport::run_once(Clock::time_point deadline) {
  inner_.run_once(deadline);
  if (!first_) first_ = sample();
}

Status TracedTransport::close(std::chrono::milliseconds limit) { return inner_.close(limit); }

std::optional<ClockSample> TracedTransport::sample() const {
  if (node() == 0) return ClockSample{steady_ns(Clock::now()), {}};
  const std::optional<ClockOffset> offset = inner_.clock_offset(0);
  if (!offset) return std::nullopt;
  return ClockSample{steady_ns(Clock::now()), *offset};
}

std::vector<ClockSample> TracedTransport::clock_samples() const {
  if (!first_) return {};
  const std::optional<ClockSample> last = sample();
  return last ? std::vector{*first_, *last} : std::vector{*first_};
}

void TracedTransport::on_announced(Ticket ticket, const MessageHeader& header) {
  const auto now = Clock::now();
  arriving_[ticket] = {now, now};
  if (listener_) listener_->on_announced(ticket, header);
}

void TracedTransport::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (const auto found = arriving_.find(ticket); found != arriving_.end()) {
    if (status.ok() && is_traced(header))
      tracer_.received(header, found->second.announced, found->second.let_in, Clock::now());
    arriving_.erase(found);
  }
  if (listener_) listener_->on_received(ticket, header, status);
}

void TracedTransport::on_sent(Ticket ticket, const Status& status) {
  if (const auto found = sending_.find(ticket); found != sending_.end()) {
    if (status.ok() && is_traced(found->second.header))
      tracer_.sent(found->second.header, found->second.start, Clock::now());
    sending_.erase(found);
  }
  if (listener_) listener_->on_sent(ticket, status);
}

void TracedTransport::on_peer_failed(int node, const Status& status) {
  if (listener_) listener_->on_peer_failed(node, status);
}

void TracedTransport::on_peer_left(int node) {
  if (listener_) listener_->on_peer_left(node);
}

}  // namespace skippipe
