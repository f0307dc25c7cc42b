// Emulates slow links on a fast network: delays what a node sends, by destination.
#pragma once

#include <deque>
#include <vector>

#include "comm/transport/transport.h"

namespace skippipe {

// A directed link. A message starts when the link is free, occupies it for payload bytes / bandwidth, and arrives
// latency_s after that.
struct LinkShape {
  double latency_s = 0;              // with the fixed overhead per message
  double bandwidth_bytes_per_s = 0;  // 0: infinite
};

// Decorates a transport, which must outlive it and be used only through it. Messages reach the inner transport when
// they would have arrived over the link, so what the inner transport itself needs comes on top. Order per peer is kept.
// Accurate to about a millisecond, without busy polling; run_once may return early with nothing to report.
class ShapedTransport final : public Transport, private TransportListener {
 public:
  // links[d] is the link from this node to node d; an uplink of more than 0 is shared by them all: a message starts
  // when its link and the uplink are free, occupies both, and arrives latency_s after it has left both. Throws
  // InternalError unless there is one link per node and all is finite and >= 0.
  ShapedTransport(Transport& inner, std::vector<LinkShape> links, double uplink_bytes_per_s = 0);
  ~ShapedTransport() override;

  int node() const override { return inner_.node(); }
  int node_count() const override { return inner_.node_count(); }
  void set_listener(TransportListener* listener) override { listener_ = listener; }
  Ticket send(const MessageHeader& header, std::span<const std::byte> payload) override;
  void receive(Ticket ticket, std::span<std::byte> destination) override { inner_.receive(ticket, destination); }
  void run_once(Clock::time_point deadline) override;
  std::optional<ClockOffset> clock_offset(int peer) const override { return inner_.clock_offset(peer); }
  void wake() override { inner_.wake(); }
  Status close(std::chrono::milliseconds limit) override;

 private:
  struct Delayed {
    Clock::time_point release;
    Ticket ticket;
    MessageHeader header;
    std::span<const std::byte> payload;
  };
  struct Link {
    LinkShape shape;
    Clock::time_point free_at;
    std::deque<Delayed> queue;  // release times do not fall
  };
  struct InFlight {
    Ticket inner_ticket, ticket;
  };

  void on_announced(Ticket ticket, const MessageHeader& header) override;
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override;
  void on_sent(Ticket inner_ticket, const Status& status) override;
  void on_peer_failed(int node, const Status& status) override;
  void on_peer_left(int node) override;

  Clock::time_point occupy(Link& link, double bytes);  // when a message that is sent now has left
  void release_due(Clock::time_point now);
  Clock::time_point next_release() const;  // time_point::max() if nothing waits

  Transport& inner_;
  TransportListener* listener_ = nullptr;
  std::vector<Link> links_;
  const double uplink_bytes_per_s_;
  Clock::time_point uplink_free_at_ = Clock::time_point::min();
  std::vector<InFlight> in_flight_;  // with the inner transport
  Ticket next_ticket_;
};

}  // namespace skippipe
