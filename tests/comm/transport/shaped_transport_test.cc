// Shaped links: lower bounds of delays and orders only, since a machine may always be slower.
#include "comm/transport/shaped_transport.h"

#include "base/error.h"
#include "comm/transport/in_process_transport.h"
#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

std::vector<std::byte> payload(100'000);

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

TEST(ShapedTransport, DelaysByLatencyAndBandwidth) {
  InProcessNetwork network(2, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 0.02, .bandwidth_bytes_per_s = 1e7}});
  Recorder sender(shaped), receiver(network.transport(1));
  std::thread receiving([&] { EXPECT_TRUE(receiver.run_until([&] { return receiver.received_count() == 3; })); });
  const auto start = Clock::now();
  std::vector<Ticket> tickets;
  for (uint32_t i = 0; i < 3; ++i) tickets.push_back(shaped.send(message_to(1, payload.size(), i), payload));
  std::vector<double> times;
  ASSERT_TRUE(sender.run_until([&] {
    while (times.size() < sender.sent.size()) times.push_back(seconds_since(start));
    return times.size() == 3;
  }));
  receiving.join();
  // 10 ms of the link each, one after the other, and 20 ms on the way.
  for (size_t i = 0; i < 3; ++i) EXPECT_GE(times[i], 0.02 + 0.01 * static_cast<double>(i + 1));
  for (const Ticket ticket : tickets) EXPECT_TRUE(sender.sent.at(ticket).ok());
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(receiver.incoming[i]->header.microbatch, i);
}

TEST(ShapedTransport, AFastLinkOvertakesASlowOneAndKeepsItsOwnOrder) {
  InProcessNetwork network(3, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 1000, .bandwidth_bytes_per_s = 0}, {}});
  Recorder sender(shaped), fast(network.transport(2));
  const Ticket to_slow = shaped.send(message_to(1, payload.size()), payload);
  std::thread receiving([&] { EXPECT_TRUE(fast.run_until([&] { return fast.received_count() == 10; })); });
  for (uint32_t i = 0; i < 10; ++i) {
    const size_t bytes = i % 2 == 0 ? payload.size() : 0;
    shaped.send(message_to(2, bytes, i), std::span(payload).first(bytes));
  }
  ASSERT_TRUE(sender.run_until([&] { return sender.sent.size() == 10; }));
  receiving.join();
  EXPECT_FALSE(sender.sent.contains(to_slow));
  for (uint32_t i = 0; i < 10; ++i) EXPECT_EQ(fast.incoming[i]->header.microbatch, i);
}

// Two links of their own, each fast: what they share takes 10 ms a message.
TEST(ShapedTransport, LinksShareTheUplink) {
  InProcessNetwork network(3, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 0.02, .bandwidth_bytes_per_s = 1e9}, {}}, 1e7);
  Recorder sender(shaped), one(network.transport(1)), two(network.transport(2));
  std::thread to_one([&] { EXPECT_TRUE(one.run_until([&] { return one.received_count() == 2; })); });
  std::thread to_two([&] { EXPECT_TRUE(two.run_until([&] { return two.received_count() == 2; })); });
  const auto start = Clock::now();
  for (uint32_t i = 0; i < 4; ++i) shaped.send(message_to(1 + i % 2, payload.size(), i), payload);
  ASSERT_TRUE(sender.run_until([&] { return sender.sent.size() == 4; }));
  to_one.join();
  to_two.join();
  EXPECT_GE(seconds_since(start), 0.04) << "four messages";
}

TEST(ShapedTransport, CloseFlushesTheLinks) {
  InProcessNetwork network(2, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 0.02, .bandwidth_bytes_per_s = 0}});
  Recorder sender(shaped), receiver(network.transport(1));
  shaped.send(message_to(1, 10), std::span(payload).first(10));
  std::thread receiving([&] { EXPECT_TRUE(receiver.run_until([&] { return receiver.received_count() == 1; })); });
  EXPECT_TRUE(shaped.close(60s).ok());
  receiving.join();
  EXPECT_EQ(sender.sent.size(), 1u);
}

TEST(ShapedTransport, CloseGivesUpAfterItsLimit) {
  InProcessNetwork network(2, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 1000, .bandwidth_bytes_per_s = 0}});
  Recorder sender(shaped);
  const Ticket ticket = shaped.send(message_to(1, 10), std::span(payload).first(10));
  EXPECT_EQ(shaped.close(5ms).code(), StatusCode::kTimeout);
  EXPECT_EQ(sender.sent.at(ticket).code(), StatusCode::kCancelled);
}

TEST(ShapedTransport, SenselessLinksAreRefused) {
  InProcessNetwork network(2, 1);
  EXPECT_THROW(ShapedTransport(network.transport(0), {{}}), InternalError);
  EXPECT_THROW(ShapedTransport(network.transport(0), {{}, {.latency_s = -1, .bandwidth_bytes_per_s = 0}}),
               InternalError);
  EXPECT_THROW(ShapedTransport(network.transport(0), {{}, {.latency_s = 0, .bandwidth_bytes_per_s = 0.0 / 0.0}}),
               InternalError);
  EXPECT_THROW(ShapedTransport(network.transport(0), {{}, {}}, -1), InternalError);
}

}  // namespace
}  // namespace skippipe::test
