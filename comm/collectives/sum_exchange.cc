#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "comm/collectives/collectives.h"

namespace skippipe {

SumExchange::SumExchange(Transport& transport, size_t value_count, uint32_t first_iteration, ResultHandler on_result,
                         MessageKind kind)
    : transport_(transport),
      value_count_(value_count),
      on_result_(std::move(on_result)),
      kind_(kind),
      sums_(value_count),
      next_(first_iteration) {
  SKP_CHECK(value_count > 0 && value_count <= kMaxValues, "{} values", value_count);
  const size_t nodes = transport.node_count();
  for (Round& round : rounds_) {
    round.values.resize(nodes * value_count);
    round.sends.resize(nodes);
    round.receives.resize(nodes);
    round.announced.resize(nodes);
  }
}

std::span<double> SumExchange::values_of(Round& round, int node) {
  return std::span(round.values).subspan(node * value_count_, value_count_);
}

SumExchange::Round* SumExchange::open_round(uint32_t iteration) {
  Round& round = rounds_[iteration % kRingSize];
  if (round.iteration == iteration) return &round;
  if (round.iteration && !(round.reported && round.sends_pending == 0)) {
    fail({StatusCode::kTimeout,
          fmt::format("the sums of iteration {} are still open in iteration {}: a node is more than {} behind",
                      *round.iteration, iteration, kReach)});
    return nullptr;
  }
  round.iteration = iteration;
  std::ranges::fill(round.sends, std::nullopt);
  std::ranges::fill(round.receives, std::nullopt);
  std::fill(round.announced.begin(), round.announced.end(), false);
  round.arrived = round.sends_pending = 0;
  round.reported = false;
  return &round;
}

void SumExchange::start(uint32_t iteration, std::span<const double> values) {
  SKP_CHECK(iteration == next_, "iteration {}, expected {}", iteration, next_);
  SKP_CHECK(values.size() == value_count_, "{} values, expected {}", values.size(), value_count_);
  if (!status_.ok()) return;
  Round* round = open_round(iteration);
  if (!round) return;
  ++next_;
  const int own = transport_.node();
  std::ranges::copy(values, values_of(*round, own).begin());
  ++round->arrived;
  for (int node = 0; node < transport_.node_count(); ++node) {
    if (node == own) continue;
    MessageHeader header;
    header.kind = kind_;
    header.iteration = iteration;
    header.destination = static_cast<uint16_t>(node);
    set_payload(header, WireDtype::kF64, std::array{static_cast<int64_t>(value_count_)});
    round->sends[node] = transport_.send(header, std::as_bytes(values_of(*round, own)));
    ++round->sends_pending;
  }
  report_if_complete(*round);
}

Status SumExchange::check(const MessageHeader& header) const {
  if (header.dtype != WireDtype::kF64 || header.rank != 1 || header.shape[0] != value_count_) {
    return {StatusCode::kCorrupt, fmt::format("{}: its payload is not {} doubles", header.to_string(), value_count_)};
  }
  const int64_t ahead = int64_t{header.iteration} - int64_t{next_};
  if (ahead > int64_t{kReach} || ahead < -int64_t{kReach} - 1) {
    return {StatusCode::kCorrupt,
            fmt::format("{}: this node is at iteration {}, more than {} away", header.to_string(), next_, kReach)};
  }
  return {};
}

bool SumExchange::on_announced(Ticket ticket, const MessageHeader& header) {
  if (header.kind != kind_) return false;
  if (!status_.ok()) return true;
  if (Status status = check(header); !status.ok()) {
    fail(std::move(status));
    return true;
  }
  Round* round = open_round(header.iteration);
  if (!round) return true;
  if (round->announced[header.source]) {
    fail({StatusCode::kCorrupt, fmt::format("{}: sent twice", header.to_string())});
    return true;
  }
  round->announced[header.source] = true;
  round->receives[header.source] = ticket;
  transport_.receive(ticket, std::as_writable_bytes(values_of(*round, header.source)));
  return true;
}

bool SumExchange::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (header.kind != kind_) return false;
  Round& round = rounds_[header.iteration % kRingSize];
  if (round.iteration != header.iteration || round.receives[header.source] != ticket) return false;
  round.receives[header.source].reset();
  if (status.ok()) {
    ++round.arrived;
  } else {
    fail(status);
  }
  report_if_complete(round);
  return true;
}

bool SumExchange::on_sent(Ticket ticket, const Status& status) {
  for (Round& round : rounds_) {
    if (round.sends_pending == 0) continue;
    const auto found = std::ranges::find(round.sends, std::optional(ticket));
    if (found == round.sends.end()) continue;
    found->reset();
    --round.sends_pending;
    if (!status.ok()) fail(status);
    return true;
  }
  return false;
}

void SumExchange::on_peer_failed(int, const Status& status) { fail(status); }

bool SumExchange::idle() const {
  return std::ranges::all_of(rounds_, [](const Round& round) { return round.sends_pending == 0; });
}

void SumExchange::report_if_complete(Round& round) {
  if (round.reported || !status_.ok() || round.arrived < static_cast<size_t>(transport_.node_count())) return;
  round.reported = true;
  std::ranges::fill(sums_, 0.0);
  for (int node = 0; node < transport_.node_count(); ++node) {
    const auto values = values_of(round, node);
    for (size_t i = 0; i < value_count_; ++i) sums_[i] += values[i];
  }
  if (on_result_) on_result_({*round.iteration, sums_, round.values});
}

void SumExchange::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace skippipe
