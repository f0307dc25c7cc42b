// The control connections: their bytes, and strangers who send others.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <limits>
#include <sstream>

#include "comm/control/clock_offset.h"
#include "comm/formats/control_frame.h"
#include "comm/formats/wire.h"
#include "comm/transport/ucx_worker.h"
#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

using testing::HasSubstr;

void append_heartbeat(std::vector<std::byte>& bytes) {
  append_frame(bytes, ControlKind::kHeartbeat, std::vector(kHeartbeatBytes, std::byte{1}));
}

std::vector<std::byte> hello_frame(const Hello& hello) {
  std::vector<std::byte> bytes;
  append_frame(bytes, ControlKind::kHello, encode_hello(hello));
  return bytes;
}

Hello some_hello() {
  return {.run_id = 77, .node = 1, .node_count = 2, .worker_address = std::vector(200, std::byte{9})};
}

TEST(ControlFrame, RoundTripsAndWaitsForTheRest) {
  std::vector<std::byte> bytes = hello_frame(some_hello());
  const size_t hello_bytes = bytes.size();
  append_heartbeat(bytes);
  for (size_t length = 0; length <= bytes.size(); ++length) {
    size_t frame_bytes = 0;
    ControlFrame frame;
    ASSERT_TRUE(parse_frame(std::span(bytes).first(length), frame_bytes, frame).ok()) << length;
    ASSERT_EQ(frame_bytes, length < hello_bytes ? 0 : hello_bytes);
    if (frame_bytes == 0) continue;
    Hello read;
    ASSERT_EQ(frame.kind, ControlKind::kHello);
    ASSERT_TRUE(decode_hello(frame.body, read).ok());
    ASSERT_EQ(read, some_hello());
  }
}

TEST(ControlFrame, MutationsAreRefusedOrIncomplete) {
  Random random(41);
  for (int i = 0; i < 10000; ++i) {
    std::vector<std::byte> bytes = hello_frame(some_hello());
    bytes[random.below(bytes.size())] ^= static_cast<std::byte>(1 << random.below(8));
    size_t frame_bytes = 0;
    ControlFrame frame;
    const Status status = parse_frame(bytes, frame_bytes, frame);
    ASSERT_EQ(frame_bytes, 0u) << "seed 41, mutation " << i;
    // A longer length waits for bytes that do not come; all else is refused.
    ASSERT_TRUE(!status.ok() || std::to_integer<int>(bytes[8]) + 256 * std::to_integer<int>(bytes[9]) > 216);
  }
}

TEST(ControlFrame, LyingHellosAreRefused) {
  Hello read;
  std::vector<std::byte> body = encode_hello(some_hello());
  EXPECT_TRUE(decode_hello(body, read).ok());
  EXPECT_FALSE(decode_hello(std::span(body).first(100), read).ok());
  EXPECT_FALSE(decode_hello(std::span(body).first(16), read).ok());
  EXPECT_FALSE(decode_hello({}, read).ok());
  body[12] = std::byte{1};
  EXPECT_FALSE(decode_hello(body, read).ok());
}

TEST(ControlFrame, BodiesOfTheWrongLengthAreRefused) {
  for (const ControlKind kind :
       {ControlKind::kHeartbeat, ControlKind::kGoodbye, ControlKind::kFarewell, ControlKind::kClock}) {
    std::vector<std::byte> bytes;
    append_frame(bytes, kind, std::vector(9, std::byte{1}));
    size_t frame_bytes = 0;
    ControlFrame frame;
    EXPECT_EQ(parse_frame(bytes, frame_bytes, frame).code(), StatusCode::kCorrupt) << static_cast<int>(kind);
  }
}

TEST(ClockComparison, KeepsTheAnswerThatSaysMostUntilItIsOld) {
  constexpr int64_t kMs = 1'000'000, kSecond = 1'000 * kMs, kAhead = 7'000 * kSecond;
  ClockComparison clock;
  EXPECT_FALSE(clock.offset());
  const auto answer = [&](int64_t at, int64_t there, int64_t back, int64_t ahead) {
    clock.answered(at, at + there + ahead, at + there + back);
  };
  answer(kSecond, 9 * kMs, kMs, kAhead);  // a long way there: the middle is off by 4 ms
  EXPECT_NEAR(clock.offset()->seconds, 7000.004, 1e-9);
  EXPECT_NEAR(clock.offset()->error_s, 0.005, 1e-12);
  answer(2 * kSecond, kMs, kMs, kAhead);
  EXPECT_NEAR(clock.offset()->seconds, 7000, 1e-9);
  answer(3 * kSecond, kMs, 5 * kMs, kAhead);
  EXPECT_NEAR(clock.offset()->seconds, 7000, 1e-9) << "a longer round trip says less";
  answer(100 * kSecond, 2 * kMs, 2 * kMs, kAhead + 5 * kMs);
  EXPECT_NEAR(clock.offset()->seconds, 7000.005, 1e-9) << "but clocks drift";
  EXPECT_NEAR(clock.offset()->error_s, 0.002, 1e-12);
}

TEST(ClockComparison, SenselessAnswersAreIgnored) {
  ClockComparison clock;
  clock.answered(-1, 5, 10);
  clock.answered(11, 5, 10);
  clock.answered(5, std::numeric_limits<int64_t>::min(), 10);
  clock.answered(5, std::numeric_limits<int64_t>::max(), 10);
  EXPECT_FALSE(clock.offset());
}

// A plain blocking TCP client.
class Client {
 public:
  explicit Client(const NodeAddress& address) {
    std::vector<SocketAddress> addresses;
    EXPECT_TRUE(look_up(address, addresses).ok());
    EXPECT_TRUE(begin_connect(addresses.front(), socket_).ok());
    const int flags = fcntl(socket_.get(), F_GETFL);
    pollfd writable{socket_.get(), POLLOUT, 0};
    poll(&writable, 1, 60'000);
    fcntl(socket_.get(), F_SETFL, flags & ~O_NONBLOCK);
    const timeval limit{60, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  void send(std::span<const std::byte> bytes) {
    ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);  // the other end may have closed already
  }
  bool is_refused() {  // the other end closes without a word
    std::byte byte;
    return recv(socket_.get(), &byte, 1, 0) <= 0 && errno != EAGAIN;
  }
  std::vector<std::byte> receive(size_t bytes) {
    std::vector<std::byte> received(bytes);
    EXPECT_EQ(recv(socket_.get(), received.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
    return received;
  }
  Hello receive_hello() {
    auto bytes = receive(kFrameHeaderBytes);
    const auto body = receive(get_field<uint32_t>(bytes, 8));
    bytes.insert(bytes.end(), body.begin(), body.end());
    size_t frame_bytes = 0;
    ControlFrame frame;
    Hello hello;
    EXPECT_TRUE(parse_frame(bytes, frame_bytes, frame).ok());
    EXPECT_TRUE(decode_hello(frame.body, hello).ok());
    return hello;
  }
  void close() { socket_.reset(); }

 private:
  FileDescriptor socket_;
};

// Node 0 of two, meeting on a thread of its own.
class MeetingNode : public testing::Test {
 protected:
  MeetingNode() : options(local_options(2)), address(options[0].addresses[0]) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log_text_);
    options[0].logger = std::make_shared<spdlog::logger>("node-0", sink);
  }
  ~MeetingNode() override {
    if (meeting_.joinable()) meeting_.join();
  }
  void start() {
    meeting_ = std::thread([&] { status = connect_ucx(std::move(options[0]), transport); });
  }
  void join() { meeting_.join(); }
  std::string log() const { return log_text_.str(); }  // after join()

  std::vector<UcxOptions> options;
  NodeAddress address;
  Status status;
  std::unique_ptr<Transport> transport;

 private:
  std::ostringstream log_text_;
  std::thread meeting_;
};

TEST_F(MeetingNode, StrangersAreRefusedAndDoNotDisturb) {
  start();
  Client half(address);  // held open over the whole test
  const auto half_hello = hello_frame(some_hello());
  half.send(std::span(half_hello).first(50));
  Client silent(address);

  Random random(42);
  Client junk(address);
  junk.send(random_bytes(random, 5000));
  EXPECT_TRUE(junk.is_refused());

  std::vector<std::byte> bytes = hello_frame(some_hello());
  put_field(std::span(bytes), 8, uint32_t{0xffffffff});
  Client huge(address);
  huge.send(bytes);
  EXPECT_TRUE(huge.is_refused());

  bytes = hello_frame(some_hello());
  put_field(std::span(bytes), 4, uint16_t{3});
  Client newer(address);
  newer.send(bytes);
  EXPECT_TRUE(newer.is_refused());

  Hello hello = some_hello();
  hello.run_id = 0xabc;
  Client foreign(address);
  foreign.send(hello_frame(hello));
  EXPECT_TRUE(foreign.is_refused());
  Client again(address);  // told once
  again.send(hello_frame(hello));
  EXPECT_TRUE(again.is_refused());

  hello = some_hello();
  hello.node_count = 3;
  Client miscounted(address);
  miscounted.send(hello_frame(hello));
  EXPECT_TRUE(miscounted.is_refused());

  hello = some_hello();
  hello.node = 0;
  Client impostor(address);
  impostor.send(hello_frame(hello));
  EXPECT_TRUE(impostor.is_refused());

  bytes.clear();
  append_heartbeat(bytes);
  Client unannounced(address);
  unannounced.send(bytes);
  EXPECT_TRUE(unannounced.is_refused());

  Client hasty(address);
  hasty.close();

  std::unique_ptr<Transport> peer;
  const Status peer_status = connect_ucx(std::move(options[1]), peer);
  ASSERT_TRUE(peer_status.ok()) << peer_status.message();
  join();
  ASSERT_TRUE(status.ok()) << status.message();

  // The port is open still, and node 1 is there already.
  Recorder recorder(*transport), peer_recorder(*peer);
  Client duplicate(address);
  duplicate.send(hello_frame(some_hello()));
  std::atomic<bool> refused{false};
  std::thread waiting([&] {
    EXPECT_TRUE(duplicate.is_refused());
    refused = true;
    transport->wake();
  });
  EXPECT_TRUE(recorder.run_until([&] { return refused.load(); }));
  waiting.join();

  std::vector<std::byte> payload(100'000, std::byte{3});
  peer->send(message_to(0, payload.size()), payload);
  std::thread sending([&] { EXPECT_TRUE(peer_recorder.run_until([&] { return !peer_recorder.sent.empty(); })); });
  EXPECT_TRUE(recorder.run_until([&] { return recorder.received_count() == 1; }));
  sending.join();
  EXPECT_TRUE(recorder.failures.empty());

  const std::string lines = log();
  for (const char* line :
       {"wrong magic number", "a frame of 4294967295 bytes", "version 3, expected 2", "a node of run 0000000000000abc",
        "it is node 1 of 3, this run has 2 nodes", "it says it is node 0", "another frame before the hello",
        "the connection was closed", "node 1 has connected before"}) {
    EXPECT_THAT(lines, HasSubstr(std::string("refused a connection from 127.0.0.1:"))) << lines;
    EXPECT_THAT(lines, HasSubstr(line));
  }
  EXPECT_EQ(std::ranges::count(lines, '\n'), 9) << lines;
}

TEST_F(MeetingNode, ManyStrangersDoNotExhaustIt) {
  start();
  std::vector<std::unique_ptr<Client>> strangers;
  for (int i = 0; i < 200; ++i) strangers.push_back(std::make_unique<Client>(address));
  EXPECT_TRUE(strangers[0]->is_refused());  // the oldest make room
  std::unique_ptr<Transport> peer;
  ASSERT_TRUE(connect_ucx(std::move(options[1]), peer).ok());
  join();
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST_F(MeetingNode, WithNoDescriptorLeftItClosesWhoConnects) {
  start();
  Client junk(address);
  junk.send(std::vector<std::byte>(100));
  EXPECT_TRUE(junk.is_refused());  // it serves its port by now
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = static_cast<rlim_t>(FileDescriptor(dup(0)).get()) + 1;  // one more, for a client
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    Client client(address);
    EXPECT_TRUE(client.is_refused());
    setrlimit(RLIMIT_NOFILE, &before);
  }
  std::unique_ptr<Transport> peer;
  ASSERT_TRUE(connect_ucx(std::move(options[1]), peer).ok());
  join();
  EXPECT_TRUE(status.ok()) << status.message();
  const std::string lines = log(), told = "closed a connection from 127.0.0.1:";
  EXPECT_THAT(lines, HasSubstr("no file can be opened any more"));
  EXPECT_EQ(lines.find(told), lines.rfind(told)) << lines;
}

TEST_F(MeetingNode, ASilentStrangerIsSentAway) {
  options[0].heartbeat_interval = 10ms;
  options[0].silence_limit = 50ms;
  options[0].connect_limit = 60s;
  start();
  Client silent(address);
  EXPECT_TRUE(silent.is_refused());
  std::unique_ptr<Transport> peer;
  options[1].heartbeat_interval = 10ms;
  ASSERT_TRUE(connect_ucx(std::move(options[1]), peer).ok());
  join();
  EXPECT_THAT(log(), HasSubstr("no hello within 50 ms"));
}

TEST_F(MeetingNode, ANodeThatLeavesTooEarlyIsNamed) {
  options = local_options(3);
  address = options[0].addresses[0];
  start();
  UcxWorker worker(1, nullptr, nullptr);
  Client one(address);
  Hello hello = some_hello();
  hello.node_count = 3;
  hello.worker_address = worker.address();
  one.send(hello_frame(hello));
  one.close();
  join();
  EXPECT_EQ(status.code(), StatusCode::kPeerGone);
  EXPECT_THAT(status.message(), HasSubstr("node 1"));
}

TEST_F(MeetingNode, ASilentPeerIsReportedOnce) {
  options[0].heartbeat_interval = 20ms;
  options[0].silence_limit = 200ms;
  std::unique_ptr<Transport> peer;
  start();
  {
    // A right hello, and then nothing. The worker address is that of a real node, so that UCX takes it.
    UcxWorker worker(1, nullptr, nullptr);
    Client one(address);
    Hello hello = some_hello();
    hello.worker_address = worker.address();
    one.send(hello_frame(hello));
    join();
    ASSERT_TRUE(status.ok()) << status.message();
    Recorder recorder(*transport);
    ASSERT_TRUE(recorder.run_until([&] { return !recorder.failures.empty(); }));
    ASSERT_EQ(recorder.failures.size(), 1u);
    EXPECT_EQ(recorder.failures[0].first, 1);
    EXPECT_THAT(recorder.failures[0].second.message(), HasSubstr("nothing was heard of it for 200 ms"));
    EXPECT_THAT(recorder.failures[0].second.message(), HasSubstr("127.0.0.1"));
  }
}

TEST_F(MeetingNode, APeerThatSendsJunkHasFailed) {
  start();
  UcxWorker worker(1, nullptr, nullptr);
  Client one(address);
  Hello hello = some_hello();
  hello.worker_address = worker.address();
  one.send(hello_frame(hello));
  join();
  ASSERT_TRUE(status.ok()) << status.message();
  Recorder recorder(*transport);
  std::vector<std::byte> bytes;
  append_heartbeat(bytes);
  bytes.back() ^= std::byte{1};
  one.send(bytes);
  ASSERT_TRUE(recorder.run_until([&] { return !recorder.failures.empty(); }));
  EXPECT_THAT(recorder.failures[0].second.message(), HasSubstr("wrong checksum"));
}

TEST_F(MeetingNode, MessagesThatDoNotBelongAreDropped) {
  start();
  UcxWorker worker(1, nullptr, nullptr);
  Client one(address);
  Hello hello = some_hello();
  hello.worker_address = worker.address();
  one.send(hello_frame(hello));
  const Hello answer = one.receive_hello();
  EXPECT_EQ(answer.node, 0);
  join();
  ASSERT_TRUE(status.ok()) << status.message();
  ucp_ep_h endpoint = nullptr;
  ASSERT_TRUE(worker
                  .connect(
                      answer.worker_address, [](void*, ucp_ep_h, ucs_status_t) {}, nullptr, endpoint)
                  .ok());

  std::vector<std::byte> small(40), large(1 << 20);
  std::deque<std::array<std::byte, kMessageHeaderBytes>> headers;
  const auto send = [&](const MessageHeader& header, std::span<const std::byte> payload, size_t broken_byte = 999) {
    encode_header(header, headers.emplace_back());
    if (broken_byte < kMessageHeaderBytes) headers.back()[broken_byte] ^= std::byte{1};
    ucp_request_param_t param{};
    const auto request = ucp_am_send_nbx(endpoint, 0, headers.back().data(), kMessageHeaderBytes, payload.data(),
                                         payload.size(), &param);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
  };
  MessageHeader good = message_to(0, small.size());
  good.run_id = 77;
  good.source = 1;
  good.payload_checksum = 0;
  auto bad = good;
  bad.run_id = 78;
  send(bad, small);
  send(good, small, 20);
  send(good, std::span(small).first(39));
  bad = good;
  bad.destination = 1;
  send(bad, small);
  bad = good;
  bad.source = 9;
  send(bad, small);
  MessageHeader large_foreign = message_to(0, large.size());
  large_foreign.run_id = 79;
  large_foreign.source = 1;
  send(large_foreign, large);  // by rendezvous
  send(good, small);
  send(good, small);  // the same number again

  Recorder recorder(*transport);
  std::atomic<bool> done{false};
  std::thread driving([&] {
    while (!done) worker.progress();
  });
  EXPECT_TRUE(recorder.run_until([&] { return recorder.received_count() == 1; }));
  good.sequence = 1;
  done = true;
  driving.join();
  send(good, small);
  done = false;
  driving = std::thread([&] {
    while (!done) worker.progress();
  });
  EXPECT_TRUE(recorder.run_until([&] { return recorder.received_count() == 2; }));
  done = true;
  driving.join();
  worker.close(endpoint);
  EXPECT_EQ(recorder.incoming.size(), 2u);
  const std::string lines = log();
  EXPECT_THAT(lines, HasSubstr("of run 000000000000004e, this is 000000000000004d"));
  EXPECT_THAT(lines, HasSubstr("wrong checksum"));
  EXPECT_THAT(lines, HasSubstr("39 bytes of payload, expected 40"));
  EXPECT_THAT(lines, HasSubstr("from node 1 to node 1: this is node 0 of 2"));
  EXPECT_THAT(lines, HasSubstr("from node 9 to node 0: this is node 0 of 2"));
  EXPECT_THAT(lines, HasSubstr("of run 000000000000004f"));
  EXPECT_THAT(lines, HasSubstr("number 0, expected 1"));
}

}  // namespace
}  // namespace skippipe::test
