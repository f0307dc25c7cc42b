// What the UCX transport reports when peers die, are not there, or the port is taken.
#include "comm/transport/ucx_transport.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "comm/control/local_place.h"
#include "comm/transport/ucx_worker.h"
#include "tests/comm/support.h"
#include "tests/temp_folder.h"

namespace skippipe::test {
namespace {

using testing::HasSubstr;

// A child process that is node 1 of two and waits to be killed, after what `body` does.
class ChildNode {
 public:
  ChildNode(UcxOptions options, const std::function<void(Transport&)>& body) {
    pid_ = fork();
    if (pid_ != 0) return;
    std::unique_ptr<Transport> transport;
    if (!connect_ucx(std::move(options), transport).ok()) _exit(1);
    body(*transport);
    const auto end = Clock::now() + kLimit;
    while (Clock::now() < end) transport->run_once(end);
    _exit(2);
  }
  ~ChildNode() { die(); }
  void die() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

class KilledPeer : public testing::Test {
 protected:
  // Node 0 of two here, node 1 in a child process.
  void connect(const std::function<void(Transport&)>& child_body) {
    auto options = local_options(2);
    child = std::make_unique<ChildNode>(std::move(options[1]), child_body);
    const Status status = connect_ucx(std::move(options[0]), transport);
    ASSERT_TRUE(status.ok()) << status.message();
    recorder = std::make_unique<Recorder>(*transport);
    recorder->receive_at_once = false;
  }
  void expect_one_failure() {
    ASSERT_TRUE(recorder->run_until([&] { return !recorder->failures.empty(); }));
    ASSERT_EQ(recorder->failures.size(), 1u);
    EXPECT_EQ(recorder->failures[0].first, 1);
    EXPECT_EQ(recorder->failures[0].second.code(), StatusCode::kPeerGone);
    EXPECT_THAT(recorder->failures[0].second.message(), HasSubstr("node 1"));
  }

  std::unique_ptr<ChildNode> child;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Recorder> recorder;
};

TEST_F(KilledPeer, IsReportedWhenIdle) {
  ASSERT_NO_FATAL_FAILURE(connect([](Transport&) {}));
  child->die();
  expect_one_failure();
  EXPECT_TRUE(transport->close(60s).ok());
}

TEST_F(KilledPeer, ThatExitsWithoutGoodbyeIsReported) {
  ASSERT_NO_FATAL_FAILURE(connect([](Transport& child_transport) {
    Recorder child_recorder(child_transport);
    std::ignore = child_recorder.run_until([&] { return !child_recorder.incoming.empty(); });
    _exit(0);
  }));
  std::vector<std::byte> payload(10);
  transport->send(message_to(1, payload.size()), payload);
  expect_one_failure();
}

TEST_F(KilledPeer, EndsSendsToIt) {
  std::vector<std::byte> payload(16 << 20);
  ASSERT_NO_FATAL_FAILURE(connect([](Transport&) {}));  // never lets anything in
  const Ticket ticket = transport->send(message_to(1, payload.size()), payload);
  const auto soon = Clock::now() + 20ms;
  while (Clock::now() < soon) transport->run_once(soon);  // let the transfer be announced
  child->die();
  expect_one_failure();
  ASSERT_TRUE(recorder->run_until([&] { return recorder->sent.contains(ticket); }));
  EXPECT_EQ(recorder->sent[ticket].code(), StatusCode::kPeerGone);
  const Ticket late = transport->send(message_to(1, 3), std::span(payload).first(3));
  ASSERT_TRUE(recorder->run_until([&] { return recorder->sent.contains(late); }));
  EXPECT_EQ(recorder->sent[late].code(), StatusCode::kPeerGone);
}

TEST_F(KilledPeer, EndsReceiptsFromIt) {
  ASSERT_NO_FATAL_FAILURE(connect([](Transport& child_transport) {
    static std::vector<std::byte> payload(16 << 20);
    for (uint32_t i = 0; i < 4; ++i) child_transport.send(message_to(0, payload.size(), i), payload);
  }));
  ASSERT_TRUE(recorder->run_until([&] { return recorder->incoming.size() == 4; }));
  for (size_t i = 0; i < 3; ++i) recorder->let_in(*recorder->incoming[i]);  // in mid-transfer
  child->die();
  expect_one_failure();
  recorder->let_in(*recorder->incoming[3]);  // when it is too late
  ASSERT_TRUE(recorder->run_until([&] { return recorder->received_count() == 4; }));
  EXPECT_FALSE(recorder->incoming[3]->status.ok());
}

TEST(NodeAddress, ReadsWhatItWrites) {
  for (const char* text : {"127.0.0.1:7000", "[::1]:65535", "node-3.example.org:1"}) {
    EXPECT_EQ(parse_node_address(text).to_string(), text);
  }
  EXPECT_EQ(parse_node_address("[::1]:7").host, "::1");
  for (const char* text : {"", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:80x", "::1:80",
                           "[::1]", "[]:80", "[::1:80", "99999999999999999999"}) {
    EXPECT_THROW(parse_node_address(text), ConfigError) << text;
  }
}

TEST(ConnectUcx, APortInUseIsNamed) {
  FileDescriptor taken;
  ASSERT_TRUE(listen_on({"127.0.0.1", 0}, taken).ok());
  UcxOptions options;
  options.addresses = {{"127.0.0.1", local_port(taken)}};
  std::unique_ptr<Transport> transport;
  const Status status = connect_ucx(std::move(options), transport);
  EXPECT_EQ(status.message(), fmt::format("node 0: can't listen on 127.0.0.1:{}: address in use", local_port(taken)));
}

TEST(ConnectUcx, AnUnreachablePeerIsNamedAfterTheLimit) {
  auto options = local_options(3);
  options[0].listener.reset();  // nobody is there
  options[1].connect_limit = 150ms;
  std::unique_ptr<Transport> transport;
  const Status status = connect_ucx(std::move(options[1]), transport);
  EXPECT_EQ(status.code(), StatusCode::kUnreachable);
  const auto& addresses = options[2].addresses;
  EXPECT_THAT(status.message(), HasSubstr("node 1: not all nodes met within 150 ms"));
  EXPECT_THAT(status.message(),
              testing::ContainsRegex(
                  fmt::format("node 0 at {}, tried since ..:..:.. .Connection refused", addresses[0].to_string())));
  EXPECT_THAT(status.message(),
              testing::ContainsRegex(fmt::format("node 2 at {}, awaited since ..:..:..", addresses[2].to_string())));
}

TEST(ConnectUcx, APeerThatStartsLateIsWaitedFor) {
  auto options = local_options(2);
  options[0].listener.reset();  // opened only when node 0 starts
  std::unique_ptr<Transport> late, early;
  Status early_status;
  std::thread starting_early([&] { early_status = connect_ucx(std::move(options[1]), early); });
  const Status late_status = connect_ucx(std::move(options[0]), late);
  starting_early.join();
  EXPECT_TRUE(early_status.ok()) << early_status.message();
  EXPECT_TRUE(late_status.ok()) << late_status.message();
}

TEST(ConnectUcx, SenselessOptionsAreRefused) {
  std::unique_ptr<Transport> transport;
  EXPECT_THROW(std::ignore = connect_ucx({}, transport), ConfigError);
  UcxOptions options = std::move(local_options(2)[0]);
  options.node = 2;
  EXPECT_THROW(std::ignore = connect_ucx(std::move(options), transport), ConfigError);
  options = std::move(local_options(2)[0]);
  options.silence_limit = options.heartbeat_interval;
  EXPECT_THROW(std::ignore = connect_ucx(std::move(options), transport), ConfigError);
  options = std::move(local_options(1)[0]);
  options.addresses[0].host = "no.such.host.invalid";
  options.listener.reset();
  EXPECT_EQ(connect_ucx(std::move(options), transport).code(), StatusCode::kUnreachable);
}

// At an address of this machine that is not the usual one.
TEST(ConnectUcx, NodesMeetAtTheirOwnAddresses) {
  auto options = local_options(2);
  for (size_t node = 0; node < 2; ++node) {
    NodeAddress address{node == 0 ? "127.0.0.2" : "127.0.1.1", 0};
    ASSERT_TRUE(listen_on(address, options[node].listener).ok());
    address.port = local_port(options[node].listener);
    options[node].listener.reset();
    for (UcxOptions& each : options) each.addresses[node] = address;
  }
  std::unique_ptr<Transport> zero, one;
  std::thread connecting([&] {
    const Status status = connect_ucx(std::move(options[0]), zero);
    EXPECT_TRUE(status.ok()) << status.message();
  });
  const Status status = connect_ucx(std::move(options[1]), one);
  connecting.join();
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(ConnectUcx, ANodeWhoseAddressIsNotHereIsRefusedAtOnce) {
  auto options = local_options(2);
  options[0].listener.reset();
  for (NodeAddress& address : options[0].addresses) address.host = "203.0.113.7";
  std::unique_ptr<Transport> transport;
  const Status status = connect_ucx(std::move(options[0]), transport);
  EXPECT_THAT(status.message(), HasSubstr("node 0: can't listen on 203.0.113.7:"));
  EXPECT_THAT(status.message(), HasSubstr("no network interface of this machine carries it"));
}

// Whether a UCX worker tells its peers of this address.
bool tells_of(const UcxWorker& worker, const SocketAddress& address) {
  const bool v6 = address.family() == AF_INET6;
  const void* host = v6 ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(address.get())->sin6_addr)
                        : &reinterpret_cast<const sockaddr_in*>(address.get())->sin_addr;
  const std::vector<std::byte> told = worker.address();
  const std::span part(static_cast<const std::byte*>(host), v6 ? 16 : 4);
  return std::ranges::search(told, part).size() > 0;
}

// The first address of an interface that is up and leads elsewhere.
std::optional<InterfaceAddress> address_elsewhere(int family) {
  for (const InterfaceAddress& each : interface_addresses()) {
    const bool link_local = each.address.host().starts_with("fe80:");
    if (!each.is_loopback_interface && !link_local && each.address.family() == family) return each;
  }
  return std::nullopt;
}

TEST(UcxWorker, UsesTheInterfacesItIsGiven) {
  const std::optional<InterfaceAddress> other = address_elsewhere(AF_INET);
  if (!other) GTEST_SKIP() << "no interface but the loopback one";
  EXPECT_FALSE(tells_of(UcxWorker(1, nullptr, nullptr, {{"lo"}, false}), other->address));
  EXPECT_TRUE(tells_of(UcxWorker(1, nullptr, nullptr, {{other->interface}, false}), other->address));
}

TEST(UcxWorker, UsesTheFamilyItIsGiven) {
  const std::optional<InterfaceAddress> v6 = address_elsewhere(AF_INET6);
  if (!v6) GTEST_SKIP() << "no interface with an IPv6 address";
  EXPECT_TRUE(tells_of(UcxWorker(1, nullptr, nullptr, {{v6->interface}, true}), v6->address));
}

TEST(RdmaDevices, AreNamedByPort) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "mlx5_1/ports/1");
  std::filesystem::create_directories(folder / "mlx5_0/ports/1");
  std::filesystem::create_directories(folder / "mlx5_0/ports/2");
  EXPECT_THAT(rdma_devices(folder.path()), testing::ElementsAre("mlx5_0:1", "mlx5_0:2", "mlx5_1:1"));
  EXPECT_THAT(rdma_devices(folder / "nothing"), testing::IsEmpty());
}

TEST(ConnectUcx, OneNodeNeedsNobody) {
  auto options = local_options(1);
  std::unique_ptr<Transport> transport;
  ASSERT_TRUE(connect_ucx(std::move(options[0]), transport).ok());
  EXPECT_TRUE(transport->close(60s).ok());
}

TEST(UcxTransport, CloseGivesUpAfterItsLimit) {
  auto options = local_options(2);
  std::unique_ptr<Transport> zero, one;
  std::thread connecting([&] { EXPECT_TRUE(connect_ucx(std::move(options[0]), zero).ok()); });
  ASSERT_TRUE(connect_ucx(std::move(options[1]), one).ok());
  connecting.join();
  Recorder recorder(*zero);
  std::vector<std::byte> payload(1 << 20);
  const Ticket ticket = zero->send(message_to(1, payload.size()), payload);
  EXPECT_EQ(zero->close(20ms).code(), StatusCode::kTimeout);
  ASSERT_TRUE(recorder.sent.contains(ticket));
  EXPECT_EQ(recorder.sent[ticket].code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace skippipe::test
