// Sums over nodes, as state machines that the events of a Transport drive: no threads, no blocking. The owner of the
// transport offers every event to its collectives first and handles what they do not take:
//
//   void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override {
//     if (gradients_.on_received(ticket, header, status)) return;
//     ...
//
// Used on the transport's thread. A message that does not fit (wrong shape, wrong iteration) ends a collective with a
// Status; it then stays ended.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "comm/transport/transport.h"

namespace skippipe {

// Sums an f32 buffer over the replicas of a stage: reduce-scatter, then all-gather, by direct exchange. The buffer is
// cut into one shard per replica; a replica is sent everyone's part of its shard (kReduceScatter), adds them in the
// order of `replicas`, and sends the sum to everyone (kAllGather). So every element is added once, in one order, and
// the replicas end bitwise equal. A message of the next iteration, from a faster replica, is left announced until
// start. Allocates nothing after construction.
class ReplicaSum {
 public:
  // Bytes of scratch memory for a buffer of `elements` floats; it must be aligned for float.
  static size_t scratch_bytes(size_t replica_count, size_t elements);

  // `replicas` are distinct nodes in an order that is the same on each of them, this one among them. Buffer and scratch
  // have the same sizes everywhere and outlive the object. Throws InternalError if an argument breaks this.
  ReplicaSum(Transport& transport, std::vector<int> replicas, std::span<float> buffer, std::span<std::byte> scratch);

  // Begins the sum of what is in the buffer now, which must be left alone until done(). It may be done at once (a
  // single replica). Iterations must rise. A sum must not be under way.
  void start(uint32_t iteration);

  // True if the event was this object's; a replica's failure is never only its own.
  bool on_announced(Ticket ticket, const MessageHeader& header);
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status);
  void on_peer_failed(int node, const Status& status);

  // The buffer has the sum and may be used; or (status() not ok) the sum ended without one.
  bool done() const { return state_ == State::kIdle || state_ == State::kFailed; }
  const Status& status() const { return status_; }

  // The part of the buffer that this replica adds, and whether it has the sum in it already.
  std::span<float> own_shard() const { return shard(own_); }
  bool own_shard_summed() const { return added_ == replicas_.size(); }

 private:
  enum class State { kIdle, kRunning, kFailed };
  struct Held {
    Ticket ticket;
    uint32_t iteration;
  };
  // What this replica exchanges with one of the others in an iteration.
  struct Exchange {
    std::optional<Ticket> scatter_send, scatter_receive;  // under way
    std::optional<Ticket> gather_send, gather_receive;
    std::optional<Ticket> gather_waiting;  // announced; comes in when scatter_send is over
    bool scatter_announced = false, gather_announced = false;
    bool scattered = false, gathered = false;  // received
    bool gather_sent = false;                  // or being sent
    std::optional<Held> scatter_held;          // announced, of an iteration that has not started
  };

  std::optional<size_t> index_of(int node) const;
  std::span<float> shard(size_t replica) const;
  std::span<float> contribution(size_t replica) const;  // where the replica's part of our shard lands
  Ticket send(MessageKind kind, size_t replica, std::span<const float> part);
  Status check(const MessageHeader& header, size_t replica) const;
  void take_held(size_t replica);
  void hold(Ticket ticket, const MessageHeader& header, size_t replica);
  void admit(Ticket ticket, MessageKind kind, size_t replica);
  void let_gather_in(size_t replica);
  void add_what_arrived();
  void finish_if_complete();
  void fail(Status status);

  Transport& transport_;
  const std::vector<int> replicas_;
  const std::span<float> buffer_;
  const std::span<float> scratch_;
  size_t own_ = 0;
  std::vector<Exchange> exchanges_;  // by replica; our own is unused
  State state_ = State::kIdle;
  Status status_;
  std::optional<uint32_t> last_iteration_;
  uint32_t iteration_ = 0;
  size_t added_ = 0;  // contributions 0..added_-1 are in the sum
};

// Every node tells all others a few numbers once per iteration (kStats, or another kind of message of its own), and all
// get the same sums, added in the order of the nodes. Several iterations may be under way: a peer may be up to kReach
// ahead or behind.
class SumExchange {
 public:
  // Nodes that share no path or stage are tied to one another through others only, by at most one iteration per link of
  // that chain; so this serves runs in which no chain is longer.
  static constexpr uint32_t kReach = 31;
  static constexpr size_t kMaxValues = 8;
  struct Result {
    uint32_t iteration;
    std::span<const double> sums;         // value_count of them
    std::span<const double> node_values;  // (node_count, value_count)
  };
  using ResultHandler = std::function<void(const Result&)>;

  // Calls on_result once per iteration, from inside start or on_received; the spans are valid during the call.
  SumExchange(Transport& transport, size_t value_count, uint32_t first_iteration, ResultHandler on_result,
              MessageKind kind = MessageKind::kStats);

  // Tells the others this node's values. Iterations follow one another without gaps.
  void start(uint32_t iteration, std::span<const double> values);

  // True if the event was this object's.
  bool on_announced(Ticket ticket, const MessageHeader& header);
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status);
  void on_peer_failed(int node, const Status& status);

  // False while this node's values are being sent: a result may be there before that ends. The object must stay alive
  // until it is idle or the transport closed.
  bool idle() const;
  // Not ok once an exchange cannot end; no result follows.
  const Status& status() const { return status_; }

 private:
  static constexpr uint32_t kRingSize = 2 * kReach + 2;  // the iterations from next - kReach - 1 to next + kReach
  struct Round {
    std::optional<uint32_t> iteration;
    std::vector<double> values;  // (node_count, value_count)
    std::vector<std::optional<Ticket>> sends, receives;
    std::vector<bool> announced;
    size_t arrived = 0, sends_pending = 0;
    bool reported = false;
  };

  Round* open_round(uint32_t iteration);
  std::span<double> values_of(Round& round, int node);
  Status check(const MessageHeader& header) const;
  void report_if_complete(Round& round);
  void fail(Status status);

  Transport& transport_;
  const size_t value_count_;
  const ResultHandler on_result_;
  const MessageKind kind_;
  std::array<Round, kRingSize> rounds_;
  std::vector<double> sums_;
  uint32_t next_;
  Status status_;
};

}  // namespace skippipe
