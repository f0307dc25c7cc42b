// Helpers of the transport tests: a listener that records, a driver of many nodes, and networks of either kind.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "comm/transport/transport.h"
#include "comm/transport/ucx_transport.h"

namespace skippipe::test {

using namespace std::chrono_literals;
inline constexpr auto kLimit = 60s;  // of every wait; a test that needs it has failed

std::vector<std::byte> random_bytes(Random& random, size_t count);

// A header of `bytes` bytes of payload (kBytes) or of another type.
MessageHeader message_to(int destination, size_t bytes, uint32_t microbatch = 0,
                         MessageKind kind = MessageKind::kForward);

// Records all events; lets every announced message in at once unless told otherwise.
class Recorder : public TransportListener {
 public:
  explicit Recorder(Transport& transport) : transport_(transport) { transport.set_listener(this); }
  ~Recorder() override { transport_.set_listener(nullptr); }

  struct Incoming {
    Ticket ticket;
    MessageHeader header;
    std::vector<std::byte> payload;
    bool received = false;
    Status status;
  };

  void on_announced(Ticket ticket, const MessageHeader& header) override;
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override;
  void on_sent(Ticket ticket, const Status& status) override;
  void on_peer_failed(int node, const Status& status) override;
  void on_peer_left(int node) override { left.push_back(node); }

  void let_in(Incoming& message);
  // Runs the transport until the condition holds; false after kLimit.
  [[nodiscard]] bool run_until(const std::function<bool()>& condition);
  size_t received_count() const;

  bool receive_at_once = true;
  std::vector<std::unique_ptr<Incoming>> incoming;  // in the order of their announcements
  std::map<Ticket, Status> sent;
  std::vector<std::pair<int, Status>> failures;
  std::vector<int> left;

 private:
  Transport& transport_;
};

// Options for nodes on 127.0.0.1, on free ports that are listened on already.
std::vector<UcxOptions> local_options(int node_count);

// The transports of a run's nodes, in this process.
class TestNetwork {
 public:
  virtual ~TestNetwork() = default;
  virtual Transport& transport(int node) = 0;
};
using NetworkFactory = std::function<std::unique_ptr<TestNetwork>(int node_count)>;

struct NetworkKind {
  std::string name;
  NetworkFactory make;
};
NetworkKind in_process_kind();
NetworkKind ucx_kind();

// Runs body(node, transport) on a thread per node, then closes the transports (all of them at once, on their threads).
void run_nodes(TestNetwork& network, int node_count, const std::function<void(int, Transport&)>& body);

}  // namespace skippipe::test
