#include "comm/transport/in_process_transport.h"

#include <fmt/format.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "comm/transport/payload.h"

namespace skippipe {
namespace {

// A message between send and receipt. The sender's buffer may be read only under `mutex` and while `available`, so that
// a sender that goes away takes its buffer with it safely.
struct Parcel {
  MessageHeader header;
  Ticket send_ticket = 0;
  std::mutex mutex;
  bool available = true;
  std::span<const std::byte> payload;

  void revoke() {
    const std::lock_guard lock(mutex);
    available = false;
  }
};
using ParcelPtr = std::shared_ptr<Parcel>;

struct Event {
  enum class Kind { kAnnounced, kReceived, kSent, kPeerFailed, kPeerLeft };
  Kind kind;
  Ticket ticket = 0;
  MessageHeader header{};
  Status status{};
  int peer = -1;
};

}  // namespace

// What the nodes share; its mutex guards the mailboxes. A parcel's mutex is never taken while it is held.
class InProcessNetwork::Hub {
 public:
  enum class State { kOpen, kClosed, kFailed };
  struct Mailbox {
    State state = State::kOpen;
    std::deque<Event> events;
    std::condition_variable news;
    bool woken = false;
    Ticket next_ticket = 1;
    std::map<Ticket, ParcelPtr> outgoing;  // by send ticket: sent by this node, not yet received
    std::map<Ticket, ParcelPtr> incoming;  // by announced ticket: not yet let in
    std::vector<uint64_t> sequences;       // per destination
  };

  Hub(int node_count, uint64_t its_run_id, bool with_checksums)
      : run_id(its_run_id), payload_checksums(with_checksums), boxes(node_count) {
    for (Mailbox& box : boxes) box.sequences.resize(node_count);
  }

  void post(Mailbox& box, Event event) {
    if (box.state == State::kFailed) return;
    box.events.push_back(std::move(event));
    box.news.notify_all();
  }

  void tell_peers(int node, const Event& event) {
    for (size_t peer = 0; peer < boxes.size(); ++peer) {
      if (static_cast<int>(peer) != node && boxes[peer].state == State::kOpen) post(boxes[peer], event);
    }
  }

  // The node will send and receive no more. Returns the parcels that its peers must not read any more.
  std::vector<ParcelPtr> retire(int node, State state, const Status& for_peers) {
    Mailbox& gone = boxes[node];
    gone.state = state;
    std::vector<ParcelPtr> to_revoke;
    for (auto& [ticket, parcel] : gone.outgoing) to_revoke.push_back(parcel);
    gone.outgoing.clear();
    gone.incoming.clear();
    for (Mailbox& peer : boxes) {
      std::erase_if(peer.outgoing, [&](const auto& entry) {
        if (entry.second->header.destination != node) return false;
        post(peer, {.kind = Event::Kind::kSent, .ticket = entry.first, .status = for_peers});
        return true;
      });
    }
    gone.news.notify_all();
    return to_revoke;
  }

  const uint64_t run_id;
  const bool payload_checksums;
  std::mutex mutex;
  std::deque<Mailbox> boxes;
  std::vector<std::unique_ptr<Node>> nodes;
};

class InProcessNetwork::Node : public Transport {
 public:
  Node(Hub& hub, int node) : hub_(hub), box_(hub.boxes[node]), node_(node) {}

  int node() const override { return node_; }
  int node_count() const override { return static_cast<int>(hub_.boxes.size()); }
  void set_listener(TransportListener* listener) override { listener_ = listener; }

  Ticket send(const MessageHeader& header, std::span<const std::byte> payload) override {
    const Sender sender{hub_.run_id, node_, node_count(), hub_.payload_checksums};
    auto parcel = std::make_shared<Parcel>();
    parcel->header = complete_header(header, payload, sender, sequence_of(header.destination));
    parcel->payload = payload;

    const std::lock_guard lock(hub_.mutex);
    const Ticket ticket = box_.next_ticket++;
    parcel->send_ticket = ticket;
    Hub::Mailbox& peer = hub_.boxes[header.destination];
    if (box_.state != Hub::State::kOpen || peer.state != Hub::State::kOpen) {
      const Status gone(StatusCode::kPeerGone, fmt::format("node {} is gone", header.destination));
      hub_.post(box_, {.kind = Event::Kind::kSent, .ticket = ticket, .status = gone});
      return ticket;
    }
    ++box_.sequences[header.destination];
    const Ticket announced = peer.next_ticket++;
    box_.outgoing.emplace(ticket, parcel);
    peer.incoming.emplace(announced, parcel);
    hub_.post(peer, {.kind = Event::Kind::kAnnounced, .ticket = announced, .header = parcel->header});
    return ticket;
  }

  void receive(Ticket ticket, std::span<std::byte> destination) override {
    const ParcelPtr parcel = take_incoming(ticket);
    if (!parcel) return;  // this node has failed
    const MessageHeader& header = parcel->header;
    SKP_CHECK(destination.size() == header.payload_bytes, "{}: received into {} bytes, expected {}", header.to_string(),
              destination.size(), header.payload_bytes);
    Status status = copy_payload(*parcel, destination);
    const std::lock_guard lock(hub_.mutex);
    Hub::Mailbox& sender = hub_.boxes[header.source];
    if (sender.outgoing.erase(parcel->send_ticket) > 0) {
      hub_.post(sender, {.kind = Event::Kind::kSent, .ticket = parcel->send_ticket});
    }
    hub_.post(box_, {.kind = Event::Kind::kReceived, .ticket = ticket, .header = header, .status = std::move(status)});
  }

  void run_once(Clock::time_point deadline) override {
    std::deque<Event> events;
    {
      std::unique_lock lock(hub_.mutex);
      box_.news.wait_until(lock, deadline, [&] { return box_.woken || !box_.events.empty(); });
      box_.woken = false;
      events.swap(box_.events);
    }
    for (const Event& event : events) report(event);
  }

  std::optional<ClockOffset> clock_offset(int) const override { return ClockOffset{}; }

  void wake() override {
    const std::lock_guard lock(hub_.mutex);
    box_.woken = true;
    box_.news.notify_all();
  }

  Status close(std::chrono::milliseconds limit) override {
    const auto deadline = Clock::now() + limit;
    while (pending_sends() > 0 && Clock::now() < deadline) run_once(deadline);
    run_once(Clock::now());  // a send that completed meanwhile is still to be reported
    std::vector<ParcelPtr> revoked;
    {
      const std::lock_guard lock(hub_.mutex);
      if (box_.state != Hub::State::kOpen) return {};
      revoked = hub_.retire(node_, Hub::State::kClosed,
                            Status(StatusCode::kPeerGone, fmt::format("node {} has said goodbye", node_)));
      hub_.tell_peers(node_, {.kind = Event::Kind::kPeerLeft, .peer = node_});
    }
    for (const ParcelPtr& parcel : revoked) {
      parcel->revoke();
      if (listener_)
        listener_->on_sent(parcel->send_ticket, Status(StatusCode::kCancelled, "the transport was closed"));
    }
    if (revoked.empty()) return {};
    return {StatusCode::kTimeout, fmt::format("node {} closed with {} messages not received after {} ms", node_,
                                              revoked.size(), limit.count())};
  }

 private:
  uint64_t sequence_of(int destination) const {
    return destination < node_count() ? box_.sequences[destination] : 0;  // only this node's thread changes it
  }

  size_t pending_sends() {
    const std::lock_guard lock(hub_.mutex);
    return box_.outgoing.size();
  }

  ParcelPtr take_incoming(Ticket ticket) {
    const std::lock_guard lock(hub_.mutex);
    if (box_.state != Hub::State::kOpen) return nullptr;
    const auto found = box_.incoming.find(ticket);
    SKP_CHECK(found != box_.incoming.end(),
              "node {} receives message {}, which is not announced or was received before", node_, ticket);
    ParcelPtr parcel = found->second;
    box_.incoming.erase(found);
    return parcel;
  }

  static Status copy_payload(Parcel& parcel, std::span<std::byte> destination) {
    {
      const std::lock_guard lock(parcel.mutex);
      if (!parcel.available) {
        return {StatusCode::kPeerGone,
                fmt::format("{}: node {} is gone", parcel.header.to_string(), parcel.header.source)};
      }
      if (!destination.empty()) std::memcpy(destination.data(), parcel.payload.data(), destination.size());
    }
    return verify_payload(parcel.header, destination);
  }

  void report(const Event& event) {
    if (!listener_) return;
    switch (event.kind) {
      case Event::Kind::kAnnounced:
        return listener_->on_announced(event.ticket, event.header);
      case Event::Kind::kReceived:
        return listener_->on_received(event.ticket, event.header, event.status);
      case Event::Kind::kSent:
        return listener_->on_sent(event.ticket, event.status);
      case Event::Kind::kPeerFailed:
        return listener_->on_peer_failed(event.peer, event.status);
      case Event::Kind::kPeerLeft:
        return listener_->on_peer_left(event.peer);
    }
  }

  Hub& hub_;
  Hub::Mailbox& box_;
  const int node_;
  TransportListener* listener_ = nullptr;
};

InProcessNetwork::InProcessNetwork(int node_count, uint64_t run_id, bool payload_checksums) {
  SKP_CHECK(node_count > 0 && node_count <= 65536, "{} nodes", node_count);
  hub_ = std::make_unique<Hub>(node_count, run_id, payload_checksums);
  for (int node = 0; node < node_count; ++node) hub_->nodes.push_back(std::make_unique<Node>(*hub_, node));
}

InProcessNetwork::~InProcessNetwork() = default;

Transport& InProcessNetwork::transport(int node) { return *hub_->nodes.at(node); }

void InProcessNetwork::fail(int node, const std::string& why) {
  const Status status(StatusCode::kPeerGone, fmt::format("node {} failed: {}", node, why));
  std::vector<ParcelPtr> revoked;
  {
    const std::lock_guard lock(hub_->mutex);
    if (hub_->boxes.at(node).state != Hub::State::kOpen) return;
    revoked = hub_->retire(node, Hub::State::kFailed, status);
    hub_->boxes[node].events.clear();
    hub_->tell_peers(node, {.kind = Event::Kind::kPeerFailed, .status = status, .peer = node});
  }
  for (const ParcelPtr& parcel : revoked) parcel->revoke();
}

}  // namespace skippipe
