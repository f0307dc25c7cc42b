// The simulator: drives one node machine per node on a virtual clock with the cost model of schedule/plan/network.h. It
// is the planners' objective and the way tests explore timings.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "schedule/machine/cost_model.h"
#include "schedule/machine/event_queue.h"
#include "schedule/machine/node_machine.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// What happened when, for timelines and tests.
struct SimulationRecord {
  struct Work {
    enum class Kind : uint8_t { kForward, kLoss, kBackward, kReduce, kNorm, kStep };  // kNorm: in real runs only
    Kind kind;
    int node;
    int microbatch;  // -1 but for the first three
    int slot;        // likewise; -1: unknown
    uint32_t iteration;
    double start_s;
    double end_s;
  };
  struct Transfer {
    enum class Kind : uint8_t { kForward, kBackward, kReduction, kNorm };
    Kind kind;
    int from;
    int to;
    int microbatch;  // -1 but for the first two
    uint32_t iteration;
    double start_s;  // the link begins to send
    double end_s;    // arrived
  };
  std::vector<Work> work;
  std::vector<Transfer> transfers;
  // Of the norms of an iteration only the one that came last to each node, which is what it waited for; from the node
  // to itself if that is its own.
  std::vector<Transfer> last_norms;
};

struct SimulationOptions {
  Admission admission = Admission::kRanked;
  uint32_t iterations = 1;
  // Every duration of a task or transfer is multiplied by a factor drawn from [1/jitter, jitter], uniform in its
  // logarithm.
  double jitter = 1;
  uint64_t seed = 0;
  SimulationRecord* record = nullptr;
  const ValidationPlan* validation = nullptr;  // what the run has of them; null: nothing
};

struct Simulation {
  bool deadlock = false;
  int unfinished_tasks = 0;        // when deadlocked
  double iteration_s = 0;          // from the start to the last node's step of the first iteration
  double steady_iteration_s = 0;   // mean over the iterations after the first; 0 if there is only one
  double waiting_share = 0;        // of the first iteration, mean over nodes: see Prediction
  std::vector<double> busy_share;  // per node, of the first iteration: tasks and optimizer step
  double bytes_sent = 0;           // in the first iteration
  double validation_s = 0;         // from the last node's step of the first iteration with a validation to its end
  uint64_t machine_events = 0;     // events handed to node machines
};

// Made once per network (of at most 32,767 nodes, else PlanError); then each run allocates only where a plan is larger
// than any before. Owned by one thread.
//
// Cost model: forward = forward_s x layers of the stage x samples, backward and loss by the node's ratios. A message
// waits until its directed link is free, occupies it for bytes / bandwidth, and is announced latency + overhead later;
// letting it in takes no time. Where the sender has an uplink, the message waits until both are free, occupies them
// from then on, each for bytes / its own bandwidth, and is announced latency + overhead after it has left both.
// Reduction: every replica sends each of the others its shard (gradient bytes / replicas), sums its own shard when all
// have come, and sends the sum to all; done when all sums have come. Gradients of no bytes take no messages. Norms: 64
// bytes from every node to every other. Step = step_s_per_byte x gradient bytes.
//
// Validations: a loss takes as long as one with gradients; losses are exchanged as norms are. A visit's result leaves
// its slot only when the receiver lets it in, the latest that a network may take: whatever runs so runs with any.
class Simulator {
 public:
  explicit Simulator(const Network& network);

  // The plan's workload on this network. The result is valid until the next run. Throws PlanError if the plan is not
  // for this network's number of nodes or its visits contradict each other; rules are the validator's
  // (schedule/plan/validator.h).
  const Simulation& run(const Plan& plan, const SimulationOptions& options = {});

  // After a deadlock: what each unfinished node waits for, a line each.
  std::string describe_deadlock() const;
  // The order in which a node let its visits in (microbatches) in the last iteration of the last run.
  std::span<const int32_t> admitted(int node) const { return machines_[static_cast<size_t>(node)].admitted(); }
  // The order in which a node ran its losses and backward passes in that iteration.
  std::span<const GradientPass> gradient_passes(int node) const {
    return machines_[static_cast<size_t>(node)].gradient_passes();
  }

 private:
  struct LinkCost {
    double fixed_s = 0;  // latency and overhead
    double s_per_byte = 0;
    double free_s = 0;  // when the last message has left
  };
  // Of a node; of no cost where it is not shared.
  struct Uplink {
    double s_per_byte = 0;
    double free_s = 0;
  };
  // When a message starts, and when it has left link and uplink.
  struct Departure {
    double start_s = 0;
    double left_s = 0;
  };
  // How many of the messages that a node waits for are sent, and when the last of these arrives.
  struct Gathering {
    int count = 0;
    double last_arrival_s = 0;
  };
  struct NodeCost {
    int stage = -1;
    TaskSeconds seconds;
    double busy_s = 0;      // first iteration
    double reducing_s = 0;  // first iteration
    Gathering scattered;    // others' shards, and its own start
    Gathering gathered;     // others' sums, and its own
  };

  void prepare(const Plan& plan);
  void handle(const SimulatedEvent& event);
  void obey(int node);
  void run_task(int node, const Action& action);
  void send(int node, const Action& action);
  void begin_reduction(int node, uint32_t iteration);
  void finish_reduction(int node, uint32_t iteration);
  // Of norms, or losses: a few numbers from every node to every other. `done` comes when all are there.
  void exchange(int node, uint32_t iteration, SimulatedEvent::Kind done);
  void tell_sender(const Action& received);
  void step(int node, const Action& action);
  void send_shards(int node, uint32_t iteration, SimulatedEvent::Kind done);
  void summarize();

  double jittered(double seconds);
  // Occupies the link, and the sender's uplink if it has one.
  Departure depart(int from, int to, double link_s, double uplink_s);
  double transfer(int from, int to, double bytes, uint32_t iteration, int microbatch,
                  SimulationRecord::Transfer::Kind kind);
  // One more message sent that arrives at `arrival_s`; with the last of `expected`, pushes the event.
  void collect(Gathering& gathering, int expected, double arrival_s, SimulatedEvent::Kind kind, int node,
               uint32_t iteration);
  void push(double time_s, SimulatedEvent::Kind kind, int node, uint32_t iteration);
  void record_work(SimulationRecord::Work::Kind kind, int node, const Action& action, double start_s, double end_s);
  bool is_of_validation(int32_t microbatch) const {
    return microbatch >= static_cast<int32_t>(plan_->microbatches.size());
  }
  size_t link_index(int from, int to) const {
    return static_cast<size_t>(from) * nodes_.size() + static_cast<size_t>(to);
  }
  const std::vector<int>& stage_nodes(int node) const {
    return plan_->stages[static_cast<size_t>(costs_[static_cast<size_t>(node)].stage)];
  }

  std::vector<NetworkNode> nodes_;
  std::vector<LinkCost> links_;
  std::vector<size_t> used_links_;  // in this run: indices into links_
  std::vector<Uplink> uplinks_;
  std::vector<MachineConfig> configs_;
  std::vector<NodeMachine> machines_;
  std::vector<NodeCost> costs_;
  std::vector<double> norm_arrival_s_;
  std::vector<SimulationRecord::Transfer> last_norms_;  // by node, while recording
  std::vector<double> iteration_end_s_;
  std::vector<double> stage_reduction_start_s_;  // when the last replica began
  EventQueue events_;
  ActionList actions_;
  Simulation result_;

  const Plan* plan_ = nullptr;  // during run
  SimulationOptions options_;
  Random random_{0};
  double log_jitter_ = 0;
  double now_ = 0;
  int used_nodes_ = 0;
  int norms_sent_ = 0;
  double validation_end_s_ = 0;  // of the first
  uint32_t validated_ = 0;       // the iteration before it
  int64_t unfinished_tasks_ = 0;
};

}  // namespace skippipe
