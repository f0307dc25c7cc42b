#include "tests/comm/support.h"

#include <algorithm>

#include "comm/transport/in_process_transport.h"
#include "comm/transport/ucx_transport.h"

namespace skippipe::test {
namespace {

class InProcessTestNetwork : public TestNetwork {
 public:
  explicit InProcessTestNetwork(int node_count) : network_(node_count, 7) {}
  Transport& transport(int node) override { return network_.transport(node); }

 private:
  InProcessNetwork network_;
};

// Every node connects on a thread of its own.
class UcxTestNetwork : public TestNetwork {
 public:
  explicit UcxTestNetwork(int node_count) : transports_(node_count) {
    auto options = local_options(node_count);
    std::vector<std::thread> threads;
    for (int node = 0; node < node_count; ++node) {
      threads.emplace_back([&, node] {
        const Status status = connect_ucx(std::move(options[node]), transports_[node]);
        EXPECT_TRUE(status.ok()) << status.message();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& transport : transports_) {
      if (!transport) throw std::runtime_error("the nodes did not connect");
    }
  }
  Transport& transport(int node) override { return *transports_[node]; }

 private:
  std::vector<std::unique_ptr<Transport>> transports_;
};

}  // namespace

std::vector<UcxOptions> local_options(int node_count) {
  std::vector<UcxOptions> options(node_count);
  std::vector<NodeAddress> addresses;
  for (int node = 0; node < node_count; ++node) {
    const Status status = listen_on({"127.0.0.1", 0}, options[node].listener);
    EXPECT_TRUE(status.ok()) << status.message();
    addresses.push_back({"127.0.0.1", local_port(options[node].listener)});
  }
  for (int node = 0; node < node_count; ++node) {
    options[node].run_id = 77;
    options[node].node = node;
    options[node].addresses = addresses;
    options[node].connect_limit = std::chrono::duration_cast<std::chrono::milliseconds>(kLimit);
  }
  return options;
}

std::vector<std::byte> random_bytes(Random& random, size_t count) {
  std::vector<std::byte> bytes(count);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

MessageHeader message_to(int destination, size_t bytes, uint32_t microbatch, MessageKind kind) {
  MessageHeader header;
  header.kind = kind;
  header.destination = static_cast<uint16_t>(destination);
  header.microbatch = microbatch;
  set_payload(header, WireDtype::kBytes, std::array{static_cast<int64_t>(bytes)});
  return header;
}

void Recorder::on_announced(Ticket ticket, const MessageHeader& header) {
  incoming.push_back(std::make_unique<Incoming>(Incoming{ticket, header, {}, false, {}}));
  if (receive_at_once) let_in(*incoming.back());
}

void Recorder::let_in(Incoming& message) {
  message.payload.assign(message.header.payload_bytes, std::byte{0xee});
  transport_.receive(message.ticket, message.payload);
}

void Recorder::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  const auto found = std::ranges::find_if(incoming, [&](const auto& message) { return message->ticket == ticket; });
  ASSERT_NE(found, incoming.end());
  EXPECT_FALSE((*found)->received) << "received twice";
  EXPECT_EQ((*found)->header, header);
  (*found)->received = true;
  (*found)->status = status;
}

void Recorder::on_sent(Ticket ticket, const Status& status) {
  EXPECT_TRUE(sent.emplace(ticket, status).second) << "sent twice";
}

void Recorder::on_peer_failed(int node, const Status& status) { failures.emplace_back(node, status); }

bool Recorder::run_until(const std::function<bool()>& condition) {
  const auto deadline = Clock::now() + kLimit;
  while (!condition()) {
    if (Clock::now() >= deadline) return false;
    transport_.run_once(deadline);
  }
  return true;
}

size_t Recorder::received_count() const {
  return std::ranges::count_if(incoming, [](const auto& message) { return message->received; });
}

NetworkKind in_process_kind() {
  return {"InProcess", [](int node_count) { return std::make_unique<InProcessTestNetwork>(node_count); }};
}

NetworkKind ucx_kind() {
  return {"Ucx", [](int node_count) { return std::make_unique<UcxTestNetwork>(node_count); }};
}

void run_nodes(TestNetwork& network, int node_count, const std::function<void(int, Transport&)>& body) {
  std::vector<std::thread> threads;
  for (int node = 0; node < node_count; ++node) {
    threads.emplace_back([&, node] {
      Transport& transport = network.transport(node);
      body(node, transport);
      transport.set_listener(nullptr);
      const Status closed = transport.close(std::chrono::duration_cast<std::chrono::milliseconds>(kLimit));
      EXPECT_TRUE(closed.ok()) << "node " << node << ": " << closed.message();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace skippipe::test
