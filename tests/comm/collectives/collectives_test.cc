// Sums over nodes against sums in double precision, over both transports.
#include "comm/collectives/collectives.h"

#include <gmock/gmock.h>

#include <cmath>
#include <mutex>

#include "comm/transport/in_process_transport.h"
#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

// Offers events to a collective; what it does not take is an error of the test.
template <typename Collective>
class Driver : public TransportListener {
 public:
  Driver(Transport& transport, Collective& collective) : transport_(transport), collective_(collective) {
    transport.set_listener(this);
  }
  ~Driver() override { transport_.set_listener(nullptr); }

  void on_announced(Ticket ticket, const MessageHeader& header) override {
    EXPECT_TRUE(collective_.on_announced(ticket, header));
  }
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override {
    EXPECT_TRUE(collective_.on_received(ticket, header, status));
  }
  void on_sent(Ticket ticket, const Status& status) override { EXPECT_TRUE(collective_.on_sent(ticket, status)); }
  void on_peer_failed(int node, const Status& status) override { collective_.on_peer_failed(node, status); }

  [[nodiscard]] bool run_until(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kLimit;
    while (!condition()) {
      if (Clock::now() >= deadline) return false;
      transport_.run_once(deadline);
    }
    return true;
  }

 private:
  Transport& transport_;
  Collective& collective_;
};

float gradient(uint64_t seed, uint32_t iteration, int node, size_t i) {
  Random random(seed, {iteration, static_cast<uint64_t>(node), i});
  return static_cast<float>(random.normal() * std::exp2(random.uniform(-8, 8)));
}

class AnyCollective : public testing::TestWithParam<NetworkKind> {};
INSTANTIATE_TEST_SUITE_P(All, AnyCollective, testing::Values(in_process_kind(), ucx_kind()),
                         [](const auto& tested) { return tested.param.name; });

struct SumCase {
  uint64_t seed;
  std::vector<int> replicas;  // in their order
  int node_count;
  size_t elements;
};

void check_replica_sum(TestNetwork& network, const SumCase& tested) {
  const uint32_t iterations = 3;
  std::mutex mutex;
  std::map<std::pair<uint32_t, int>, std::vector<float>> results;
  run_nodes(network, tested.node_count, [&](int node, Transport& transport) {
    if (std::ranges::count(tested.replicas, node) == 0) return;
    std::vector<float> buffer(tested.elements);
    std::vector<std::byte> scratch(ReplicaSum::scratch_bytes(tested.replicas.size(), tested.elements));
    ReplicaSum sum(transport, tested.replicas, buffer, scratch);
    Driver driver(transport, sum);
    for (uint32_t iteration = 5; iteration < 5 + iterations; ++iteration) {
      for (size_t i = 0; i < buffer.size(); ++i) buffer[i] = gradient(tested.seed, iteration, node, i);
      sum.start(iteration);
      ASSERT_TRUE(driver.run_until([&] { return sum.done(); }));
      ASSERT_TRUE(sum.status().ok()) << sum.status().message();
      ASSERT_TRUE(sum.own_shard_summed());
      const std::lock_guard lock(mutex);
      results[{iteration, node}] = buffer;
    }
  });
  for (uint32_t iteration = 5; iteration < 5 + iterations; ++iteration) {
    const auto& first = results[{iteration, tested.replicas[0]}];
    ASSERT_EQ(first.size(), tested.elements);
    for (const int node : tested.replicas) ASSERT_EQ((results[{iteration, node}]), first) << "node " << node;
    for (size_t i = 0; i < first.size(); ++i) {
      double exact = 0, magnitude = 0;
      float in_order = 0;
      for (const int node : tested.replicas) {
        const float part = gradient(tested.seed, iteration, node, i);
        exact += part;
        magnitude += std::abs(part);
        in_order = node == tested.replicas[0] ? part : in_order + part;
      }
      ASSERT_NEAR(first[i], exact, 1e-6 * magnitude) << "element " << i;
      ASSERT_EQ(first[i], in_order) << "element " << i << " was not added in the order of the replicas";
    }
  }
}

TEST_P(AnyCollective, ReplicaSumOfRandomSizes) {
  Random random(21);
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed 21, case " << seed);
    SumCase tested{.seed = seed, .replicas = {}, .node_count = static_cast<int>(1 + random.below(5)), .elements = 0};
    for (int node = 0; node < tested.node_count; ++node) tested.replicas.push_back(node);
    random.shuffle(tested.replicas);
    tested.replicas.resize(1 + random.below(tested.replicas.size()));
    tested.elements = random.below(1 << random.below(17));
    const auto network = GetParam().make(tested.node_count);
    check_replica_sum(*network, tested);
  }
}

TEST_P(AnyCollective, ReplicaSumOfOddCases) {
  for (const size_t elements : {0, 1, 3, 4, 5, 300'001}) {
    SCOPED_TRACE(elements);
    const auto network = GetParam().make(4);
    check_replica_sum(*network, {.seed = 1, .replicas = {2, 0, 3, 1}, .node_count = 4, .elements = elements});
  }
}

// The peer is one iteration ahead: its messages wait for start.
TEST(ReplicaSum, MessagesOfTheNextIterationWait) {
  InProcessNetwork network(2, 1);
  std::vector<float> fast{1, 2, 3}, slow{10, 20, 30};
  std::vector<std::byte> fast_scratch(64), slow_scratch(64);
  ReplicaSum fast_sum(network.transport(0), {0, 1}, fast, fast_scratch);
  ReplicaSum slow_sum(network.transport(1), {0, 1}, slow, slow_scratch);
  Driver fast_driver(network.transport(0), fast_sum), slow_driver(network.transport(1), slow_sum);
  fast_sum.start(0);
  network.transport(1).run_once(Clock::now() + kLimit);  // announced, and left alone
  EXPECT_EQ(slow, (std::vector<float>{10, 20, 30}));
  slow_sum.start(0);
  const auto both_done = [&] { return fast_sum.done() && slow_sum.done(); };
  for (int i = 0; i < 100 && !both_done(); ++i) {
    network.transport(0).run_once(Clock::now());
    network.transport(1).run_once(Clock::now());
  }
  ASSERT_TRUE(both_done());
  EXPECT_EQ(fast, (std::vector<float>{11, 22, 33}));
  EXPECT_EQ(slow, (std::vector<float>{11, 22, 33}));
}

TEST(ReplicaSum, AWrongShapeEndsIt) {
  InProcessNetwork network(2, 1);
  std::vector<float> buffer(10);
  std::vector<std::byte> scratch(ReplicaSum::scratch_bytes(2, 10));
  ReplicaSum sum(network.transport(0), {0, 1}, buffer, scratch);
  Driver driver(network.transport(0), sum);
  std::vector<std::byte> payload(24);
  MessageHeader header = message_to(0, 0, 0, MessageKind::kReduceScatter);
  set_payload(header, WireDtype::kF32, std::array<int64_t, 1>{6});  // our shard has 5
  network.transport(1).send(header, payload);
  sum.start(0);
  ASSERT_TRUE(driver.run_until([&] { return sum.done(); }));
  EXPECT_EQ(sum.status().code(), StatusCode::kCorrupt);
  EXPECT_THAT(sum.status().message(), testing::HasSubstr("not 5 floats"));
}

TEST(ReplicaSum, AStrangersMessageEndsIt) {
  InProcessNetwork network(3, 1);
  std::vector<float> buffer(2);
  std::vector<std::byte> scratch(64), payload(4);
  ReplicaSum sum(network.transport(0), {0, 1}, buffer, scratch);
  Driver driver(network.transport(0), sum);
  MessageHeader header = message_to(0, 0, 0, MessageKind::kReduceScatter);
  set_payload(header, WireDtype::kF32, std::array<int64_t, 1>{1});
  network.transport(2).send(header, payload);
  sum.start(0);
  ASSERT_TRUE(driver.run_until([&] { return sum.done(); }));
  EXPECT_EQ(sum.status().code(), StatusCode::kCorrupt);
}

TEST(ReplicaSum, ALostReplicaEndsIt) {
  InProcessNetwork network(2, 1);
  std::vector<float> buffer(2);
  std::vector<std::byte> scratch(64);
  ReplicaSum sum(network.transport(0), {0, 1}, buffer, scratch);
  Driver driver(network.transport(0), sum);
  sum.start(0);
  EXPECT_FALSE(sum.done());
  network.fail(1, "unplugged");
  ASSERT_TRUE(driver.run_until([&] { return sum.done(); }));
  EXPECT_EQ(sum.status().code(), StatusCode::kPeerGone);
}

TEST_P(AnyCollective, SumExchangeIsBitwiseEqualEverywhere) {
  const int nodes = 5;
  const uint32_t first = 40, iterations = 30;
  const auto network = GetParam().make(nodes);
  std::mutex mutex;
  std::map<uint32_t, std::vector<std::vector<double>>> sums;
  run_nodes(*network, nodes, [&](int node, Transport& transport) {
    uint32_t results = 0;
    SumExchange exchange(transport, 3, first, [&](const SumExchange::Result& result) {
      ++results;
      ASSERT_EQ(result.node_values.size(), 3u * nodes);
      for (int peer = 0; peer < nodes; ++peer) {
        EXPECT_EQ(result.node_values[peer * 3 + 1], gradient(31, result.iteration, peer, 1));
      }
      const std::lock_guard lock(mutex);
      sums[result.iteration].emplace_back(result.sums.begin(), result.sums.end());
    });
    Driver driver(transport, exchange);
    for (uint32_t iteration = first; iteration < first + iterations; ++iteration) {
      std::vector<double> values;
      for (size_t i = 0; i < 3; ++i) values.push_back(gradient(31, iteration, node, i));
      exchange.start(iteration, values);
      // Up to two iterations under way.
      ASSERT_TRUE(driver.run_until([&] { return results + 2 > iteration - first; }));
    }
    ASSERT_TRUE(driver.run_until([&] { return results == iterations && exchange.idle(); }));
    EXPECT_TRUE(exchange.status().ok()) << exchange.status().message();
  });
  ASSERT_EQ(sums.size(), iterations);
  for (const auto& [iteration, per_node] : sums) {
    ASSERT_EQ(per_node.size(), static_cast<size_t>(nodes));
    for (const auto& sum : per_node) ASSERT_EQ(sum, per_node[0]);
    double expected = 0;
    for (int node = 0; node < nodes; ++node) expected += gradient(31, iteration, node, 2);
    EXPECT_EQ(per_node[0][2], expected);
  }
}

TEST(SumExchange, OneNodeIsDoneAtOnce) {
  InProcessNetwork network(1, 1);
  std::vector<double> got;
  SumExchange exchange(network.transport(0), 2, 0, [&](const auto& r) { got.assign(r.sums.begin(), r.sums.end()); });
  exchange.start(0, std::array{1.5, 2.5});
  EXPECT_EQ(got, (std::vector{1.5, 2.5}));
}

TEST(SumExchange, WhatIsWithinReachIsTakenAndMoreIsNot) {
  InProcessNetwork network(2, 1);
  SumExchange ahead(network.transport(1), 1, 0, nullptr);
  SumExchange behind(network.transport(0), 1, 0, nullptr);
  Driver driver(network.transport(0), behind);
  for (uint32_t i = 0; i <= SumExchange::kReach; ++i) ahead.start(i, std::array{1.0});
  network.transport(0).run_once(Clock::now() + kLimit);
  EXPECT_TRUE(behind.status().ok()) << behind.status().message();
  ahead.start(SumExchange::kReach + 1, std::array{1.0});
  ASSERT_TRUE(driver.run_until([&] { return !behind.status().ok(); }));
  EXPECT_EQ(behind.status().code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace skippipe::test
