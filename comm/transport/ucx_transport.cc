#include "comm/transport/ucx_transport.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <map>

#include "base/error.h"
#include "comm/control/awake_clock.h"
#include "comm/control/control_mesh.h"
#include "comm/control/local_place.h"
#include "comm/transport/payload.h"
#include "comm/transport/ucx_worker.h"

namespace skippipe {
namespace {

// The control connections are served at least this often, however busy UCX is.
constexpr std::chrono::milliseconds kControlInterval{50};
constexpr std::chrono::seconds kWaitingLineInterval{10};
// How far ahead of the next message one from the same peer may be, and how many refused messages are logged.
constexpr uint64_t kMaxEarlyMessages = 1 << 16;
constexpr uint64_t kMaxDropLines = 20;
constexpr int kMaxPurgeCalls = 1000;  // of progress, for cancelled sends to end

struct Event {
  enum class Kind { kAnnounced, kReceived, kSent, kPeerFailed, kPeerLeft };
  Kind kind;
  Ticket ticket = 0;
  MessageHeader header{};
  Status status{};
  int peer = -1;
  std::span<const std::byte> payload{};  // of kReceived, to be verified
};

class UcxTransport final : public Transport, private ControlHandler {
 public:
  UcxTransport(const UcxOptions& options, LocalPlace place)
      : sender_{options.run_id, options.node, static_cast<int>(options.addresses.size()), options.payload_checksums},
        silence_limit_(options.silence_limit),
        logger_(options.logger),
        wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        peers_(options.addresses.size()),
        worker_(options.addresses.size(), &UcxTransport::on_message, this, {place.data.interfaces, place.data.is_ipv6}),
        mesh_({options.run_id, options.node, options.addresses, options.heartbeat_interval, options.silence_limit,
               options.logger},
              std::move(place.listeners), worker_.address(), *this) {
    if (!wake_fd_.valid()) throw RunError("node {}: no event descriptor: {}", options.node, std::strerror(errno));
  }

  ~UcxTransport() override {
    closed_ = true;
    for (int node = 0; node < node_count(); ++node) abandon(node);
  }

  // Until all the nodes have met.
  Status meet(std::chrono::milliseconds limit) {
    Patience patience(limit);
    auto next_line = Clock::now() + kWaitingLineInterval;
    while (!mesh_.complete()) {
      const auto now = Clock::now();
      if (patience.is_over()) {
        return {StatusCode::kUnreachable,
                fmt::format("node {}: not all nodes met within {} ms: {}", node(), limit.count(), mesh_.missing())};
      }
      if (now >= next_line) {
        logger_->info("waiting for {}", mesh_.missing());
        next_line = now + kWaitingLineInterval;
      }
      advance();
      if (Status status = first_failure(); !status.ok()) return status;
      if (!mesh_.complete()) wait(std::min(patience.due(), next_line));
    }
    return first_failure();
  }

  int node() const override { return sender_.node; }
  int node_count() const override { return sender_.node_count; }
  void set_listener(TransportListener* listener) override { listener_ = listener; }
  Ticket send(const MessageHeader& header, std::span<const std::byte> payload) override;
  void receive(Ticket ticket, std::span<std::byte> destination) override;
  void run_once(Clock::time_point deadline) override;
  std::optional<ClockOffset> clock_offset(int peer) const override { return mesh_.clock_offset(peer); }
  void wake() override;
  Status close(std::chrono::milliseconds limit) override;

 private:
  // A send under way; UCX keeps pointers to it until its callback.
  struct Outgoing {
    UcxTransport* owner;
    Ticket ticket;
    int destination;
    std::array<std::byte, kMessageHeaderBytes> header;
  };
  // A message that was announced, or will be when those before it are; `data` is UCX's until it is received.
  struct Incoming {
    MessageHeader header;
    void* data = nullptr;
    bool rendezvous = false;
  };
  // A receipt under way.
  struct Landing {
    UcxTransport* owner;
    Ticket ticket;
    MessageHeader header;
    std::span<std::byte> destination;
    bool abandoned = false;  // reported already; kept because UCX points to it
  };
  struct Peer {
    ucp_ep_h endpoint = nullptr;
    bool is_gone = false;  // failed, left, or dropped by close
    bool left_reported = false;
    bool has_farewell = false;  // it has all our messages
    ucs_status_t ucx_error = UCS_OK;
    uint64_t sent = 0, announced = 0;       // messages: the next sequence numbers
    std::optional<uint64_t> goodbye_count;  // it will send nothing after these
    std::map<uint64_t, Incoming> early;     // by sequence number: wait for those before them
    Clock::time_point early_since{};
  };

  static ucs_status_t on_message(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                 const ucp_am_recv_param_t* param);
  static void on_send_done(void* request, ucs_status_t status, void* outgoing);
  static void on_receive_done(void* request, ucs_status_t status, size_t bytes, void* landing);
  static void on_endpoint_error(void* peer, ucp_ep_h, ucs_status_t status);

  void on_admitted(int node, std::span<const std::byte> worker_address) override;
  void on_goodbye(int node, uint64_t messages_sent) override;
  void on_farewell(int node) override { peers_[node].has_farewell = true; }
  void on_left(int node) override;
  void on_lost(int node, const Status& status) override { fail_peer(node, status); }

  Status check_incoming(std::span<const std::byte> bytes, size_t payload_bytes, MessageHeader& header) const;
  void drop_message(const std::string& why);
  void announce_in_order(int node);
  void finish_send(Outgoing& outgoing, ucs_status_t status);
  void finish_receive(Landing& landing, ucs_status_t status);
  void receive_rendezvous(Ticket ticket, const Incoming& message, std::span<std::byte> destination);
  Status gone(int node) const;
  void fail_peer(int node, const Status& status);
  void abandon(int node);
  void look_for_failures();
  Status first_failure() const;
  void answer_goodbye(int node);
  void report_left(int node);

  void advance();
  void wait(Clock::time_point deadline);
  bool report_events();
  bool everyone_has_all() const;
  void say_goodbye();

  const Sender sender_;
  const std::chrono::milliseconds silence_limit_;
  const Logger logger_;
  const FileDescriptor wake_fd_;
  std::atomic<bool> woken_{false};
  TransportListener* listener_ = nullptr;
  std::deque<Event> events_;
  std::map<Ticket, std::unique_ptr<Outgoing>> outgoing_;
  std::map<Ticket, Incoming> incoming_;  // announced and not yet let in
  std::map<Ticket, std::unique_ptr<Landing>> landing_;
  std::vector<Peer> peers_;
  Ticket next_ticket_ = 1;
  uint64_t dropped_ = 0;
  bool leaving_ = false;  // has said goodbye
  bool closed_ = false;
  Clock::time_point next_control_{};
  const Meanwhile progress_ = [this] { worker_.progress(); };
  UcxWorker worker_;  // behind all that its callbacks touch, so that it is destroyed first
  ControlMesh mesh_;
};

// Sending

Ticket UcxTransport::send(const MessageHeader& header, std::span<const std::byte> payload) {
  const int node = header.destination;
  const uint64_t sequence = node < node_count() ? peers_[node].sent : 0;
  const MessageHeader complete = complete_header(header, payload, sender_, sequence, progress_);
  const Ticket ticket = next_ticket_++;
  Peer& peer = peers_[node];
  if (peer.is_gone || peer.goodbye_count || leaving_) {
    events_.push_back({.kind = Event::Kind::kSent, .ticket = ticket, .status = gone(node)});
    return ticket;
  }
  ++peer.sent;
  auto& outgoing = outgoing_[ticket] = std::make_unique<Outgoing>(Outgoing{this, ticket, node, {}});
  encode_header(complete, outgoing->header);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = &UcxTransport::on_send_done;
  param.user_data = outgoing.get();
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  const ucs_status_ptr_t request = ucp_am_send_nbx(peer.endpoint, 0, outgoing->header.data(), kMessageHeaderBytes,
                                                   payload.data(), payload.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) finish_send(*outgoing, UCS_PTR_STATUS(request));
  return ticket;
}

void UcxTransport::on_send_done(void* request, ucs_status_t status, void* outgoing) {
  auto& send = *static_cast<Outgoing*>(outgoing);
  send.owner->finish_send(send, status);
  ucp_request_free(request);
}

void UcxTransport::finish_send(Outgoing& outgoing, ucs_status_t status) {
  Event event{.kind = Event::Kind::kSent, .ticket = outgoing.ticket};
  if (status != UCS_OK) {
    event.status = closed_ ? Status(StatusCode::kCancelled, "the transport was closed") : gone(outgoing.destination);
  }
  events_.push_back(std::move(event));
  outgoing_.erase(outgoing.ticket);
}

// Receiving

ucs_status_t UcxTransport::on_message(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                      const ucp_am_recv_param_t* param) {
  auto& transport = *static_cast<UcxTransport*>(self);
  if (transport.closed_) return UCS_OK;  // UCX releases the data
  Incoming message;
  const std::span<const std::byte> header_span(static_cast<const std::byte*>(header), header_bytes);
  if (const Status status = transport.check_incoming(header_span, bytes, message.header); !status.ok()) {
    transport.drop_message(status.message());
    return UCS_OK;
  }
  message.rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  const bool keep = message.rendezvous || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) != 0;
  if (keep) message.data = data;
  Peer& peer = transport.peers_[message.header.source];
  if (peer.early.empty()) peer.early_since = transport.mesh_.awake_time();
  peer.early.emplace(message.header.sequence, message);
  transport.announce_in_order(message.header.source);
  return keep ? UCS_INPROGRESS : UCS_OK;
}

Status UcxTransport::check_incoming(std::span<const std::byte> bytes, size_t payload_bytes,
                                    MessageHeader& header) const {
  if (Status status = decode_header(bytes, header); !status.ok()) return status;
  const auto refuse = [&](StatusCode code, std::string why) { return Status(code, header.to_string() + ": " + why); };
  if (header.run_id != sender_.run_id) {
    return refuse(StatusCode::kForeign, fmt::format("of run {:016x}, this is {:016x}", header.run_id, sender_.run_id));
  }
  if (header.source >= node_count() || header.source == node() || header.destination != node()) {
    return refuse(StatusCode::kForeign, fmt::format("this is node {} of {}", node(), node_count()));
  }
  if (payload_bytes != header.payload_bytes) {
    return refuse(StatusCode::kCorrupt,
                  fmt::format("{} bytes of payload, expected {}", payload_bytes, header.payload_bytes));
  }
  const Peer& peer = peers_[header.source];
  if (peer.is_gone || peer.goodbye_count.value_or(~uint64_t{0}) <= header.sequence) {
    return refuse(StatusCode::kPeerGone, "its sender has gone");
  }
  if (header.sequence < peer.announced || header.sequence - peer.announced >= kMaxEarlyMessages ||
      peer.early.contains(header.sequence)) {
    return refuse(StatusCode::kCorrupt, fmt::format("number {}, expected {}", header.sequence, peer.announced));
  }
  return {};
}

void UcxTransport::drop_message(const std::string& why) {
  if (++dropped_ > kMaxDropLines) return;
  logger_->warn("dropped a message: {}{}", why, dropped_ == kMaxDropLines ? " (and no further line about this)" : "");
}

void UcxTransport::announce_in_order(int node) {
  Peer& peer = peers_[node];
  for (auto next = peer.early.begin(); next != peer.early.end() && next->first == peer.announced;) {
    const Ticket ticket = next_ticket_++;
    events_.push_back({.kind = Event::Kind::kAnnounced, .ticket = ticket, .header = next->second.header});
    incoming_.emplace(ticket, next->second);
    next = peer.early.erase(next);
    ++peer.announced;
    peer.early_since = mesh_.awake_time();
  }
  answer_goodbye(node);
}

void UcxTransport::receive(Ticket ticket, std::span<std::byte> destination) {
  const auto found = incoming_.find(ticket);
  SKP_CHECK(found != incoming_.end(), "node {} receives message {}, which is not announced or was received before",
            node(), ticket);
  const Incoming message = found->second;
  const MessageHeader& header = message.header;
  SKP_CHECK(destination.size() == header.payload_bytes, "{}: received into {} bytes, expected {}", header.to_string(),
            destination.size(), header.payload_bytes);
  incoming_.erase(found);
  if (message.rendezvous) return receive_rendezvous(ticket, message, destination);
  if (!destination.empty()) std::memcpy(destination.data(), message.data, destination.size());
  if (message.data) ucp_am_data_release(worker_.handle(), message.data);
  events_.push_back({.kind = Event::Kind::kReceived, .ticket = ticket, .header = header, .payload = destination});
}

void UcxTransport::receive_rendezvous(Ticket ticket, const Incoming& message, std::span<std::byte> destination) {
  auto& landing = landing_[ticket] = std::make_unique<Landing>(Landing{this, ticket, message.header, destination});
  if (peers_[message.header.source].is_gone) return finish_receive(*landing, UCS_ERR_CONNECTION_RESET);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.recv_am = &UcxTransport::on_receive_done;
  param.user_data = landing.get();
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker_.handle(), message.data, destination.data(), destination.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) finish_receive(*landing, UCS_PTR_STATUS(request));
}

void UcxTransport::on_receive_done(void* request, ucs_status_t status, size_t, void* landing) {
  auto& received = *static_cast<Landing*>(landing);
  received.owner->finish_receive(received, status);
  ucp_request_free(request);
}

void UcxTransport::finish_receive(Landing& landing, ucs_status_t status) {
  if (!landing.abandoned) {
    Event event{.kind = Event::Kind::kReceived, .ticket = landing.ticket, .header = landing.header};
    if (status == UCS_OK && !closed_) {
      event.payload = landing.destination;
    } else {
      event.status = gone(landing.header.source);
    }
    events_.push_back(std::move(event));
  }
  landing_.erase(landing.ticket);
}

// Peers

void UcxTransport::on_admitted(int node, std::span<const std::byte> worker_address) {
  Peer& peer = peers_[node];
  if (Status status = worker_.connect(worker_address, &UcxTransport::on_endpoint_error, &peer, peer.endpoint);
      !status.ok()) {
    fail_peer(node, Status(status.code(), fmt::format("{}: {}", mesh_.describe(node), status.message())));
  }
}

void UcxTransport::on_endpoint_error(void* argument, ucp_ep_h, ucs_status_t status) {
  static_cast<Peer*>(argument)->ucx_error = status;  // look_for_failures() asks the control connection why, first
}

void UcxTransport::look_for_failures() {
  for (int node = 0; node < node_count(); ++node) {
    Peer& peer = peers_[node];
    if (peer.is_gone) continue;
    if (peer.ucx_error != UCS_OK) {
      if (peer.goodbye_count) {
        on_left(node);
      } else {
        fail_peer(node, Status(StatusCode::kPeerGone,
                               fmt::format("{}: UCX: {}", mesh_.describe(node), ucs_status_string(peer.ucx_error))));
      }
    } else if (!peer.early.empty() && mesh_.awake_time() - peer.early_since > silence_limit_) {
      fail_peer(node, Status(StatusCode::kPeerGone,
                             fmt::format("{}: its message {} never came", mesh_.describe(node), peer.announced)));
    }
  }
}

Status UcxTransport::gone(int node) const { return {StatusCode::kPeerGone, fmt::format("node {} is gone", node)}; }

void UcxTransport::fail_peer(int node, const Status& status) {
  if (peers_[node].is_gone) return;
  events_.push_back({.kind = Event::Kind::kPeerFailed, .status = status, .peer = node});
  abandon(node);
}

// Nothing more comes from it or goes to it. UCX ends the sends to it; it does not end all receipts from it.
void UcxTransport::abandon(int node) {
  Peer& peer = peers_[node];
  if (peer.is_gone) return;
  peer.is_gone = true;
  mesh_.drop(node);
  if (peer.endpoint) worker_.close(std::exchange(peer.endpoint, nullptr));
  for (auto& [ticket, landing] : landing_) {
    if (landing->header.source != node || std::exchange(landing->abandoned, true)) continue;
    events_.push_back(
        {.kind = Event::Kind::kReceived, .ticket = ticket, .header = landing->header, .status = gone(node)});
  }
}

Status UcxTransport::first_failure() const {
  for (const Event& event : events_) {
    if (event.kind == Event::Kind::kPeerFailed) {
      return {event.status.code(),
              fmt::format("node {}: before all nodes had met: {}", node(), event.status.message())};
    }
  }
  for (int peer = 0; peer < node_count(); ++peer) {
    if (peers_[peer].is_gone)
      return {StatusCode::kPeerGone, fmt::format("node {} left before all nodes had met", peer)};
  }
  return {};
}

void UcxTransport::on_goodbye(int node, uint64_t messages_sent) {
  peers_[node].goodbye_count = messages_sent;
  answer_goodbye(node);
}

void UcxTransport::answer_goodbye(int node) {
  Peer& peer = peers_[node];
  if (peer.goodbye_count != peer.announced) return;
  mesh_.say_farewell(node);
  report_left(node);
}

void UcxTransport::on_left(int node) {
  abandon(node);
  report_left(node);
}

void UcxTransport::report_left(int node) {
  if (std::exchange(peers_[node].left_reported, true)) return;
  events_.push_back({.kind = Event::Kind::kPeerLeft, .peer = node});
}

// Driving

void UcxTransport::wake() {
  woken_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd_.get(), &one, sizeof(one));  // full is awake, too
}

void UcxTransport::advance() {
  worker_.progress();
  const auto now = Clock::now();
  const bool ucx_failed =
      std::ranges::any_of(peers_, [](const Peer& p) { return p.ucx_error != UCS_OK && !p.is_gone; });
  if (now < next_control_ && !ucx_failed) return;
  mesh_.service();
  look_for_failures();
  next_control_ = now + kControlInterval;
}

void UcxTransport::wait(Clock::time_point deadline) {
  if (!worker_.arm()) return;
  const auto until = std::min(deadline, mesh_.next_timer());
  const auto left = std::max(until - Clock::now(), Clock::duration::zero());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  const timespec timeout{seconds.count(), std::chrono::nanoseconds(left - seconds).count()};
  std::array<pollfd, 3> polled{{{worker_.event_fd(), POLLIN, 0}, {mesh_.fd(), POLLIN, 0}, {wake_fd_.get(), POLLIN, 0}}};
  ppoll(polled.data(), polled.size(), &timeout, nullptr);
  if (polled[1].revents != 0 || Clock::now() >= mesh_.next_timer()) next_control_ = {};
  uint64_t count = 0;
  if (polled[2].revents != 0) [[maybe_unused]]
    const ssize_t bytes = read(wake_fd_.get(), &count, sizeof(count));
}

bool UcxTransport::report_events() {
  std::deque<Event> events;
  events.swap(events_);
  for (const Event& event : events) {
    if (!listener_) continue;
    switch (event.kind) {
      case Event::Kind::kAnnounced:
        listener_->on_announced(event.ticket, event.header);
        break;
      case Event::Kind::kReceived:
        listener_->on_received(
            event.ticket, event.header,
            event.status.ok() ? verify_payload(event.header, event.payload, progress_) : event.status);
        break;
      case Event::Kind::kSent:
        listener_->on_sent(event.ticket, event.status);
        break;
      case Event::Kind::kPeerFailed:
        listener_->on_peer_failed(event.peer, event.status);
        break;
      case Event::Kind::kPeerLeft:
        listener_->on_peer_left(event.peer);
        break;
    }
  }
  return !events.empty();
}

void UcxTransport::run_once(Clock::time_point deadline) {
  while (true) {
    advance();
    const bool reported = report_events();
    const bool was_woken = woken_.exchange(false);
    if (reported || was_woken || Clock::now() >= deadline) return;
    wait(deadline);
  }
}

bool UcxTransport::everyone_has_all() const {
  for (int peer = 0; peer < node_count(); ++peer) {
    if (peer != node() && !peers_[peer].is_gone && !peers_[peer].has_farewell) return false;
  }
  return true;
}

Status UcxTransport::close(std::chrono::milliseconds limit) {
  if (closed_) return {};
  Patience patience(limit);
  while (true) {
    advance();
    report_events();
    if (outgoing_.empty() && !leaving_) say_goodbye();
    if ((leaving_ && everyone_has_all()) || patience.is_over()) break;
    if (events_.empty()) wait(patience.due());
  }
  if (!leaving_) say_goodbye();
  mesh_.service();  // writes what is queued

  const bool complete = outgoing_.empty() && everyone_has_all();
  closed_ = true;
  for (int peer = 0; peer < node_count(); ++peer) abandon(peer);
  for (int i = 0; i < kMaxPurgeCalls && !outgoing_.empty(); ++i) worker_.progress();
  report_events();
  if (complete) return {};
  return {StatusCode::kTimeout,
          fmt::format("node {} closed after {} ms, before its peers had all its messages", node(), limit.count())};
}

void UcxTransport::say_goodbye() {
  leaving_ = true;
  for (int peer = 0; peer < node_count(); ++peer) mesh_.say_goodbye(peer, peers_[peer].sent);
}

}  // namespace

Status connect_ucx(UcxOptions options, std::unique_ptr<Transport>& transport) {
  const size_t nodes = options.addresses.size();
  if (nodes == 0 || nodes > 65535) throw ConfigError("{} node addresses, expected 1 to 65535", nodes);
  if (options.node < 0 || options.node >= static_cast<int>(nodes)) {
    throw ConfigError("node {} of {} nodes", options.node, nodes);
  }
  if (options.heartbeat_interval <= std::chrono::milliseconds{0} ||
      options.silence_limit <= options.heartbeat_interval) {
    throw ConfigError("a heartbeat each {} ms and a silence limit of {} ms, which must be longer",
                      options.heartbeat_interval.count(), options.silence_limit.count());
  }
  LocalPlace place;
  if (Status status = take_place(options.addresses, options.node, std::move(options.listener), place); !status.ok())
    return {status.code(), fmt::format("node {}: {}", options.node, status.message())};
  for (const std::string& remark : place.remarks) options.logger->warn("{}", remark);
  auto connected = std::make_unique<UcxTransport>(options, std::move(place));
  if (Status status = connected->meet(options.connect_limit); !status.ok()) return status;
  transport = std::move(connected);
  return {};
}

}  // namespace skippipe
