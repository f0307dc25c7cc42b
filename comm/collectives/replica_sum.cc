#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "comm/collectives/collectives.h"

namespace skippipe {
namespace {

size_t longest_shard(size_t replicas, size_t elements) { return (elements + replicas - 1) / replicas; }

void add(std::span<float> sum, std::span<const float> a, std::span<const float> b) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = a[i] + b[i];
}

}  // namespace

size_t ReplicaSum::scratch_bytes(size_t replica_count, size_t elements) {
  SKP_CHECK(replica_count > 0);
  return (replica_count - 1) * longest_shard(replica_count, elements) * sizeof(float);
}

ReplicaSum::ReplicaSum(Transport& transport, std::vector<int> replicas, std::span<float> buffer,
                       std::span<std::byte> scratch)
    : transport_(transport),
      replicas_(std::move(replicas)),
      buffer_(buffer),
      scratch_(reinterpret_cast<float*>(scratch.data()), scratch.size() / sizeof(float)),
      exchanges_(replicas_.size()) {
  const auto own = index_of(transport.node());
  SKP_CHECK(own.has_value(), "node {} is none of its stage's replicas", transport.node());
  own_ = *own;
  for (const int node : replicas_) {
    SKP_CHECK(node >= 0 && node < transport.node_count() && std::ranges::count(replicas_, node) == 1,
              "node {} is unknown or twice among the replicas", node);
  }
  SKP_CHECK(longest_shard(replicas_.size(), buffer.size()) < (uint64_t{1} << 32), "{} floats", buffer.size());
  SKP_CHECK(scratch.size() >= scratch_bytes(replicas_.size(), buffer.size()), "{} bytes of scratch", scratch.size());
  SKP_CHECK(reinterpret_cast<uintptr_t>(scratch.data()) % alignof(float) == 0);
}

std::optional<size_t> ReplicaSum::index_of(int node) const {
  const auto found = std::ranges::find(replicas_, node);
  if (found == replicas_.end()) return std::nullopt;
  return static_cast<size_t>(found - replicas_.begin());
}

std::span<float> ReplicaSum::shard(size_t replica) const {
  const size_t base = buffer_.size() / replicas_.size(), longer = buffer_.size() % replicas_.size();
  return buffer_.subspan(replica * base + std::min(replica, longer), base + (replica < longer ? 1 : 0));
}

std::span<float> ReplicaSum::contribution(size_t replica) const {
  const std::span<float> own = shard(own_);
  if (replica == own_) return own;
  return scratch_.subspan((replica < own_ ? replica : replica - 1) * own.size(), own.size());
}

void ReplicaSum::start(uint32_t iteration) {
  if (state_ == State::kFailed) return;
  SKP_CHECK(state_ == State::kIdle, "the sum of iteration {} is under way", iteration_);
  SKP_CHECK(!last_iteration_ || iteration > *last_iteration_, "iteration {} after {}", iteration, *last_iteration_);
  state_ = State::kRunning;
  iteration_ = iteration;
  last_iteration_ = iteration;
  added_ = 0;
  for (size_t r = 0; r < replicas_.size(); ++r) {
    if (r == own_) continue;
    Exchange& exchange = exchanges_[r];
    const auto held = exchange.scatter_held;
    exchange = {};
    exchange.scatter_held = held;
    exchange.scatter_send = send(MessageKind::kReduceScatter, r, shard(r));
  }
  for (size_t r = 0; r < replicas_.size(); ++r) take_held(r);
  add_what_arrived();
  finish_if_complete();
}

void ReplicaSum::take_held(size_t replica) {
  const auto held = std::exchange(exchanges_[replica].scatter_held, std::nullopt);
  if (!held || state_ == State::kFailed) return;
  if (held->iteration != iteration_) {
    return fail({StatusCode::kCorrupt, fmt::format("node {} sums iteration {} while this node sums iteration {}",
                                                   replicas_[replica], held->iteration, iteration_)});
  }
  admit(held->ticket, MessageKind::kReduceScatter, replica);
}

Ticket ReplicaSum::send(MessageKind kind, size_t replica, std::span<const float> part) {
  MessageHeader header;
  header.kind = kind;
  header.iteration = iteration_;
  header.destination = static_cast<uint16_t>(replicas_[replica]);
  set_payload(header, WireDtype::kF32, std::array{static_cast<int64_t>(part.size())});
  return transport_.send(header, std::as_bytes(part));
}

Status ReplicaSum::check(const MessageHeader& header, size_t replica) const {
  const size_t expected = header.kind == MessageKind::kReduceScatter ? shard(own_).size() : shard(replica).size();
  if (header.dtype != WireDtype::kF32 || header.rank != 1 || header.shape[0] != expected) {
    return {StatusCode::kCorrupt, fmt::format("{}: its payload is not {} floats", header.to_string(), expected)};
  }
  if (last_iteration_ && header.iteration < *last_iteration_) {
    return {StatusCode::kCorrupt, fmt::format("{}: iteration {} is over", header.to_string(), header.iteration)};
  }
  return {};
}

bool ReplicaSum::on_announced(Ticket ticket, const MessageHeader& header) {
  if (header.kind != MessageKind::kReduceScatter && header.kind != MessageKind::kAllGather) return false;
  if (state_ == State::kFailed) return true;
  const auto replica = index_of(header.source);
  if (!replica || *replica == own_) {
    fail({StatusCode::kCorrupt, fmt::format("{}: its sender is no other replica of this stage", header.to_string())});
    return true;
  }
  if (Status status = check(header, *replica); !status.ok()) {
    fail(std::move(status));
  } else if (state_ == State::kRunning && header.iteration == iteration_) {
    admit(ticket, header.kind, *replica);
  } else {
    hold(ticket, header, *replica);
  }
  return true;
}

void ReplicaSum::hold(Ticket ticket, const MessageHeader& header, size_t replica) {
  // Only a scatter can come early: a gather needs our own part first. And only one: the next needs our part as well.
  Exchange& exchange = exchanges_[replica];
  const bool is_over = last_iteration_ && header.iteration == *last_iteration_;
  if (is_over || header.kind != MessageKind::kReduceScatter || exchange.scatter_held) {
    return fail({StatusCode::kCorrupt, fmt::format("{}: not expected now", header.to_string())});
  }
  exchange.scatter_held = Held{ticket, header.iteration};
}

void ReplicaSum::admit(Ticket ticket, MessageKind kind, size_t replica) {
  Exchange& exchange = exchanges_[replica];
  bool& announced = kind == MessageKind::kReduceScatter ? exchange.scatter_announced : exchange.gather_announced;
  if (announced) {
    return fail({StatusCode::kCorrupt, fmt::format("node {} sent its part of the sum of iteration {} twice",
                                                   replicas_[replica], iteration_)});
  }
  announced = true;
  if (kind == MessageKind::kReduceScatter) {
    exchange.scatter_receive = ticket;
    transport_.receive(ticket, std::as_writable_bytes(contribution(replica)));
  } else {
    exchange.gather_waiting = ticket;
    let_gather_in(replica);
  }
}

// The sum of a shard lands where our part of it is being sent from: not before that send is over.
void ReplicaSum::let_gather_in(size_t replica) {
  Exchange& exchange = exchanges_[replica];
  if (!exchange.gather_waiting || exchange.scatter_send) return;
  exchange.gather_receive = std::exchange(exchange.gather_waiting, std::nullopt);
  transport_.receive(*exchange.gather_receive, std::as_writable_bytes(shard(replica)));
}

bool ReplicaSum::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  const auto replica = index_of(header.source);
  if (!replica) return false;
  Exchange& exchange = exchanges_[*replica];
  if (exchange.scatter_receive == ticket) {
    exchange.scatter_receive.reset();
    exchange.scattered = status.ok();
  } else if (exchange.gather_receive == ticket) {
    exchange.gather_receive.reset();
    exchange.gathered = status.ok();
  } else {
    return false;
  }
  if (!status.ok()) fail(status);
  add_what_arrived();
  finish_if_complete();
  return true;
}

bool ReplicaSum::on_sent(Ticket ticket, const Status& status) {
  for (size_t r = 0; r < replicas_.size(); ++r) {
    Exchange& exchange = exchanges_[r];
    if (exchange.scatter_send == ticket) {
      exchange.scatter_send.reset();
    } else if (exchange.gather_send == ticket) {
      exchange.gather_send.reset();
    } else {
      continue;
    }
    if (!status.ok()) fail(status);
    if (state_ == State::kRunning) let_gather_in(r);
    finish_if_complete();
    return true;
  }
  return false;
}

void ReplicaSum::on_peer_failed(int node, const Status& status) {
  if (index_of(node)) fail(status);
}

void ReplicaSum::add_what_arrived() {
  // The sum of the parts before our own gathers in the place of the first, then in our own shard of the buffer.
  for (; state_ == State::kRunning && added_ < replicas_.size(); ++added_) {
    const size_t r = added_;
    if (r != own_ && !exchanges_[r].scattered) return;
    if (r == 0) continue;
    add(contribution(r < own_ ? 0 : own_), contribution(r <= own_ ? 0 : own_), contribution(r));
  }
}

void ReplicaSum::finish_if_complete() {
  if (state_ != State::kRunning || added_ < replicas_.size()) return;
  bool complete = true;
  for (size_t r = 0; r < replicas_.size(); ++r) {
    if (r == own_) continue;
    Exchange& exchange = exchanges_[r];
    if (!exchange.gather_sent) {
      exchange.gather_sent = true;
      exchange.gather_send = send(MessageKind::kAllGather, r, shard(own_));
    }
    complete = complete && exchange.gathered && !exchange.scatter_send && !exchange.gather_send;
  }
  if (complete) state_ = State::kIdle;
}

void ReplicaSum::fail(Status status) {
  if (state_ == State::kFailed) return;
  state_ = State::kFailed;
  status_ = std::move(status);
}

}  // namespace skippipe
