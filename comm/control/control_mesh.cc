#include "comm/control/control_mesh.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "comm/formats/wire.h"

namespace skippipe {
namespace {

// What a machine that is there takes to answer at most: two lost packets.
constexpr std::chrono::seconds kConnectLimit{4};
constexpr size_t kMaxStrangers = 64;

std::vector<std::byte> encode_own_hello(const ControlOptions& options, std::vector<std::byte> worker_address) {
  return encode_hello({options.run_id, static_cast<uint16_t>(options.node),
                       static_cast<uint16_t>(options.addresses.size()), std::move(worker_address)});
}

FileDescriptor spare_descriptor() { return FileDescriptor(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

Status foreign(std::string message) { return {StatusCode::kForeign, std::move(message)}; }

}  // namespace

ControlMesh::ControlMesh(ControlOptions options, std::vector<FileDescriptor> listeners,
                         std::vector<std::byte> worker_address, ControlHandler& handler)
    : options_(std::move(options)),
      own_hello_(encode_own_hello(options_, std::move(worker_address))),
      handler_(handler),
      listeners_(std::move(listeners)),
      spare_(spare_descriptor()),
      poller_(epoll_create1(EPOLL_CLOEXEC)),
      peers_(options_.addresses.begin(), options_.addresses.end()),
      started_(std::chrono::system_clock::now()),
      awake_(2 * options_.heartbeat_interval),  // service() is called each interval, or more often
      next_beat_(awake_.now()) {
  epoll_event event{};
  event.events = EPOLLIN;
  const bool watched = poller_.valid() && std::ranges::all_of(listeners_, [&](const FileDescriptor& listener) {
                         return epoll_ctl(poller_.get(), EPOLL_CTL_ADD, listener.get(), &event) == 0;
                       });
  if (!watched) throw RunError("node {}: can't watch its control port: {}", options_.node, std::strerror(errno));
}

void ControlMesh::service() {
  const auto now = awake_.now();
  forgive_silence(now);
  look_for_machine_sleep(now);
  const int nodes = static_cast<int>(peers_.size());
  connect_due(now);
  accept_strangers(now);
  serve_strangers(now);
  for (int node = 0; node < nodes; ++node) {
    if (!peers_[node].connection) continue;
    peers_[node].admitted ? serve_peer(node, now) : serve_greeting(node, now);
  }
  if (now >= next_beat_) beat(now);
}

Clock::time_point ControlMesh::next_timer() const {
  auto next = next_beat_;
  for (int node = 0; node < static_cast<int>(peers_.size()); ++node) {
    const Peer& peer = peers_[node];
    if (is_up(peer)) {
      next = std::min(next, peer.connection->last_heard() + options_.silence_limit);
    } else if (node < options_.node && !peer.gone) {
      next = std::min(next, peer.connection ? greeting_limit(peer) : peer.attempts.next_try());
    }
  }
  if (!strangers_.empty()) next = std::min(next, strangers_.front()->opened() + options_.silence_limit);
  return awake_.steady(next);
}

bool ControlMesh::complete() const {
  const auto admitted = std::ranges::count_if(peers_, [](const Peer& peer) { return peer.admitted; });
  return admitted + 1 == static_cast<std::ptrdiff_t>(peers_.size());
}

std::string ControlMesh::missing() const {
  const std::time_t start = std::chrono::system_clock::to_time_t(started_);
  std::string list;
  for (int node = 0; node < static_cast<int>(peers_.size()); ++node) {
    if (node == options_.node || peers_[node].admitted) continue;
    const bool is_ours = node < options_.node;
    list += fmt::format("{}{}, {} since {:%H:%M:%S}", list.empty() ? "" : "; ", describe(node),
                        is_ours ? "tried" : "awaited", fmt::localtime(start));
    if (const std::string errors = peers_[node].attempts.errors(); !errors.empty())
      list += fmt::format(" ({})", errors);
  }
  return list;
}

void ControlMesh::connect_due(Clock::time_point now) {
  for (int node = 0; node < options_.node; ++node) {
    const Peer& peer = peers_[node];
    if (!peer.connection && !peer.admitted && now >= peer.attempts.next_try()) connect(node, now);
  }
}

void ControlMesh::connect(int node, Clock::time_point now) {
  Peer& peer = peers_[node];
  const std::optional<SocketAddress> address = peer.attempts.next(now);
  if (!address) return;
  FileDescriptor socket;
  if (const Status status = begin_connect(*address, socket); !status.ok())
    return peer.attempts.failed(status.message(), now);
  peer.connection = std::make_unique<ControlConnection>(std::move(socket), options_.addresses[node].to_string(), now);
  peer.connection->queue(ControlKind::kHello, own_hello_);
  peer.connection->watch(poller_.get());
}

void ControlMesh::accept_strangers(Clock::time_point now) {
  std::string from;
  size_t listener = 0;
  for (size_t i = 0; i < kMaxStrangers; ++i) {
    FileDescriptor socket;
    while (listener < listeners_.size() && !socket.valid()) {
      socket = accept_from(listeners_[listener], from);
      if (socket.valid()) break;
      if (errno == EMFILE || errno == ENFILE) return close_waiting(listeners_[listener]);
      ++listener;
    }
    if (!socket.valid()) return;
    if (strangers_.size() == kMaxStrangers) {
      options_.logger->warn("dropped the connection from {}: more than {} without a hello", strangers_.front()->where(),
                            kMaxStrangers);
      strangers_.erase(strangers_.begin());
    }
    strangers_.push_back(std::make_unique<ControlConnection>(std::move(socket), from, now));
    strangers_.back()->watch(poller_.get());
  }
}

// There is no descriptor for who waits at the port, which would stay readable and keep this thread awake.
void ControlMesh::close_waiting(const FileDescriptor& listener) {
  spare_.reset();
  std::string from;
  accept_from(listener, from);
  spare_ = spare_descriptor();
  if (refusals_told_.insert("descriptors").second)
    options_.logger->warn("closed a connection from {}: no file can be opened any more (ulimit -n)", from);
}

void ControlMesh::serve_strangers(Clock::time_point now) {
  for (auto& stranger : strangers_) {
    std::optional<Hello> hello;
    Status status = read_hello(*stranger, now, hello);
    if (hello) status = check_stranger(*hello);
    if (hello && status.ok() && !stranger->is_open()) status = foreign("it gave up before it was answered");
    if (status.ok() && !hello && now >= stranger->opened() + options_.silence_limit) {
      status = foreign(fmt::format("no hello within {} ms", options_.silence_limit.count()));
    }
    if (!status.ok()) {
      refuse(*stranger, status);
      stranger.reset();
    } else if (hello) {
      stranger->queue(ControlKind::kHello, own_hello_);
      admit(hello->node, std::move(stranger), *hello, now);
    }
  }
  std::erase(strangers_, nullptr);
}

// Who is refused tries again and again: told once.
void ControlMesh::refuse(const ControlConnection& stranger, const Status& status) {
  const std::string host = stranger.where().substr(0, stranger.where().rfind(':'));
  if (refusals_told_.size() >= kMaxStrangers || !refusals_told_.insert(host + status.message()).second) return;
  options_.logger->warn("refused a connection from {}: {}", stranger.where(), status.message());
}

// Not ok: no hello will come. Anything but a hello is refused.
Status ControlMesh::read_hello(ControlConnection& connection, Clock::time_point now,
                               std::optional<Hello>& hello) const {
  const Status ended = connection.exchange(now);
  connection.watch(poller_.get());
  std::optional<ControlFrame> frame;
  if (Status status = connection.take_frame(frame); !status.ok()) return status;
  if (!frame) return ended;
  if (frame->kind != ControlKind::kHello) return foreign("another frame before the hello");
  Hello read;
  if (Status status = decode_hello(frame->body, read); !status.ok()) return status;
  if (read.run_id != options_.run_id) {
    return foreign(fmt::format("a node of run {:016x}, this is run {:016x}", read.run_id, options_.run_id));
  }
  if (read.node_count != peers_.size() || read.node >= peers_.size()) {
    return foreign(
        fmt::format("it is node {} of {}, this run has {} nodes", read.node, read.node_count, peers_.size()));
  }
  hello = std::move(read);
  return {};
}

Status ControlMesh::check_stranger(const Hello& hello) const {
  if (hello.node <= options_.node) {
    return foreign(fmt::format("it says it is node {}, which does not connect to node {}", hello.node, options_.node));
  }
  if (peers_[hello.node].admitted) return foreign(fmt::format("node {} has connected before", hello.node));
  return {};
}

void ControlMesh::serve_greeting(int node, Clock::time_point now) {
  Peer& peer = peers_[node];
  std::optional<Hello> hello;
  Status status = read_hello(*peer.connection, now, hello);
  if (hello && hello->node != node) status = foreign(fmt::format("it says it is node {}", hello->node));
  if (status.ok() && !hello) status = check_greeting(peer, now);
  if (!status.ok()) {
    peer.connection.reset();
    peer.attempts.failed(status.message(), now);
  } else if (hello) {
    admit(node, std::move(peer.connection), *hello, now);
  }
}

// Who has connected waits for a hello as long as its node may take to start, unless it may be another's port.
Clock::time_point ControlMesh::greeting_limit(const Peer& peer) const {
  if (!peer.connection->is_connected()) return peer.connection->opened() + kConnectLimit;
  return peer.attempts.has_others() ? peer.connection->opened() + options_.silence_limit : Clock::time_point::max();
}

Status ControlMesh::check_greeting(const Peer& peer, Clock::time_point now) const {
  if (now < greeting_limit(peer)) return {};
  return {StatusCode::kTimeout, peer.connection->is_connected()
                                    ? fmt::format("no hello within {} ms", options_.silence_limit.count())
                                    : fmt::format("no answer within {} s", kConnectLimit.count())};
}

void ControlMesh::admit(int node, std::unique_ptr<ControlConnection> connection, const Hello& hello,
                        Clock::time_point now) {
  peers_[node].connection = std::move(connection);
  peers_[node].admitted = true;
  handler_.on_admitted(node, hello.worker_address);
  send_heartbeat(node);                                // compares the clocks
  if (peers_[node].connection) serve_peer(node, now);  // sends our hello; what came behind theirs is for us
}

void ControlMesh::serve_peer(int node, Clock::time_point now) {
  const Status ended = peers_[node].connection->exchange(now);
  const Status frames = take_frames(node);
  if (!is_up(peers_[node])) return;  // dropped meanwhile
  ControlConnection& connection = *peers_[node].connection;
  connection.watch(poller_.get());
  if (!frames.ok()) return lose(node, frames.message());
  if (!ended.ok()) return lose(node, ended.message());
  if (now >= connection.last_heard() + options_.silence_limit) {
    lose(node, fmt::format("nothing was heard of it for {} ms", options_.silence_limit.count()));
  }
}

Status ControlMesh::take_frames(int node) {
  Peer& peer = peers_[node];
  while (peer.connection) {
    std::optional<ControlFrame> frame;
    if (Status status = peer.connection->take_frame(frame); !status.ok()) return status;
    if (!frame) return {};
    if (frame->kind == ControlKind::kHello) return foreign("a second hello");
    take_frame(node, *frame);
  }
  return {};
}

void ControlMesh::take_frame(int node, const ControlFrame& frame) {
  Peer& peer = peers_[node];
  const int64_t now_ns = steady_ns(Clock::now());
  switch (frame.kind) {
    case ControlKind::kHello:
      break;
    case ControlKind::kHeartbeat: {
      std::array<std::byte, kClockBytes> body;
      put_field(std::span<std::byte>(body), 0, get_field<int64_t>(frame.body, 0));
      put_field(std::span<std::byte>(body), 8, now_ns);
      return send(node, ControlKind::kClock, body);
    }
    case ControlKind::kClock:
      return peer.clock.answered(get_field<int64_t>(frame.body, 0), get_field<int64_t>(frame.body, 8), now_ns);
    case ControlKind::kGoodbye:
      peer.said_goodbye = true;
      return handler_.on_goodbye(node, get_field<uint64_t>(frame.body, 0));
    case ControlKind::kFarewell:
      return handler_.on_farewell(node);
  }
}

void ControlMesh::lose(int node, const std::string& why) {
  Peer& peer = peers_[node];
  peer.connection.reset();
  peer.gone = true;
  if (peer.said_goodbye) return handler_.on_left(node);
  handler_.on_lost(node, Status(StatusCode::kPeerGone, fmt::format("{}: {}{}", describe(node), why, own_sleep())));
}

// Peers drop a node that was stopped for longer than their limit.
std::string ControlMesh::own_sleep() {
  const auto now = awake_.now();
  const auto tell = [&](const char* what, Clock::duration slept, Clock::time_point woke) {
    const bool is_cause = slept >= options_.heartbeat_interval && now < woke + options_.silence_limit;
    if (!is_cause) return std::string();
    return fmt::format(" ({} for {:.1f} s just before)", what, std::chrono::duration<double>(slept).count());
  };
  return tell("this node itself did not run", awake_.last_sleep(), awake_.woke()) +
         tell("this machine was suspended", last_machine_sleep_, machine_woke_);
}

// Those that slept with us wake one after the other: each has the whole limit again. But not so often that a loop which
// is always late never finds a peer that is gone.
void ControlMesh::forgive_silence(Clock::time_point now) {
  const bool slept = awake_.last_sleep() >= options_.heartbeat_interval && awake_.woke() > forgave_;
  if (!slept || now < forgave_ + 2 * options_.silence_limit) return;
  forgave_ = now;
  for (Peer& peer : peers_)
    if (is_up(peer)) peer.connection->forgive_silence(now);
}

void ControlMesh::look_for_machine_sleep(Clock::time_point now) {
  const Clock::duration slept = machine_sleep() - machine_sleep_;
  if (slept < options_.heartbeat_interval) return;
  machine_sleep_ += slept;
  last_machine_sleep_ = slept;
  machine_woke_ = now;
}

void ControlMesh::drop(int node) {
  peers_[node].connection.reset();
  peers_[node].gone = true;
}

void ControlMesh::say_goodbye(int node, uint64_t messages_sent) {
  std::array<std::byte, kGoodbyeBytes> body;
  put_field(std::span<std::byte>(body), 0, messages_sent);
  send(node, ControlKind::kGoodbye, body);
}

void ControlMesh::say_farewell(int node) { send(node, ControlKind::kFarewell, {}); }

void ControlMesh::send(int node, ControlKind kind, std::span<const std::byte> body) {
  if (!is_up(peers_[node])) return;
  peers_[node].connection->queue(kind, body);
  peers_[node].connection->watch(poller_.get());  // written by the next service()
}

void ControlMesh::send_heartbeat(int node) {
  std::array<std::byte, kHeartbeatBytes> body;
  put_field(std::span<std::byte>(body), 0, steady_ns(Clock::now()));
  send(node, ControlKind::kHeartbeat, body);
}

void ControlMesh::beat(Clock::time_point now) {
  for (int node = 0; node < static_cast<int>(peers_.size()); ++node) send_heartbeat(node);
  next_beat_ = now + options_.heartbeat_interval;
}

std::string ControlMesh::describe(int node) const {
  return fmt::format("node {} at {}", node, options_.addresses[node].to_string());
}

}  // namespace skippipe
