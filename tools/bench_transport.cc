// bench_transport: the UCX transport against plain UCX active messages, between two processes of this machine.
//
// Both use the same settings and transports, sleep while they wait, and do the same work: 16 MiB messages, several in
// flight, one way; and 64 B messages there and back. Verifies before it times; rounds of the rivals alternate.
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "comm/transport/ucx_transport.h"
#include "comm/transport/ucx_worker.h"

namespace skippipe {
namespace {

constexpr size_t kLargeBytes = 16 << 20;
constexpr size_t kSmallBytes = 64;
constexpr size_t kInFlight = 4;
constexpr auto kLimit = std::chrono::seconds(60);

// One end of a link between two processes. Received messages land in turn in kInFlight buffers.
class End {
 public:
  virtual ~End() = default;
  virtual void send(std::span<const std::byte> payload) = 0;
  virtual void step() = 0;  // waits for something to happen, asleep

  template <typename Condition>
  void run_until(Condition condition) {
    const auto deadline = Clock::now() + kLimit;
    while (!condition()) {
      if (Clock::now() > deadline) throw RunError("the other process did not answer within {} s", kLimit.count());
      step();
    }
  }
  std::span<std::byte> landing(size_t index, size_t bytes) {
    return std::span(buffers_[index % kInFlight]).first(bytes);
  }

  size_t sent = 0, announced = 0, received = 0;

 private:
  std::array<std::vector<std::byte>, kInFlight> buffers_ = [] {
    std::array<std::vector<std::byte>, kInFlight> buffers;
    buffers.fill(std::vector<std::byte>(kLargeBytes));
    return buffers;
  }();
};

class TransportEnd final : public End, private TransportListener {
 public:
  explicit TransportEnd(UcxOptions options) : peer_(1 - options.node) {
    if (const Status status = connect_ucx(std::move(options), transport_); !status.ok())
      throw RunError(status.message());
    transport_->set_listener(this);
  }

  void send(std::span<const std::byte> payload) override {
    MessageHeader header;
    header.destination = static_cast<uint16_t>(peer_);
    set_payload(header, WireDtype::kBytes, std::array{static_cast<int64_t>(payload.size())});
    transport_->send(header, payload);
  }
  void step() override { transport_->run_once(Clock::now() + kLimit); }

 private:
  void on_announced(Ticket ticket, const MessageHeader& header) override {
    transport_->receive(ticket, landing(announced++, header.payload_bytes));
  }
  void on_received(Ticket, const MessageHeader&, const Status& status) override {
    if (!status.ok()) throw RunError(status.message());
    ++received;
  }
  void on_sent(Ticket, const Status& status) override {
    if (!status.ok()) throw RunError(status.message());
    ++sent;
  }
  void on_peer_failed(int, const Status& status) override { throw RunError(status.message()); }

  const int peer_;
  std::unique_ptr<Transport> transport_;
};

// The least that does the same with UCX alone: no header checks, no order, no checksums, no heartbeats.
class PlainEnd final : public End {
 public:
  explicit PlainEnd(int socket) : worker_(1, &PlainEnd::on_message, this) {
    const std::vector<std::byte> own = worker_.address();
    const uint32_t own_bytes = static_cast<uint32_t>(own.size());
    uint32_t peer_bytes = 0;
    bool exchanged = write(socket, &own_bytes, 4) == 4 &&
                     write(socket, own.data(), own.size()) == ssize_t(own.size()) &&
                     recv(socket, &peer_bytes, 4, MSG_WAITALL) == 4;
    std::vector<std::byte> peer(peer_bytes);
    exchanged = exchanged && recv(socket, peer.data(), peer.size(), MSG_WAITALL) == ssize_t(peer.size());
    if (!exchanged) throw RunError("the processes could not exchange their addresses");
    const auto ignore = [](void*, ucp_ep_h, ucs_status_t) {};
    if (const Status status = worker_.connect(peer, ignore, nullptr, endpoint_); !status.ok()) {
      throw RunError(status.message());
    }
  }

  void send(std::span<const std::byte> payload) override {
    ucp_request_param_t param = callback_param();
    param.cb.send = [](void* request, ucs_status_t, void* self) {
      ++static_cast<PlainEnd*>(self)->sent;
      ucp_request_free(request);
    };
    const auto request =
        ucp_am_send_nbx(endpoint_, 0, header_.data(), header_.size(), payload.data(), payload.size(), &param);
    if (!UCS_PTR_IS_PTR(request)) ++sent;
  }

  void step() override {
    const size_t before = sent + received;
    while (sent + received == before) {
      if (worker_.progress() || sent + received != before || !worker_.arm()) continue;
      pollfd polled{worker_.event_fd(), POLLIN, 0};
      if (poll(&polled, 1, 60'000) == 0) return;
    }
  }

 private:
  ucp_request_param_t callback_param() {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.user_data = this;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
    return param;
  }

  static ucs_status_t on_message(void* self, const void*, size_t, void* data, size_t bytes,
                                 const ucp_am_recv_param_t* received_param) {
    auto& end = *static_cast<PlainEnd*>(self);
    const std::span<std::byte> destination = end.landing(end.announced++, bytes);
    if ((received_param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
      std::copy_n(static_cast<const std::byte*>(data), bytes, destination.data());
      ++end.received;
      return UCS_OK;
    }
    ucp_request_param_t param = end.callback_param();
    param.cb.recv_am = [](void* request, ucs_status_t, size_t, void* receiver) {
      ++static_cast<PlainEnd*>(receiver)->received;
      ucp_request_free(request);
    };
    const auto request = ucp_am_recv_data_nbx(end.worker_.handle(), data, destination.data(), bytes, &param);
    if (!UCS_PTR_IS_PTR(request)) ++end.received;
    return UCS_INPROGRESS;
  }

  std::array<std::byte, kMessageHeaderBytes> header_{};
  UcxWorker worker_;
  ucp_ep_h endpoint_ = nullptr;
};

struct Sizes {
  int rounds = 11;
  int large_messages = 64;
  int small_messages = 2000;
};

// What the two processes do; both go through the same steps in the same order.
class Partner {
 public:
  Partner(End& end, bool leads) : end_(end), leads_(leads) {
    Random random(5);
    for (auto& byte : pattern_) byte = static_cast<std::byte>(random());
  }

  // Throws RunError unless what arrives is what was sent, both ways.
  void verify() {
    for (const size_t bytes : {kSmallBytes, kLargeBytes}) {
      for (size_t i = 0; i < kInFlight; ++i) send_and_receive(bytes);
    }
  }

  // Seconds per message, one way; the last one is acknowledged.
  double time_large(int messages) {
    const auto start = Clock::now();
    if (leads_) {
      const size_t first = end_.sent;
      for (int i = 0; i < messages; ++i) {
        end_.run_until([&] { return first + i - end_.sent < kInFlight; });
        end_.send(pattern_);
      }
      end_.run_until([&] { return end_.sent == first + messages; });
      receive_one();
    } else {
      taken_ += messages;
      end_.run_until([&] { return end_.received == taken_; });
      send_one(kSmallBytes);
    }
    return std::chrono::duration<double>(Clock::now() - start).count() / messages;
  }

  // Seconds per half round trip.
  double time_small(int messages) {
    const auto start = Clock::now();
    for (int i = 0; i < messages; ++i)
      leads_ ? (send_one(kSmallBytes), receive_one()) : (receive_one(), send_one(kSmallBytes));
    return std::chrono::duration<double>(Clock::now() - start).count() / messages / 2;
  }

 private:
  void send_one(size_t bytes) {
    const size_t first = end_.sent;
    end_.send(std::span(pattern_).first(bytes));
    end_.run_until([&] { return end_.sent > first; });
  }
  void receive_one() {
    end_.run_until([&] { return end_.received > taken_; });
    ++taken_;
  }
  void send_and_receive(size_t bytes) {
    if (leads_) send_one(bytes);
    end_.run_until([&] { return end_.received > taken_; });
    const auto got = end_.landing(taken_++, bytes);
    if (!std::equal(got.begin(), got.end(), pattern_.begin())) throw RunError("{} bytes arrived damaged", bytes);
    if (!leads_) send_one(bytes);
  }

  End& end_;
  const bool leads_;
  size_t taken_ = 0;
  std::vector<std::byte> pattern_ = std::vector<std::byte>(kLargeBytes);
};

struct Rival {
  std::string name;
  std::unique_ptr<End> end;
  std::unique_ptr<Partner> partner;
  std::vector<double> large_s, small_s;
};

std::vector<Rival> make_rivals(bool leads, int socket, std::array<std::vector<UcxOptions>, 2>& options) {
  std::vector<Rival> rivals(3);
  const int node = leads ? 0 : 1;
  rivals[0] = {"plain UCX", std::make_unique<PlainEnd>(socket), nullptr, {}, {}};
  rivals[1] = {
      "transport, checksums off", std::make_unique<TransportEnd>(std::move(options[0][node])), nullptr, {}, {}};
  rivals[2] = {"transport, checksums on", std::make_unique<TransportEnd>(std::move(options[1][node])), nullptr, {}, {}};
  for (Rival& rival : rivals) {
    rival.partner = std::make_unique<Partner>(*rival.end, leads);
    rival.partner->verify();
  }
  return rivals;
}

std::vector<Rival> compete(bool leads, int socket, const Sizes& sizes,
                           std::array<std::vector<UcxOptions>, 2>& options) {
  std::vector<Rival> rivals = make_rivals(leads, socket, options);
  for (int round = 0; round < sizes.rounds; ++round) {
    for (Rival& rival : rivals) rival.large_s.push_back(rival.partner->time_large(sizes.large_messages));
    for (Rival& rival : rivals) rival.small_s.push_back(rival.partner->time_small(sizes.small_messages));
  }
  return rivals;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print_table(const char* title, const std::vector<Rival>& rivals, std::vector<double> Rival::*times,
                 double (*value)(double seconds), const char* unit) {
  fmt::print("\n{}\n", title);
  std::vector<double> plain;
  for (const double seconds : rivals[0].*times) plain.push_back(value(seconds));
  for (const Rival& rival : rivals) {
    std::vector<double> values;
    for (const double seconds : rival.*times) values.push_back(value(seconds));
    const auto [low, high] = std::ranges::minmax(values);
    fmt::print("  {:<26} median {:7.2f} {}  ({:.2f} to {:.2f})  {:5.1f} % of plain UCX\n", rival.name, median(values),
               unit, low, high, 100 * median(values) / median(plain));
  }
}

void print_results(const std::vector<Rival>& rivals, const Sizes& sizes) {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  const char* tls = std::getenv("UCX_TLS");
  fmt::print("machine: {}, {} cores; UCX {}.{}.{}, UCX_TLS={}\n", cpu_name(), sysconf(_SC_NPROCESSORS_ONLN), major,
             minor, release, tls ? tls : "(ours)");
  fmt::print("two processes, {} rounds, asleep while waiting; median (spread)\n", sizes.rounds);
  print_table(
      fmt::format("16 MiB messages, {} a round, {} in flight", sizes.large_messages, kInFlight).c_str(), rivals,
      &Rival::large_s, [](double seconds) { return kLargeBytes / seconds * 1e-9; }, "GB/s");
  print_table(
      fmt::format("64 B messages there and back, {} a round: half round trip", sizes.small_messages).c_str(), rivals,
      &Rival::small_s, [](double seconds) { return seconds * 1e6; }, "us");
}

// Both processes take free ports before they part.
std::vector<UcxOptions> local_options(bool payload_checksums) {
  std::vector<UcxOptions> options(2);
  std::vector<NodeAddress> addresses;
  for (UcxOptions& node : options) {
    if (const Status status = listen_on({"127.0.0.1", 0}, node.listener); !status.ok())
      throw RunError(status.message());
    addresses.push_back({"127.0.0.1", local_port(node.listener)});
  }
  for (int node = 0; node < 2; ++node) {
    options[node].run_id = 1;
    options[node].node = node;
    options[node].addresses = addresses;
    options[node].payload_checksums = payload_checksums;
  }
  return options;
}

int run(int argc, char** argv) {
  CLI::App app("Times the UCX transport against plain UCX active messages.");
  Sizes sizes;
  app.add_option("--rounds", sizes.rounds, "rounds of each rival")->check(CLI::Range(1, 1000));
  app.add_option("--large", sizes.large_messages, "16 MiB messages a round")->check(CLI::Range(1, 100000));
  app.add_option("--small", sizes.small_messages, "64 B round trips a round")->check(CLI::Range(1, 10000000));
  CLI11_PARSE(app, argc, argv);

  std::array<std::vector<UcxOptions>, 2> options{local_options(false), local_options(true)};
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) throw RunError("no socket pair");
  const pid_t child = fork();
  if (child < 0) throw RunError("can't start a second process");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      compete(false, sockets[1], sizes, options);
      _exit(0);
    } catch (const std::exception& error) {
      fmt::print(stderr, "second process: {}\n", error.what());
      _exit(1);
    }
  }
  print_results(compete(true, sockets[0], sizes, options), sizes);
  fmt::print("\ncommand: bench_transport --rounds {} --large {} --small {}\n", sizes.rounds, sizes.large_messages,
             sizes.small_messages);
  std::fflush(stdout);
  int status = 0;
  waitpid(child, &status, 0);
  return 0;
}

}  // namespace
}  // namespace skippipe

int main(int argc, char** argv) {
  try {
    return skippipe::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_transport: {}\n", error.what());
    return 1;
  }
}
