// A node of a run: obeys a node machine with real tasks and a real network.
//
// Two threads. The event thread (the caller of run) owns machine, transport, collectives and, with a GPU, the copies
// between it and the host; it sleeps while there is nothing to do. The compute thread runs one task at a time on the
// stage and waits for the device. Every decision (order, slots, failure) is the
// machine's; here is only what it takes to obey.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/collectives/collectives.h"
#include "comm/control/awake_clock.h"
#include "comm/transport/transport.h"
#include "engine/checkpoint/checkpoint_writer.h"
#include "engine/files/sampler.h"
#include "engine/files/shard_windows.h"
#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "engine/node/compute_thread.h"
#include "engine/node/gradient_sum.h"
#include "engine/node/learning_rate.h"
#include "engine/node/message_traffic.h"
#include "engine/node/transfers.h"
#include "engine/trace/trace.h"
#include "kernels/adamw.h"
#include "schedule/machine/node_machine.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/validation_plan.h"

namespace skippipe {

struct TrainingSettings {
  uint32_t first_iteration = 0;  // of this run: optimizer steps done before
  uint32_t iterations = 0;       // in all
  LearningRate learning_rate;
  AdamWStep adamw;             // learning_rate, grad_scale and step are set for each iteration
  double clip_norm = 0;        // 0: off
  double stall_limit_s = 600;  // a node that waits for others so long, with nothing at all coming, gives up
  MessageSettings messages;    // with activations and their gradients
  ReductionSettings reduction;
  uint32_t checkpoint_interval = 0;     // iterations between checkpoints; 0: none are written
  double last_checkpoint_limit_s = 60;  // how long to try to write the last one
  ValidationPlan validation;
};

// What all nodes know of a validation: means over the targets of all held-out samples.
struct ValidationReport {
  double loss = 0;                  // through all stages
  std::optional<double> path_loss;  // along the plan's paths, where these are others
  double seconds = 0;               // that training waited
};

// What all nodes know of an iteration once its statistics are exchanged, and its validation's losses.
struct IterationReport {
  uint32_t iteration = 0;
  double loss = 0;           // mean over the microbatches
  double gradient_norm = 0;  // global, before clipping
  double learning_rate = 0;
  double seconds = 0;     // since the report before (the first: since the start), without a validation's
  double busy_share = 0;  // of `seconds`, computing, mean over the nodes
  int64_t tokens = 0;
  std::vector<double> node_busy_s = {};             // computing, by node
  std::optional<ValidationReport> validation = {};  // after the iteration, where one is due
};

// For tests and metrics; called on the thread that the name says.
struct NodeHooks {
  // Event thread: how the stage's gradients are summed (DeviceSum::outcome), once the replicas have agreed on that.
  std::function<void(const std::string& how, bool between_devices)> on_reduction;
  std::function<void(const IterationReport&)> on_report;              // event thread
  std::function<void(TaskKind, int microbatch)> on_task;              // compute thread, before one of an iteration
  std::function<void(uint32_t iteration, Stage& stage)> before_step;  // compute thread, gradients are reduced
  Tracer* tracer = nullptr;  // told what the node does but for its transfers (traced_transport.h); outlives it
};

class Node : private TransportListener {
 public:
  // Registers the communication buffers that the node will take from the slab; the stage's memory must have been
  // planned before.
  static void plan_memory(MemoryPlan& memory, const Plan& plan, int node, const StageSpec& stage, Dtype wire);

  // Everything but `hooks` and `checkpoints` is kept by reference and must outlive the node. sampler may be null on
  // nodes that are not data nodes, and held_out where there are no validations. checkpoints: of the first of each
  // stage's replicas, if the settings ask for any.
  Node(const Plan& plan, const TrainingSettings& settings, Stage& stage, Slab& slab, Transport& transport,
       const Sampler* sampler, const ShardWindows* held_out, std::unique_ptr<CheckpointWriter> checkpoints,
       NodeHooks hooks);
  ~Node() override;

  enum class End {
    kFinished,  // all iterations
    kStopped,   // fewer, after an iteration that all nodes agreed on
    kLeft,      // in mid-iteration, without the others
  };
  // Runs all iterations, or as many as request_stop leaves. Throws PeerError naming the peer that failed, RunError on
  // anything else that ended the run.
  End run();
  // After run, unless it ended kLeft: writes the last checkpoint, together with the other nodes. Not ok: it is not
  // whole; the message says why, kPeerGone that another node knows more.
  [[nodiscard]] Status write_last_checkpoint();
  // After run: says goodbye once the peers have all that this node sent. Who has left owes nobody anything. Nothing is
  // lost if it is not ok: a peer did not say in time that it has everything.
  [[nodiscard]] Status leave();
  // Ends the run of all nodes after an iteration that they agree on (with clipping, the current one; without, this node
  // leaves at once). From any thread.
  void request_stop();

  // Iterations that all nodes have completed, as far as this one knows, those before first_iteration among them.
  uint32_t iterations_done() const { return reports_; }

 private:
  // Of the compute thread.
  struct Job {
    TraceEvent::What what = TraceEvent::What::kForward;
    uint32_t iteration = 0;
    int microbatch = -1;  // of none
  };

  Node(MachineConfig machine, const Plan& plan, const TrainingSettings& settings, Stage& stage, Slab& slab,
       Transport& transport, const Sampler* sampler, const ShardWindows* held_out,
       std::unique_ptr<CheckpointWriter> checkpoints, NodeHooks hooks);

  void on_announced(Ticket ticket, const MessageHeader& header) override;
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override;
  void on_sent(Ticket ticket, const Status& status) override;
  void on_peer_failed(int node, const Status& status) override;

  // An event into the machine, its actions obeyed.
  template <typename Event>
  void feed(Event&& event);
  void obey(const Action& action);
  // Tells the machine of something that finished; false if nothing did.
  bool pump();
  // The same; throws if the run has ended by a failure.
  bool progress();
  // Sleeps until there is something to do.
  void wait();
  void agree_on_reduction();

  Transfers* start_transfers();
  MessageTraffic::Events message_events();

  void submit(const Job& job, std::function<void()> work);
  void job_done();
  void run_task(const Action& action);
  bool is_of_validation(int32_t microbatch) const { return microbatch >= microbatches_; }
  void run_forward(const MachineVisit& visit, const Action& action);
  void run_loss(const MachineVisit& visit, const Action& action);
  void run_backward(const MachineVisit& visit, const Action& action);
  void measure_norm(uint32_t iteration);
  void step(uint32_t iteration);

  void tell_stats(uint32_t iteration);
  void stats_arrived(const SumExchange::Result& result);
  void report(const SumExchange::Result& result);
  void tell_losses();
  void losses_arrived(std::span<const double> sums);
  void hand_out_report();
  // Of the checkpoints: copies the state, if one is due; publishes what all have written.
  void take_snapshot(uint32_t iterations_done);
  void tell_of_checkpoints(std::span<double> values) const;
  void checkpoints_arrived(std::span<const double> node_values);
  double seconds() const;
  void check_for_stall();
  void hear_of_other_failures();
  void fail(const Status& status);

  const TrainingSettings& settings_;
  Stage& stage_;
  Transport& transport_;
  const Sampler* sampler_;
  const ShardWindows* held_out_;
  NodeHooks hooks_;
  const int microbatches_;
  const std::vector<int> first_replicas_;   // of each stage: they measure norms and write checkpoints
  const bool first_replica_;                // this node is one of them
  const std::vector<MachineVisit> visits_;  // by microbatch; those not ours are empty

  ActionList actions_;
  std::optional<Transfers> transfers_;  // none on the CPU
  MessageTraffic traffic_;
  NodeMachine machine_;
  GradientSum gradient_sum_;
  SumExchange stats_;
  SumExchange losses_exchange_;            // of validations
  std::vector<int32_t> tokens_, targets_;  // of the microbatch that a task reads

  Job job_;                 // the last one submitted
  bool computing_ = false;  // a job is under way or not yet collected
  bool reducing_ = false;
  Clock::time_point reducing_since_;
  bool norm_known_ = false;   // and the machine does not know yet
  double gradient_norm_ = 0;  // global, of the last exchange
  uint32_t reports_ = 0;
  double last_report_s_ = 0;
  std::optional<IterationReport> report_;  // waits for the losses of the validation after it
  std::optional<ValidationReport> validation_;
  bool losses_known_ = false;  // and the machine does not know yet
  uint32_t validations_ = 0;   // of this run, begun to be told
  double validation_begin_s_ = 0;
  double validating_s_ = 0;   // since the last report
  std::string failure_;       // why the run ends, if it does
  int peers_failed_ = 0;      // that the transport has reported
  bool peer_failed_ = false;  // ... because of a peer
  Clock::time_point start_;
  Patience stall_;  // begins anew with each event
  std::atomic<bool> stop_requested_{false};
  bool last_checkpoint_ = false;    // being written
  std::optional<bool> last_whole_;  // all nodes have written it; known at the end

  // Written by the job under way, read by the event thread between jobs.
  double squared_norm_ = 0;
  double loss_sum_ = 0;
  int losses_ = 0;
  double busy_s_ = 0;
  uint32_t last_snapshot_ = 0;
  std::vector<LossSum> validation_losses_;  // by the validation's microbatch; zeros of those that others read
  Clock::time_point job_start_, job_end_;

  std::unique_ptr<CheckpointWriter> checkpoints_;
  ComputeThread compute_;  // last, so that it ends first: its job uses all of the above
};

}  // namespace skippipe
