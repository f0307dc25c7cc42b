// Records every message that a node sends and receives, whoever in the node it is for.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "comm/transport/transport.h"
#include "engine/trace/trace.h"

namespace skippipe {

// How far node 0's clock was ahead of ours at a time of ours.
struct ClockSample {
  int64_t at_ns = 0;
  ClockOffset offset;
};

// Decorates a transport, which must outlive it and be used only through it; likewise the tracer.
class TracedTransport final : public Transport, private TransportListener {
 public:
  TracedTransport(Transport& inner, Tracer& tracer);
  ~TracedTransport() override;

  int node() const override { return inner_.node(); }
  int node_count() const override { return inner_.node_count(); }
  void set_listener(TransportListener* listener) override { listener_ = listener; }
  Ticket send(const MessageHeader& header, std::span<const std::byte> payload) override;
  void receive(Ticket ticket, std::span<std::byte> destination) override;
  void run_once(Clock::time_point deadline) override;
  std::optional<ClockOffset> clock_offset(int peer) const override { return inner_.clock_offset(peer); }
  void wake() override { inner_.wake(); }
  Status close(std::chrono::milliseconds limit) override;

  // As soon as the clocks were compared, and now; empty if they never were.
  std::vector<ClockSample> clock_samples() const;

 private:
  struct Transfer {
    MessageHeader header;
    Clock::time_point start;
  };
  struct Arrival {
    Clock::time_point announced, let_in;
  };

  void on_announced(Ticket ticket, const MessageHeader& header) override;
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override;
  void on_sent(Ticket ticket, const Status& status) override;
  void on_peer_failed(int node, const Status& status) override;
  void on_peer_left(int node) override;
  std::optional<ClockSample> sample() const;

  Transport& inner_;
  Tracer& tracer_;
  TransportListener* listener_ = nullptr;
  std::map<Ticket, Transfer> sending_;
  std::map<Ticket, Arrival> arriving_;
  std::optional<ClockSample> first_;
};

}  // namespace skippipe
