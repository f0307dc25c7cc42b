// What every transport promises, over both.
#include "comm/transport/transport.h"

#include <gmock/gmock.h>
#include <time.h>

#include <atomic>

#include "base/error.h"
#include "comm/transport/in_process_transport.h"
#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

class AnyTransport : public testing::TestWithParam<NetworkKind> {
 protected:
  // Nodes 0 and 1, each with its own thread.
  void run_pair(const std::function<void(Transport&)>& zero, const std::function<void(Transport&)>& one) {
    const auto network = GetParam().make(2);
    run_nodes(*network, 2, [&](int node, Transport& transport) { node == 0 ? zero(transport) : one(transport); });
  }
};
INSTANTIATE_TEST_SUITE_P(All, AnyTransport, testing::Values(in_process_kind(), ucx_kind()),
                         [](const auto& tested) { return tested.param.name; });

TEST_P(AnyTransport, DeliversAllSizesInOrder) {
  const std::vector<size_t> sizes{0, 1, 64, 5000, 0, 100'000, 3, 1 << 20, 7, 5'000'001, 0, 2};
  Random random(11);
  std::vector<std::vector<std::byte>> payloads;
  for (const size_t size : sizes) payloads.push_back(random_bytes(random, size));
  run_pair(
      [&](Transport& transport) {
        Recorder recorder(transport);
        for (size_t i = 0; i < sizes.size(); ++i) {
          auto header = message_to(1, sizes[i], static_cast<uint32_t>(i));
          header.iteration = 4;
          transport.send(header, payloads[i]);
        }
        ASSERT_TRUE(recorder.run_until([&] { return recorder.sent.size() == sizes.size(); }));
        for (const auto& [ticket, status] : recorder.sent) EXPECT_TRUE(status.ok()) << status.message();
      },
      [&](Transport& transport) {
        Recorder recorder(transport);
        ASSERT_TRUE(recorder.run_until([&] { return recorder.received_count() == sizes.size(); }));
        for (size_t i = 0; i < sizes.size(); ++i) {
          const auto& message = *recorder.incoming[i];
          EXPECT_EQ(message.header.microbatch, i);
          EXPECT_EQ(message.header.sequence, i);
          EXPECT_EQ(message.header.iteration, 4u);
          EXPECT_EQ(message.header.source, 0);
          EXPECT_EQ(message.header.destination, 1);
          EXPECT_TRUE(message.status.ok()) << message.status.message();
          EXPECT_EQ(message.payload, payloads[i]);
        }
      });
}

// Of half a second without a message, a busy poller would use half a second of its processor.
TEST_P(AnyTransport, WaitsWithoutBurningTheProcessor) {
  const auto wait = [](Transport& transport) {
    Recorder recorder(transport);
    const auto processor_s = [] {
      timespec now{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
      return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
    };
    const double before_s = processor_s();
    const auto end = Clock::now() + std::chrono::milliseconds(500);
    while (Clock::now() < end) transport.run_once(end);
    EXPECT_LT(processor_s() - before_s, 0.1);
  };
  run_pair(wait, wait);
}

TEST_P(AnyTransport, ReceivesLaterAndInAnyOrder) {
  const size_t count = 9;
  const auto size_of = [](size_t i) { return i % 3 == 0 ? 20 : i % 3 == 1 ? 9000 : 300'000; };
  Random random(12);
  std::vector<std::vector<std::byte>> payloads;
  for (size_t i = 0; i < count; ++i) payloads.push_back(random_bytes(random, size_of(i)));
  run_pair(
      [&](Transport& transport) {
        Recorder recorder(transport);
        for (size_t i = 0; i < count; ++i) transport.send(message_to(1, size_of(i), i), payloads[i]);
        ASSERT_TRUE(recorder.run_until([&] { return recorder.sent.size() == count; }));
      },
      [&](Transport& transport) {
        Recorder recorder(transport);
        recorder.receive_at_once = false;
        ASSERT_TRUE(recorder.run_until([&] { return recorder.incoming.size() == count; }));
        EXPECT_EQ(recorder.received_count(), 0u);
        std::vector<size_t> order(count);
        for (size_t i = 0; i < count; ++i) order[i] = i;
        random.shuffle(order);
        for (const size_t i : order) {
          recorder.let_in(*recorder.incoming[i]);
          ASSERT_TRUE(recorder.run_until([&] { return recorder.incoming[i]->received; }));
          EXPECT_EQ(recorder.incoming[i]->payload, payloads[i]);
        }
      });
}

TEST_P(AnyTransport, ManyPeersAllToAll) {
  const int nodes = 6;
  const size_t per_peer = 20;
  const auto network = GetParam().make(nodes);
  run_nodes(*network, nodes, [&](int node, Transport& transport) {
    Recorder recorder(transport);
    Random random(13, {static_cast<uint64_t>(node)});
    std::vector<std::vector<std::byte>> payloads;
    for (size_t i = 0; i < per_peer; ++i) {
      for (int peer = 0; peer < nodes; ++peer) {
        if (peer == node) continue;
        payloads.push_back(std::vector(1 + random.below(1 << random.below(18)), static_cast<std::byte>(node * 20 + i)));
        transport.send(message_to(peer, payloads.back().size(), i), payloads.back());
      }
    }
    const size_t expected = per_peer * (nodes - 1);
    ASSERT_TRUE(
        recorder.run_until([&] { return recorder.received_count() == expected && recorder.sent.size() == expected; }));
    std::vector<uint32_t> next(nodes);
    for (const auto& message : recorder.incoming) {
      ASSERT_TRUE(message->status.ok()) << message->status.message();
      ASSERT_EQ(message->header.microbatch, next[message->header.source]++) << "from node " << message->header.source;
      const auto mark = static_cast<std::byte>(message->header.source * 20 + message->header.microbatch);
      ASSERT_TRUE(std::ranges::all_of(message->payload, [&](std::byte b) { return b == mark; }));
    }
    EXPECT_TRUE(recorder.failures.empty());
  });
}

// In one process there is one clock.
TEST_P(AnyTransport, KnowsThePeersClock) {
  const auto network = GetParam().make(2);
  run_nodes(*network, 2, [](int node, Transport& transport) {
    Recorder recorder(transport);
    std::vector<std::byte> payload(8);
    transport.send(message_to(1 - node, payload.size()), payload);
    ASSERT_TRUE(recorder.run_until([&] { return transport.clock_offset(1 - node) && recorder.received_count() == 1; }));
    const ClockOffset offset = *transport.clock_offset(1 - node);
    EXPECT_LE(std::abs(offset.seconds), offset.error_s + 1e-6) << offset.error_s;
    EXPECT_LT(offset.error_s, 10);
    ASSERT_TRUE(recorder.run_until([&] { return recorder.sent.size() == 1; }));
  });
}

TEST_P(AnyTransport, WakeEndsAWait) {
  run_pair(
      [&](Transport& transport) {
        Recorder recorder(transport);
        std::atomic<bool> woken{false};
        std::thread waker([&] {
          woken = true;
          transport.wake();
        });
        ASSERT_TRUE(recorder.run_until([&] { return woken.load(); }));
        waker.join();
        transport.wake();
        transport.wake();
        const auto before = Clock::now();
        transport.run_once(before + kLimit);  // returns at once
        EXPECT_LT(Clock::now(), before + kLimit);
      },
      [](Transport&) {});
}

TEST_P(AnyTransport, RunOnceEndsAtItsDeadline) {
  run_pair(
      [&](Transport& transport) {
        Recorder recorder(transport);
        const auto deadline = Clock::now() + 20ms;
        while (Clock::now() < deadline) transport.run_once(deadline);
        EXPECT_TRUE(recorder.incoming.empty());
      },
      [](Transport&) {});
}

TEST_P(AnyTransport, ACorruptedPayloadIsNamed) {
  std::vector<std::byte> payload(2 << 20, std::byte{1});
  std::atomic<bool> changed{false};
  const auto network = GetParam().make(2);
  run_nodes(*network, 2, [&](int node, Transport& transport) {
    Recorder recorder(transport);
    if (node == 0) {
      auto header = message_to(1, payload.size(), 5);
      header.iteration = 3;
      transport.send(header, payload);
      payload[1'000'000] = std::byte{2};  // what a broken network would do; a large payload is still here
      changed = true;
      ASSERT_TRUE(recorder.run_until([&] { return recorder.sent.size() == 1; }));
    } else {
      recorder.receive_at_once = false;
      ASSERT_TRUE(recorder.run_until([&] { return recorder.incoming.size() == 1; }));
      while (!changed) std::this_thread::yield();
      recorder.let_in(*recorder.incoming[0]);
      ASSERT_TRUE(recorder.run_until([&] { return recorder.received_count() == 1; }));
      EXPECT_EQ(recorder.incoming[0]->status.code(), StatusCode::kCorrupt);
      EXPECT_THAT(recorder.incoming[0]->status.message(),
                  testing::HasSubstr("forward of iteration 3, microbatch 5, from node 0 to node 1"));
    }
  });
}

TEST_P(AnyTransport, WrongCallsAreRefused) {
  run_pair(
      [&](Transport& transport) {
        Recorder recorder(transport);
        std::vector<std::byte> payload(10);
        EXPECT_THROW(transport.send(message_to(0, 10), payload), InternalError);  // to itself
        EXPECT_THROW(transport.send(message_to(2, 10), payload), InternalError);  // to nobody
        EXPECT_THROW(transport.send(message_to(1, 11), payload), InternalError);
        EXPECT_THROW(transport.receive(12345, payload), InternalError);
      },
      [](Transport&) {});
}

TEST_P(AnyTransport, GoodbyeIsNoFailureAndSendsAfterItFail) {
  std::vector<std::byte> payload(100);
  const auto network = GetParam().make(3);
  run_nodes(*network, 3, [&](int node, Transport& transport) {
    Recorder recorder(transport);
    if (node == 2) {
      transport.send(message_to(1, 100), payload);
      EXPECT_TRUE(transport.close(60s).ok());
      return;
    }
    ASSERT_TRUE(recorder.run_until([&] { return std::ranges::count(recorder.left, 2) == 1; }));
    if (node == 1) {
      const auto of_two = [](const auto& message) { return message->header.source == 2; };
      EXPECT_EQ(std::ranges::count_if(recorder.incoming, of_two), 1) << "announced before the goodbye";
    }
    const Ticket late = transport.send(message_to(2, 100), payload);
    transport.send(message_to(1 - node, 100), payload);
    const size_t expected = node == 1 ? 2 : 1;
    ASSERT_TRUE(recorder.run_until([&] { return recorder.sent.size() == 2 && recorder.received_count() == expected; }));
    for (const auto& [ticket, status] : recorder.sent) EXPECT_EQ(status.ok(), ticket != late) << status.message();
    EXPECT_EQ(std::ranges::count(recorder.left, 2), 1);
    EXPECT_TRUE(recorder.failures.empty());
  });
}

TEST(InProcessNetwork, AFailedNodeIsReportedOnceAndItsMessagesAreLost) {
  InProcessNetwork network(3, 1);
  Recorder one(network.transport(1)), two(network.transport(2));
  one.receive_at_once = false;
  auto payload = std::make_unique<std::vector<std::byte>>(1000);
  network.transport(0).send(message_to(1, 1000), *payload);
  network.transport(1).send(message_to(0, 1000), *payload);
  network.fail(0, "the power went out");
  network.fail(0, "twice");
  payload.reset();  // as with the process that owned it
  ASSERT_TRUE(one.run_until([&] { return one.incoming.size() == 1 && one.sent.size() == 1 && !one.failures.empty(); }));
  one.let_in(*one.incoming[0]);
  ASSERT_TRUE(one.run_until([&] { return one.received_count() == 1; }));
  EXPECT_EQ(one.incoming[0]->status.code(), StatusCode::kPeerGone);
  EXPECT_EQ(one.sent.begin()->second.code(), StatusCode::kPeerGone);
  ASSERT_TRUE(two.run_until([&] { return !two.failures.empty(); }));
  ASSERT_EQ(two.failures.size(), 1u);
  EXPECT_EQ(two.failures[0].first, 0);
  EXPECT_THAT(two.failures[0].second.message(), testing::HasSubstr("node 0 failed: the power went out"));
}

TEST(InProcessNetwork, CloseGivesUpAfterItsLimit) {
  InProcessNetwork network(2, 1);
  Recorder zero(network.transport(0)), one(network.transport(1));
  one.receive_at_once = false;
  std::vector<std::byte> payload(10);
  network.transport(0).send(message_to(1, 10), payload);
  EXPECT_EQ(network.transport(0).close(5ms).code(), StatusCode::kTimeout);
  ASSERT_EQ(zero.sent.size(), 1u);
  EXPECT_EQ(zero.sent.begin()->second.code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace skippipe::test
