// Sums a stage's gradients between the GPUs that hold them, where all of the stage's replicas can.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/control/awake_clock.h"
#include "comm/point_to_point/documents.h"
#include "comm/transport/transport.h"
#include "engine/model/stage.h"
#include "engine/node/transfers.h"
#include "kernels/communicator.h"

namespace skippipe {

struct ReductionSettings {
  bool between_devices = true;  // where possible; the same on all nodes of a run
  double connect_limit_s = 30;  // for GPUs to connect and to sum for the first time
};

// The replicas agree at start, by documents (comm/PROTOCOL.md): each offers what it can connect its device by, or says
// why it can't, the first one last; if all offers agree they connect, try a sum of the gradients' size, and tell
// whether it was right. Used if all say so; else by nobody, and the transport is left to sum. Who can't does not wait
// for the others.
//
// All replicas have the same bits after a sum, which is what NCCL says of its all-reduce; the order of the additions is
// its own, and may differ from run to run.
//
// Driven by the events of the transport and by poll(), on the event thread, as the collectives are.
class DeviceSum {
 public:
  // `host`: pinned memory of the gradients' size, used by agree(). transfers: null on the CPU. All outlive this object,
  // but the settings. `wake` is called on another thread when poll() has something to do.
  DeviceSum(Transport& transport, std::vector<int> replicas, Stage& stage, Tensor host, Transfers* transfers,
            const ReductionSettings& settings, std::function<void()> wake);

  // Begins. Until agreed(), gradients are zero but for what the trial leaves, and no task may touch them.
  void agree();
  bool agreed() const { return step_ == Step::kUsed || step_ == Step::kUnused; }
  bool used() const { return step_ == Step::kUsed; }
  // "by NCCL 2.28.9 between nodes 0, 3", "over the network: node 3 computes on the CPU"; empty where that was never a
  // question (one replica, or not to be tried).
  const std::string& outcome() const { return outcome_; }

  // If used(): begins the sum of what is in the gradients now; it may be done at once.
  void start();
  bool done() const { return !summing_; }
  // Not ok once a sum, or agreeing, ended without what was to come. It never is again.
  const Status& status() const { return status_; }
  // True if something has changed.
  bool poll();

  // True if the event was this object's.
  bool on_announced(Ticket ticket, const MessageHeader& header);
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status) { return documents_.on_sent(ticket, status); }
  void on_peer_failed(int node, const Status& status);

 private:
  enum class Step {
    kBefore,
    kOffering,    // not all offers are there
    kConnecting,  //
    kTrying,      // the first sum
    kAwaiting,    // the others' results
    kGivingUp,    // the device still has the gradients
    kUsed,
    kUnused,
  };
  struct Offer {
    std::string problem = {};  // empty: none
    std::string library = {};
    std::vector<std::byte> id = {};  // of the first replica
  };
  struct Replica {
    int node;
    std::optional<Offer> offer;
    std::optional<std::string> problem;  // the result; empty: none
  };

  Replica* find(int node);
  Offer make_offer();
  void tell_offer();
  void tell(const std::string& text);
  void hear(int from, const std::string& text);
  void advance();
  void judge_offers();
  void name_group();
  void connect();
  void watch_connection();
  void try_sum();
  void check_trial();
  void report(std::string problem);
  void give_up(std::string why);
  void judge_results();
  void end_if_let_go();
  bool poll_sum();
  void fail(Status status);

  Transport& transport_;
  Stage& stage_;
  const Tensor gradients_, host_;
  Transfers* const transfers_;
  const ReductionSettings settings_;
  const std::function<void()> wake_;
  std::vector<Replica> replicas_;
  size_t own_ = 0;
  Documents documents_;

  Step step_ = Step::kBefore;
  std::string outcome_;
  std::optional<Patience> patience_;
  bool offered_ = false;  // told
  bool copying_ = false;  // for the trial
  bool trying_ = false;   // the trial's sum was begun
  bool dirty_ = false;    // the gradients are not zero
  bool summing_ = false;
  Status status_;
  std::unique_ptr<CommunicatorLibrary> library_;
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace skippipe
