#include "comm/transport/shaped_transport.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace skippipe {
namespace {

// Our send tickets must differ from the inner transport's tickets of announced messages, which we pass on.
constexpr Ticket kFirstSendTicket = Ticket{1} << 63;

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

ShapedTransport::ShapedTransport(Transport& inner, std::vector<LinkShape> links, double uplink_bytes_per_s)
    : inner_(inner), uplink_bytes_per_s_(uplink_bytes_per_s), next_ticket_(kFirstSendTicket) {
  SKP_CHECK(uplink_bytes_per_s >= 0 && std::isfinite(uplink_bytes_per_s), "uplink of {} bytes/s", uplink_bytes_per_s);
  SKP_CHECK(links.size() == static_cast<size_t>(inner.node_count()), "{} links for {} nodes", links.size(),
            inner.node_count());
  for (const LinkShape& shape : links) {
    SKP_CHECK(shape.latency_s >= 0 && shape.latency_s < 1e6, "latency of {} s", shape.latency_s);
    SKP_CHECK(shape.bandwidth_bytes_per_s >= 0 && std::isfinite(shape.bandwidth_bytes_per_s), "bandwidth of {} bytes/s",
              shape.bandwidth_bytes_per_s);
    links_.push_back({.shape = shape, .free_at = Clock::time_point::min(), .queue = {}});
  }
  inner_.set_listener(this);
}

ShapedTransport::~ShapedTransport() { inner_.set_listener(nullptr); }

Ticket ShapedTransport::send(const MessageHeader& header, std::span<const std::byte> payload) {
  SKP_CHECK(header.destination < links_.size(), "node {} of {}", header.destination, links_.size());
  Link& link = links_[header.destination];
  const Clock::time_point left = occupy(link, static_cast<double>(payload.size()));
  const Ticket ticket = next_ticket_++;
  link.queue.push_back({left + to_duration(link.shape.latency_s), ticket, header, payload});
  return ticket;
}

Clock::time_point ShapedTransport::occupy(Link& link, double bytes) {
  const double bandwidth = link.shape.bandwidth_bytes_per_s;
  const auto start = std::max({Clock::now(), link.free_at, uplink_free_at_});
  link.free_at = start + to_duration(bandwidth > 0 ? bytes / bandwidth : 0);
  if (uplink_bytes_per_s_ == 0) return link.free_at;
  uplink_free_at_ = start + to_duration(bytes / uplink_bytes_per_s_);
  return std::max(link.free_at, uplink_free_at_);
}

void ShapedTransport::release_due(Clock::time_point now) {
  for (Link& link : links_) {
    while (!link.queue.empty() && link.queue.front().release <= now) {
      const Delayed& message = link.queue.front();
      in_flight_.push_back({inner_.send(message.header, message.payload), message.ticket});
      link.queue.pop_front();
    }
  }
}

Clock::time_point ShapedTransport::next_release() const {
  auto next = Clock::time_point::max();
  for (const Link& link : links_) {
    if (!link.queue.empty()) next = std::min(next, link.queue.front().release);
  }
  return next;
}

void ShapedTransport::run_once(Clock::time_point deadline) {
  release_due(Clock::now());
  inner_.run_once(std::min(deadline, next_release()));
  release_due(Clock::now());
}

Status ShapedTransport::close(std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (next_release() != Clock::time_point::max() && Clock::now() < deadline) run_once(deadline);
  size_t cancelled = 0;
  for (Link& link : links_) {
    for (; !link.queue.empty(); ++cancelled) {
      const Ticket ticket = link.queue.front().ticket;
      link.queue.pop_front();
      if (listener_) listener_->on_sent(ticket, Status(StatusCode::kCancelled, "the transport was closed"));
    }
  }
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  Status status = inner_.close(std::max(left, std::chrono::milliseconds{0}));
  if (status.ok() && cancelled > 0) return {StatusCode::kTimeout, "closed with messages still on shaped links"};
  return status;
}

void ShapedTransport::on_announced(Ticket ticket, const MessageHeader& header) {
  if (listener_) listener_->on_announced(ticket, header);
}

void ShapedTransport::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (listener_) listener_->on_received(ticket, header, status);
}

void ShapedTransport::on_sent(Ticket inner_ticket, const Status& status) {
  const auto found = std::ranges::find(in_flight_, inner_ticket, &InFlight::inner_ticket);
  SKP_CHECK(found != in_flight_.end(), "a send that nobody asked for was reported");
  const Ticket ticket = found->ticket;
  *found = in_flight_.back();
  in_flight_.pop_back();
  if (listener_) listener_->on_sent(ticket, status);
}

void ShapedTransport::on_peer_failed(int node, const Status& status) {
  if (listener_) listener_->on_peer_failed(node, status);
}

void ShapedTransport::on_peer_left(int node) {
  if (listener_) listener_->on_peer_left(node);
}

}  // namespace skippipe
