#include "comm/point_to_point/link_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "base/random.h"

namespace skippipe {
namespace {

constexpr int kWarmUps = 3;
constexpr size_t kFewest = 3;             // repetitions on links so slow that more would take too long
constexpr double kSinglyOverStream = 10;  // what the repetitions may take, over the length of a stream
constexpr double kWorthwhileGain = 1.1;   // of the rate, by twice the messages in flight
constexpr size_t kStreamLength = 4;       // at least, over the messages in flight

// Random, lest something on the way compresses it.
std::vector<std::byte> make_content(size_t bytes) {
  std::vector<std::byte> content(bytes);
  Random random(1);
  std::ranges::generate(content, [&] { return static_cast<std::byte>(random()); });
  return content;
}

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

bool is_ours(const MessageHeader& header) {
  return header.kind == MessageKind::kProbe || header.kind == MessageKind::kProbeReply;
}

}  // namespace

std::vector<double> stream_rates(std::span<const double> reply_times_s, int in_flight, size_t bytes, int parts) {
  const auto first = static_cast<size_t>(in_flight);
  SKP_CHECK(in_flight > 0 && parts > 0 && reply_times_s.size() > first, "{} replies with {} in flight",
            reply_times_s.size(), in_flight);
  const size_t counted = reply_times_s.size() - first;
  const size_t count = std::clamp<size_t>(counted / first, 1, static_cast<size_t>(parts));
  const size_t length = counted / count;
  std::vector<double> rates;
  for (size_t part = 0; part < count; ++part) {
    const size_t begin = first + part * length - 1;
    const double seconds = reply_times_s[begin + length] - reply_times_s[begin];
    rates.push_back(static_cast<double>(length * bytes) / std::max(seconds, 1e-9));
  }
  return rates;
}

LinkProbe::LinkProbe(Transport& transport, const LinkProbeSettings& settings)
    : transport_(transport),
      settings_(settings),
      content_(make_content(std::max(settings.message_bytes, kSmallBytes))) {
  SKP_CHECK(settings.message_bytes > 0 && settings.message_bytes <= std::numeric_limits<uint32_t>::max() &&
            settings.repetitions > 0);
}

int LinkProbe::max_in_flight() const {
  return static_cast<int>(std::clamp<size_t>(kMaxBytesInFlight / settings_.message_bytes, 2, kMaxInFlight));
}

Status LinkProbe::measure(int peer, LinkSamples& samples) {
  samples = {};
  if (Status status = measure_singly(peer, kSmallBytes, samples.round_trip_s); !status.ok()) return status;
  if (Status status = measure_singly(peer, settings_.message_bytes, samples.single_s); !status.ok()) return status;
  if (Status status = measure_streams(peer, samples); !status.ok()) return status;
  return measure_stream(peer, Reply::kSame, samples.in_flight, samples.both_ways_bytes_per_s);
}

Status LinkProbe::measure_singly(int peer, size_t bytes, std::vector<double>& seconds) {
  const size_t warm_ups = bytes == kSmallBytes ? kWarmUps : 1;
  const Status status = exchange(peer, {.bytes = bytes,
                                        .reply = Reply::kEmpty,
                                        .in_flight = 1,
                                        .at_least = warm_ups + kFewest,
                                        .at_most = warm_ups + static_cast<size_t>(settings_.repetitions),
                                        .seconds = kSinglyOverStream * settings_.stream_s});
  if (!status.ok()) return status;
  for (const Message& message : std::span(exchange_->messages).subspan(warm_ups))
    seconds.push_back(seconds_between(message.sent, *message.replied));
  return {};
}

Status LinkProbe::measure_stream(int peer, Reply reply, int in_flight, std::vector<double>& rates) {
  const Status status = exchange(peer, {.bytes = settings_.message_bytes,
                                        .reply = reply,
                                        .in_flight = in_flight,
                                        .at_least = kStreamLength * static_cast<size_t>(in_flight),
                                        .at_most = std::numeric_limits<uint32_t>::max(),
                                        .seconds = settings_.stream_s});
  if (!status.ok()) return status;
  rates = stream_rates(exchange_->replies_s, in_flight, settings_.message_bytes, settings_.repetitions);
  return {};
}

Status LinkProbe::measure_streams(int peer, LinkSamples& samples) {
  double best = 0;
  for (int in_flight = 1; in_flight <= max_in_flight(); in_flight *= 2) {
    std::vector<double> rates;
    if (Status status = measure_stream(peer, Reply::kEmpty, in_flight, rates); !status.ok()) return status;
    const double whole = stream_rates(exchange_->replies_s, in_flight, settings_.message_bytes, 1).front();
    if (whole < kWorthwhileGain * best) return {};
    best = whole;
    samples.in_flight = in_flight;
    samples.stream_bytes_per_s = std::move(rates);
  }
  return {};
}

Status LinkProbe::exchange(int peer, const Load& load) {
  const auto start = Clock::now();
  exchange_ = Exchange{.peer = peer,
                       .load = load,
                       .messages = {},
                       .replies_s = {},
                       .start = start,
                       .patience = Patience(settings_.progress_limit, start)};
  while (status_.ok()) {
    const size_t replied = exchange_->replies_s.size();
    const bool enough =
        replied >= load.at_most || (replied >= load.at_least && seconds_between(start, Clock::now()) >= load.seconds);
    size_t under_way = exchange_->messages.size() - replied;
    if (enough && under_way == 0) {
      exchange_->under_way = false;
      return {};
    }
    for (; !enough && under_way < static_cast<size_t>(load.in_flight) && exchange_->messages.size() < load.at_most;
         ++under_way)
      send_next();
    if (exchange_->patience.is_over())
      return {StatusCode::kTimeout,
              fmt::format("node {} has not answered a probe for {} ms", peer, settings_.progress_limit.count())};
    transport_.run_once(exchange_->patience.due());
  }
  return status_;
}

void LinkProbe::send_next() {
  const Load& load = exchange_->load;
  MessageHeader header;
  header.kind = MessageKind::kProbe;
  header.iteration = static_cast<uint32_t>(load.reply);
  header.microbatch = static_cast<uint32_t>(exchange_->messages.size());
  header.destination = static_cast<uint16_t>(exchange_->peer);
  set_payload(header, WireDtype::kBytes, std::array{static_cast<int64_t>(load.bytes)});
  exchange_->messages.push_back({.sent = Clock::now(), .replied = {}});
  sends_.emplace(transport_.send(header, std::span(content_).first(load.bytes)), nullptr);
}

Status LinkProbe::check(const MessageHeader& header) const {
  const auto wrong = [&](const char* expected) {
    return Status(StatusCode::kCorrupt,
                  fmt::format("{}: {} bytes, expected {}", header.to_string(), header.payload_bytes, expected));
  };
  if (header.dtype != WireDtype::kBytes || header.payload_bytes > content_.size() ||
      header.iteration > static_cast<uint32_t>(Reply::kSame))
    return wrong("a probe of this size at most, to be answered in a known way");
  if (header.kind == MessageKind::kProbe) return header.payload_bytes > 0 ? Status() : wrong("some");
  if (!exchange_ || header.source != exchange_->peer || header.microbatch >= exchange_->messages.size() ||
      exchange_->messages[header.microbatch].replied ||
      header.iteration != static_cast<uint32_t>(exchange_->load.reply) ||
      header.payload_bytes != (exchange_->load.reply == Reply::kSame ? exchange_->load.bytes : 0))
    return wrong("a reply to a probe that is under way");
  return {};
}

bool LinkProbe::on_announced(Ticket ticket, const MessageHeader& header) {
  if (!is_ours(header)) return false;
  if (Status status = check(header); !status.ok()) {
    fail(std::move(status));
  } else if (header.payload_bytes == 0) {
    transport_.receive(ticket, {});
  } else {
    waiting_.push_back({ticket, header});
    receive_waiting();
  }
  return true;
}

// The buffers are kept: fresh memory would slow down what is measured.
void LinkProbe::receive_waiting() {
  while (!waiting_.empty()) {
    auto buffer = std::ranges::find_if(buffers_, &Buffer::free);
    if (buffer == buffers_.end()) {
      if (buffers_.size() == static_cast<size_t>(max_in_flight())) return;
      buffer = buffers_.insert(buffers_.end(), {.bytes = std::vector<std::byte>(content_.size()), .receiving = {}});
    }
    const auto [ticket, header] = waiting_.front();
    waiting_.pop_front();
    buffer->free = false;
    buffer->receiving = ticket;
    transport_.receive(ticket, std::span(buffer->bytes).first(header.payload_bytes));
  }
}

bool LinkProbe::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (!is_ours(header)) return false;
  const auto buffer = std::ranges::find(buffers_, std::optional(ticket), &Buffer::receiving);
  if (!status.ok()) fail(status);
  if (status.ok() && header.kind == MessageKind::kProbe && buffer != buffers_.end()) {
    buffer->receiving.reset();
    answer(header, *buffer);
    return true;
  }
  if (status.ok() && header.kind == MessageKind::kProbeReply) take_reply(header);
  if (buffer != buffers_.end()) release(*buffer);
  return true;
}

void LinkProbe::take_reply(const MessageHeader& header) {
  // The exchange may have ended since the announcement.
  if (Status status = check(header); !status.ok()) return fail(std::move(status));
  const auto now = Clock::now();
  exchange_->messages[header.microbatch].replied = now;
  exchange_->replies_s.push_back(seconds_between(exchange_->start, now));
  exchange_->patience.restart(now);
}

void LinkProbe::answer(const MessageHeader& probe, Buffer& buffer) {
  const bool same = probe.iteration == static_cast<uint32_t>(Reply::kSame);
  MessageHeader reply;
  reply.kind = MessageKind::kProbeReply;
  reply.iteration = probe.iteration;
  reply.microbatch = probe.microbatch;
  reply.destination = probe.source;
  const std::array<int64_t, 1> shape = {static_cast<int64_t>(probe.payload_bytes)};
  set_payload(reply, WireDtype::kBytes, same ? std::span<const int64_t>(shape) : std::span<const int64_t>());
  const Ticket ticket = transport_.send(reply, std::span(buffer.bytes).first(reply.payload_bytes));
  sends_.emplace(ticket, same ? &buffer : nullptr);
  if (!same) release(buffer);
}

void LinkProbe::release(Buffer& buffer) {
  buffer.receiving.reset();
  buffer.free = true;
  receive_waiting();
}

bool LinkProbe::on_sent(Ticket ticket, const Status&) {
  const auto found = sends_.find(ticket);
  if (found == sends_.end()) return false;
  Buffer* const buffer = found->second;
  sends_.erase(found);
  if (buffer != nullptr) release(*buffer);
  return true;
}

void LinkProbe::cancel(const Status& status) {
  if (exchange_ && exchange_->under_way) fail(status);
}

void LinkProbe::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace skippipe
