// Moving messages between the nodes of a run.
//
// A message is first announced with its header; the receiver then says where its payload goes, at once or later, and
// the payload lands there (no copy in between where the network allows it). Messages from one peer are announced in the
// order in which they were sent. Nothing is lost or announced twice; a peer that fails is reported once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/status.h"
#include "comm/control/clock_offset.h"
#include "comm/formats/message.h"

namespace skippipe {

using Ticket = uint64_t;  // names a send or an announced message within one transport

// Called from inside Transport::run_once, on its thread. May call send and receive, but not run_once.
class TransportListener {
 public:
  virtual ~TransportListener() = default;
  virtual void on_announced(Ticket ticket, const MessageHeader& header) = 0;
  // The payload of an announced message is in its place, or (not ok) never will be.
  virtual void on_received(Ticket ticket, const MessageHeader& header, const Status& status) = 0;
  // The buffer of a send may be reused.
  virtual void on_sent(Ticket ticket, const Status& status) = 0;
  virtual void on_peer_failed(int node, const Status& status) = 0;
  // The peer said goodbye: no messages of it follow, and sends to it fail. No failure, unless something was due from
  // it.
  virtual void on_peer_left(int) {}
};

// Used by one thread, but for wake().
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int node() const = 0;
  virtual int node_count() const = 0;
  virtual void set_listener(TransportListener* listener) = 0;

  // Queues a message to header.destination (not this node); source, run_id, sequence and checksum are filled in.
  // `payload` stays alive and unchanged until on_sent.
  virtual Ticket send(const MessageHeader& header, std::span<const std::byte> payload) = 0;
  // Lets an announced message in; `destination` has header.payload_bytes and stays alive until on_received.
  virtual void receive(Ticket ticket, std::span<std::byte> destination) = 0;

  // Waits until there is something to report, wake() was called or the deadline has passed, without burning the
  // processor, and calls the listener for all there is.
  virtual void run_once(Clock::time_point deadline) = 0;
  // Of another node's clock, as far as it is known yet.
  virtual std::optional<ClockOffset> clock_offset(int peer) const = 0;
  // Makes a run_once under way, or the next one, return. From any thread.
  virtual void wake() = 0;
  // Says goodbye to the peers (so that they do not report a failure) and flushes what is queued, within the limit.
  [[nodiscard]] virtual Status close(std::chrono::milliseconds limit) = 0;
};

}  // namespace skippipe
