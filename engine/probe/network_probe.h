// Measures a network of running nodes: each device, then each link, one after another.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json_reader.h"
#include "comm/control/awake_clock.h"
#include "comm/point_to_point/documents.h"
#include "comm/point_to_point/link_probe.h"
#include "comm/transport/transport.h"
#include "engine/probe/link_measurement.h"
#include "engine/probe/probe.h"
#include "schedule/plan/network.h"

namespace skippipe {

struct NetworkProbeSettings {
  // What must be the same on all nodes, by name.
  std::vector<std::pair<std::string, std::string>> agreed;
  // This node's machine, by a name that no other has: devices of one machine are measured one after another.
  std::string machine;
  LinkProbeSettings links;
  std::chrono::seconds limit{7200};  // of the whole
};

// Nodes that may measure their devices at the same time, given the machine of each: one of every machine.
std::vector<std::vector<int>> device_waves(const std::vector<std::string>& machines);

// Of the run that these nodes make: a hash of their addresses, so that nodes which disagree on anything else still
// meet, and say what it is.
uint64_t probe_run_id(const std::vector<std::string>& addresses);

struct NetworkFigures {
  std::vector<ProbeResult> devices;    // by node
  std::vector<LinkMeasurement> links;  // nodes x nodes, row = from; the diagonal is empty
};

// `base` (names, regions) with these figures; message_bytes as in the settings of the links.
Network measured_network(Network base, const NetworkFigures& figures, double message_bytes);

// One node's part, used by one thread. All nodes first tell each other what they agree on. Then node 0 gives out the
// tasks and gathers what they measured: devices, at the same time only on different machines; then links, one direction
// of one pair at a time, since pairs may share a cable that nobody here knows of. The others do what they are told and
// answer probes meanwhile.
class NetworkProbe : private TransportListener {
 public:
  using DeviceProbe = std::function<ProbeResult(int nodes_on_machine)>;  // called on a thread of its own
  using ProgressHandler = std::function<void(int done, int total)>;      // on node 0

  // The transport must outlive this object, which closes it (at once, if nobody did before) when it ends.
  NetworkProbe(Transport& transport, NetworkProbeSettings settings, DeviceProbe device, ProgressHandler on_progress);
  ~NetworkProbe() override;

  // The figures on node 0, nothing elsewhere. Throws ConfigError if nodes do not agree, PeerError if one failed or
  // left, RunError if one did what it should not or the limit passed, and what the device probe throws.
  std::optional<NetworkFigures> run();

 private:
  struct Document {
    int from;
    std::string text;
  };

  void on_announced(Ticket ticket, const MessageHeader& header) override;
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override;
  void on_sent(Ticket ticket, const Status& status) override;
  void on_peer_failed(int node, const Status& status) override;
  void on_peer_left(int node) override;

  void wait(const std::function<bool()>& condition, const std::string& what);
  std::string next_document(int from, const char* what);
  std::vector<std::string> ask(const std::vector<int>& nodes, const nlohmann::json& task);
  void agree();
  NetworkFigures lead();
  void follow();
  nlohmann::json perform(const JsonReader& task);
  ProbeResult measure_device();
  LinkMeasurement measure_link(int peer);
  void end_with(Status status);

  Transport& transport_;
  const NetworkProbeSettings settings_;
  const DeviceProbe device_;
  const ProgressHandler on_progress_;
  Patience patience_;
  LinkProbe links_;
  Documents documents_;
  std::deque<Document> inbox_;
  std::vector<std::string> machines_;  // of all nodes, once they have told
  Status status_;                      // of the peers
  Status left_early_;                  // a peer left before this node knew whether all agree
  bool agreed_ = false;                // all settings were read
  bool ending_ = false;                // nothing is due from anyone any more
};

}  // namespace skippipe
