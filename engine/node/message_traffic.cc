#include "engine/node/message_traffic.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/elementwise.h"

namespace skippipe {
namespace {

Tensor rows_of(const Tensor& hidden, int64_t first, int64_t count) {
  return hidden.reshape({hidden.dim(0) * hidden.dim(1), hidden.dim(2)}).slice(0, first, count);
}

WireDtype on_the_wire(Dtype dtype) { return dtype == Dtype::kBf16 ? WireDtype::kBf16 : WireDtype::kF32; }

// The peer that sends a visit its message of this phase; -1: nobody does.
int sender_of(const MachineVisit& visit, Phase phase) {
  if (visit.microbatch < 0) return -1;
  if (phase == Phase::kBackward) return visit.forward_only ? -1 : visit.next_node;
  return visit.is_data ? visit.loss_gradient_node : visit.previous_node;
}

uint64_t message_key(uint32_t iteration, uint32_t microbatch, Phase phase) {
  return (uint64_t{iteration} << 32 | microbatch) << 1 | (phase == Phase::kBackward ? 1u : 0u);
}

Phase phase_of(const MessageHeader& header) {
  return header.kind == MessageKind::kForward ? Phase::kForward : Phase::kBackward;
}

// From and to a GPU.
bool needs_transfer(const MessageBuffer& buffer) { return buffer.host.data() != buffer.wire.data(); }
bool needs_cast(const MessageBuffer& buffer) { return buffer.local.data() != buffer.wire.data(); }

}  // namespace

MessageTraffic::MessageTraffic(const MachineConfig& machine, const std::vector<MachineVisit>& visits, Stage& stage,
                               Slab& slab, Transport& transport, Transfers* transfers, const MessageSettings& settings,
                               Events events)
    : visits_(visits),
      stage_(stage),
      transport_(transport),
      transfers_(transfers),
      settings_(settings),
      events_(std::move(events)),
      hidden_{stage.batch().samples * stage.batch().tokens, stage.config().channels},
      buffers_(machine, stage, slab, settings.dtype),
      downloads_(static_cast<size_t>(stage.slots())) {}

Status MessageTraffic::check(const MessageHeader& header) const {
  if (header.kind != MessageKind::kForward && header.kind != MessageKind::kBackward)
    return {StatusCode::kCorrupt, fmt::format("{}: no message of a training run", header.to_string())};
  MessageHeader expected = header;
  set_payload(expected, on_the_wire(settings_.dtype), std::vector<int64_t>{header.shape[0], hidden_[1]});
  if (!(expected == header) || header.shape[0] == 0 || header.shape[0] > hidden_[0] ||
      header.microbatch >= visits_.size())
    return {StatusCode::kCorrupt,
            fmt::format("{}: {} bytes of type {}, expected {} {} or some of these rows, and a microbatch below {}",
                        header.to_string(), header.payload_bytes, static_cast<int>(header.dtype),
                        dtype_name(settings_.dtype), hidden_.to_string(), visits_.size())};
  const int sender = sender_of(visits_[header.microbatch], phase_of(header));
  if (header.source != sender)
    return {StatusCode::kCorrupt, fmt::format("{}: expected from node {}", header.to_string(), sender)};
  return {};
}

Status MessageTraffic::on_announced(Ticket ticket, const MessageHeader& header) {
  if (Status status = check(header); !status.ok()) return status;
  const uint64_t key = message_key(header.iteration, header.microbatch, phase_of(header));
  Arrival& arrival = arrivals_[key];
  const Part part{key, arrival.announced, header.shape[0]};
  if (part.rows > hidden_[0] - part.first)
    return {StatusCode::kCorrupt, fmt::format("{}: {} rows behind {}, expected {} in all", header.to_string(),
                                              part.rows, part.first, hidden_[0])};
  arrival.announced += part.rows;
  if (arrival.let_in) {
    receive_part(ticket, part);
    return {};
  }
  arrival.waiting.emplace_back(ticket, part);
  if (part.first == 0) events_.announced(header.iteration, static_cast<int32_t>(header.microbatch), phase_of(header));
  return {};
}

void MessageTraffic::receive(const Action& action) {
  const auto found =
      arrivals_.find(message_key(action.iteration, static_cast<uint32_t>(action.microbatch), action.phase));
  SKP_CHECK(found != arrivals_.end(), "iteration {}, microbatch {} was not announced", action.iteration,
            action.microbatch);
  Arrival& arrival = found->second;
  arrival.let_in = true;
  arrival.buffer = buffers_.landing(action.phase, action.slot);
  for (const auto& [ticket, part] : std::exchange(arrival.waiting, {})) receive_part(ticket, part);
}

void MessageTraffic::receive_part(Ticket ticket, const Part& part) {
  landing_[ticket] = part;
  const Tensor host = rows_of(arrivals_.at(part.message).buffer.host, part.first, part.rows);
  transport_.receive(ticket, {host.as<std::byte>(), static_cast<size_t>(host.bytes())});
}

Status MessageTraffic::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  const Part part = landing_.at(ticket);
  landing_.erase(ticket);
  if (!status.ok()) return status;
  const MessageBuffer& buffer = arrivals_.at(part.message).buffer;
  if (needs_transfer(buffer))
    transfers_->upload(rows_of(buffer.wire, part.first, part.rows), rows_of(buffer.host, part.first, part.rows),
                       [this, header, part] { part_arrived(header, part); });
  else
    part_arrived(header, part);
  return {};
}

void MessageTraffic::part_arrived(const MessageHeader& header, const Part& part) {
  const auto arrival = arrivals_.find(part.message);
  arrival->second.arrived += part.rows;
  if (arrival->second.arrived < hidden_[0]) return;
  arrivals_.erase(arrival);
  events_.arrived(header.iteration, static_cast<int32_t>(header.microbatch), phase_of(header));
}

void MessageTraffic::send(const Action& action) {
  MessageHeader header;
  header.kind = action.phase == Phase::kForward ? MessageKind::kForward : MessageKind::kBackward;
  header.iteration = action.iteration;
  header.microbatch = static_cast<uint32_t>(action.microbatch);
  header.destination = static_cast<uint16_t>(action.peer);
  const MessageBuffer buffer =
      buffers_.outgoing(visits_[static_cast<size_t>(action.microbatch)], action.phase, action.slot);
  const int64_t rows = hidden_[0];
  if (!needs_transfer(buffer)) return send_rows(header, rows_of(buffer.host, 0, rows), action.tell_sent);
  // Parts leave while those behind them are copied.
  const int64_t most = std::max<int64_t>(1, settings_.part_bytes / (buffer.host.bytes() / rows));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    const Tensor host = rows_of(buffer.host, first, count);
    int& downloads = downloads_[static_cast<size_t>(action.slot)];
    ++downloads;
    const bool tell_sent = action.tell_sent;
    transfers_->download(host, rows_of(buffer.wire, first, count), [this, header, host, tell_sent, &downloads] {
      --downloads;
      send_rows(header, host, tell_sent);
    });
  }
}

void MessageTraffic::send_rows(MessageHeader header, const Tensor& host, bool tell_sent) {
  set_payload(header, on_the_wire(host.dtype()), std::vector<int64_t>{host.dim(0), host.dim(1)});
  const Ticket ticket = transport_.send(header, {host.as<const std::byte>(), static_cast<size_t>(host.bytes())});
  if (tell_sent) departures_[ticket] = {header.iteration, static_cast<int32_t>(header.microbatch), host.dim(0)};
}

void MessageTraffic::on_sent(Ticket ticket) {
  const auto found = departures_.find(ticket);
  if (found == departures_.end()) return;
  const Departure part = found->second;
  departures_.erase(found);
  if ((rows_sent_[part.microbatch] += part.rows) < hidden_[0]) return;
  rows_sent_.erase(part.microbatch);
  events_.sent(part.iteration, part.microbatch, Phase::kForward);
}

void MessageTraffic::hold_back(int slot) {
  if (downloads_[static_cast<size_t>(slot)] > 0) transfers_->hold_back(stage_.context().stream);
}

void MessageTraffic::unpack(Phase phase, int slot) {
  const MessageBuffer buffer = buffers_.landing(phase, slot);
  if (needs_cast(buffer)) cast(stage_.context(), buffer.local, buffer.wire);
}

void MessageTraffic::pack(const MachineVisit& visit, Phase phase, int slot) {
  const MessageBuffer buffer = buffers_.outgoing(visit, phase, slot);
  if (needs_cast(buffer)) cast(stage_.context(), buffer.wire, buffer.local);
}

Tensor MessageTraffic::gradient_of(const MachineVisit& visit, int slot) const {
  return buffers_.outgoing(visit, Phase::kBackward, slot).local;
}

}  // namespace skippipe
