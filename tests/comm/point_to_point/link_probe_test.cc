// Link probes and documents. No figure is held against a clock but for lower bounds: a machine may always be slower.
#include "comm/point_to_point/link_probe.h"

#include <gmock/gmock.h>

#include <array>
#include <atomic>

#include "base/error.h"
#include "comm/point_to_point/documents.h"
#include "comm/transport/in_process_transport.h"
#include "comm/transport/shaped_transport.h"
#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

constexpr LinkProbeSettings kSettings = {
    .message_bytes = 50'000, .repetitions = 5, .stream_s = 0.01, .progress_limit = 60s};

TEST(StreamRates, LeavesOutTheFirstRepliesAndCutsTheRest) {
  // Two in flight; one message of 100 bytes each second, after a start of ten.
  const std::vector<double> times = {10, 11, 12, 13, 14, 15, 16, 17, 18};
  EXPECT_THAT(stream_rates(times, 2, 100, 15), ElementsAre(100, 100, 100));
  EXPECT_THAT(stream_rates(times, 2, 100, 1), ElementsAre(100));
  // Replies in bursts of two: a part is no shorter than what is in flight.
  EXPECT_THAT(stream_rates(std::vector<double>{1, 1, 3, 3, 4, 4}, 2, 100, 15), ElementsAre(100, 200));
  EXPECT_THAT(stream_rates(std::vector<double>{1, 1, 3}, 2, 100, 15), ElementsAre(50));
  EXPECT_THROW(stream_rates(std::vector<double>{1, 2}, 2, 100, 15), InternalError);
}

// A node with a probe and documents.
class ProbingNode : public TransportListener {
 public:
  explicit ProbingNode(Transport& transport, const LinkProbeSettings& settings = kSettings)
      : transport_(transport),
        probe(transport, settings),
        documents(transport, [this](int from, std::string text) { texts.emplace_back(from, std::move(text)); }) {
    transport.set_listener(this);
  }
  ~ProbingNode() override { transport_.set_listener(nullptr); }

  void on_announced(Ticket ticket, const MessageHeader& header) override {
    EXPECT_TRUE(probe.on_announced(ticket, header) || documents.on_announced(ticket, header));
  }
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override {
    EXPECT_TRUE(probe.on_received(ticket, header, status) || documents.on_received(ticket, header, status));
  }
  void on_sent(Ticket ticket, const Status& status) override {
    EXPECT_TRUE(probe.on_sent(ticket, status) || documents.on_sent(ticket, status) || ticket == own_ticket);
  }
  void on_peer_failed(int, const Status& status) override { probe.cancel(status); }

  [[nodiscard]] bool run_until(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kLimit;
    while (!condition() && Clock::now() < deadline) transport_.run_once(deadline);
    return condition();
  }

 private:
  Transport& transport_;

 public:
  LinkProbe probe;
  Documents documents;
  std::vector<std::pair<int, std::string>> texts;
  Ticket own_ticket = ~Ticket{0};
};

void expect_complete(const LinkSamples& samples, size_t repetitions) {
  for (const auto& seconds : {samples.round_trip_s, samples.single_s}) {
    EXPECT_THAT(seconds, SizeIs(AllOf(Ge(3), Le(repetitions))));  // fewer where they take long
    EXPECT_THAT(seconds, Each(Gt(0)));
  }
  EXPECT_GE(samples.in_flight, 1);
  EXPECT_LE(samples.in_flight, LinkProbe::kMaxInFlight);
  for (const auto& rates : {samples.stream_bytes_per_s, samples.both_ways_bytes_per_s}) {
    EXPECT_THAT(rates, SizeIs(AllOf(Ge(1), Le(repetitions))));
    EXPECT_THAT(rates, Each(Gt(0)));
  }
}

class LinkProbeOver : public testing::TestWithParam<NetworkKind> {};
INSTANTIATE_TEST_SUITE_P(All, LinkProbeOver, testing::Values(in_process_kind(), ucx_kind()),
                         [](const auto& tested) { return tested.param.name; });

// Node 0 measures the link to 1, then 1 the one to 0, then 2 (which waited) the one to 1.
TEST_P(LinkProbeOver, NodesMeasureTheirLinksInTurn) {
  const auto network = GetParam().make(3);
  run_nodes(*network, 3, [](int node, Transport& transport) {
    ProbingNode self(transport);
    const std::array<int, 3> peers = {1, 0, 1};
    size_t heard = 0;
    for (int turn = 0; turn < 3; ++turn) {
      if (turn == node) {
        LinkSamples samples;
        const Status status = self.probe.measure(peers[static_cast<size_t>(turn)], samples);
        ASSERT_TRUE(status.ok()) << status.message();
        expect_complete(samples, 5);
        for (int other = 0; other < 3; ++other)
          if (other != node) self.documents.send(other, "next");
      } else {
        ASSERT_TRUE(self.run_until([&] { return self.texts.size() > heard; }));
        EXPECT_EQ(self.texts[heard++], (std::pair<int, std::string>(turn, "next")));
      }
    }
    EXPECT_TRUE(self.probe.status().ok()) << self.probe.status().message();
    EXPECT_TRUE(transport.close(std::chrono::duration_cast<std::chrono::milliseconds>(kLimit)).ok());
  });
}

TEST_P(LinkProbeOver, DocumentsArriveInOrder) {
  const auto network = GetParam().make(2);
  const std::vector<std::string> sent = {"", "a", std::string(Documents::kMaxBytes, 'x'), "b", std::string(5000, 'y')};
  run_nodes(*network, 2, [&](int node, Transport& transport) {
    ProbingNode self(transport);
    for (const std::string& text : sent) self.documents.send(1 - node, text);
    ASSERT_TRUE(self.run_until([&] { return self.texts.size() == sent.size(); }));
    for (size_t i = 0; i < sent.size(); ++i) EXPECT_TRUE(self.texts[i].second == sent[i]) << i;
    EXPECT_TRUE(transport.close(std::chrono::duration_cast<std::chrono::milliseconds>(kLimit)).ok());
  });
}

// Answers until told not to, on a thread.
class AnsweringNode {
 public:
  explicit AnsweringNode(Transport& transport)
      : transport_(transport), thread_([this] {
          ProbingNode node(transport_);
          while (!stop_) transport_.run_once(Clock::now() + kLimit);
        }) {}
  ~AnsweringNode() {
    stop_ = true;
    transport_.wake();
    thread_.join();
  }

 private:
  Transport& transport_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST(LinkProbe, SeesTheDelayOfAShapedLink) {
  InProcessNetwork network(2, 1);
  ShapedTransport shaped(network.transport(0), {{}, {.latency_s = 0.01, .bandwidth_bytes_per_s = 1e7}});
  ProbingNode self(shaped);
  const AnsweringNode peer(network.transport(1));
  LinkSamples samples;
  ASSERT_TRUE(self.probe.measure(1, samples).ok());
  expect_complete(samples, 5);
  EXPECT_THAT(samples.round_trip_s, Each(Ge(0.01)));
  EXPECT_THAT(samples.single_s, Each(Ge(0.01 + 50'000 / 1e7)));
}

TEST(LinkProbe, APeerThatFailsInMidProbeEndsIt) {
  InProcessNetwork network(2, 1);
  ProbingNode self(network.transport(0));
  std::thread peer([&] {
    ProbingNode other(network.transport(1));
    for (int i = 0; i < 3; ++i) network.transport(1).run_once(Clock::now() + kLimit);
    network.fail(1, "pulled the plug");
  });
  LinkSamples samples;
  const Status status = self.probe.measure(1, samples);
  peer.join();
  EXPECT_EQ(status.code(), StatusCode::kPeerGone);
  EXPECT_THAT(status.message(), HasSubstr("pulled the plug"));
}

TEST(LinkProbe, APeerThatDoesNotAnswerEndsIt) {
  InProcessNetwork network(2, 1);
  LinkProbeSettings settings = kSettings;
  settings.progress_limit = 20ms;
  ProbingNode self(network.transport(0), settings);
  LinkSamples samples;
  const Status status = self.probe.measure(1, samples);
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_THAT(status.message(), HasSubstr("node 1 has not answered a probe"));
}

TEST(LinkProbe, WhatIsNoRightProbeIsRefused) {
  struct Case {
    MessageKind kind;
    size_t bytes;
    uint32_t iteration;
  };
  const std::vector<Case> cases = {
      {MessageKind::kProbe, 50'001, 0},   {MessageKind::kProbe, 100, 2},
      {MessageKind::kProbe, 0, 0},        {MessageKind::kProbeReply, 0, 0},
      {MessageKind::kProbeReply, 100, 1}, {MessageKind::kDocument, Documents::kMaxBytes + 1, 0}};
  for (const Case& wrong : cases) {
    InProcessNetwork network(2, 1);
    ProbingNode self(network.transport(0));
    ProbingNode other(network.transport(1));
    const std::vector<std::byte> payload(wrong.bytes);
    MessageHeader header = message_to(0, wrong.bytes, 0, wrong.kind);
    header.iteration = wrong.iteration;
    other.own_ticket = network.transport(1).send(header, payload);
    EXPECT_TRUE(self.run_until([&] { return !self.probe.status().ok() || !self.documents.status().ok(); }));
    const Status& status = self.probe.status().ok() ? self.documents.status() : self.probe.status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    EXPECT_THAT(status.message(), HasSubstr("from node 1 to node 0"));
  }
}

TEST(Documents, ATextThatIsTooLongIsAMistake) {
  InProcessNetwork network(2, 1);
  ProbingNode self(network.transport(0));
  EXPECT_THROW(self.documents.send(1, std::string(Documents::kMaxBytes + 1, 'x')), InternalError);
}

}  // namespace
}  // namespace skippipe::test
