// The node machine decides what a node does next; the simulator and the engine obey it (see README.md).
//
// A pure, deterministic state machine: events go in with the time as an argument, actions come out. It does no I/O,
// reads no clock, holds no lock and no tensor. Owned and driven by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "schedule/machine/bit_set.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/validation_plan.h"

namespace skippipe {

enum class Phase : uint8_t { kForward = 1, kBackward = 2 };
enum class TaskKind : uint8_t { kForward = 1, kLoss = 2, kBackward = 3 };

struct Action {
  enum class Kind : uint8_t {
    kReceive,         // let the announced message (microbatch, phase) in, into `slot`
    kRun,             // run `task` of the microbatch in `slot`; at most one task runs at a time
    kSend,            // send the result of `phase` of the microbatch in `slot` to node `peer`
    kReduce,          // sum the stage's gradients over its replicas
    kExchangeNorm,    // agree on the global gradient norm over all the nodes
    kStep,            // optimizer step; `contributions` visits of this node added to the gradients
    kExchangeLosses,  // agree on the losses of the validation over all the nodes
    kFinish,          // all iterations are done
    kFail,            // the run can't go on; `why()` says why. No action follows
  };
  Kind kind;
  TaskKind task = TaskKind::kForward;  // kRun: which; kSend: the task whose result is sent
  Phase phase = Phase::kForward;
  int32_t slot = -1;
  int32_t microbatch = -1;
  int32_t peer = -1;
  uint32_t iteration = 0;
  int32_t contributions = 0;
  bool tell_sent = false;  // kSend: message_sent is due once the slot's result may be overwritten
};

// The actions of one event, in the order in which they must be obeyed. Fixed capacity, reused from call to call.
class ActionList {
 public:
  explicit ActionList(size_t capacity) { actions_.reserve(capacity); }
  void clear() { actions_.clear(); }
  void push(const Action& action) { actions_.push_back(action); }
  std::span<const Action> view() const { return actions_; }

 private:
  std::vector<Action> actions_;
};

// One visit as its node sees it.
struct MachineVisit {
  int32_t microbatch = -1;
  int32_t rank = 0;
  int32_t next_node = -1;      // where the forward result goes; the data node after the last visit; -1: stays here
  int32_t previous_node = -1;  // where the backward result goes; -1 on the data node
  int32_t loss_gradient_node =
      -1;                     // on the data node: who gets the loss gradient (the path's last node); -1: stays here
  bool is_data = false;       // first visit of its path: starts by itself, computes the loss
  bool forward_only = false;  // of a validation: ends once its result has left, on the data node with its loss
  int32_t forward_priority = 0;
  int32_t loss_priority = 0;
  int32_t backward_priority = 0;
  int32_t loss_rank = 0;  // among the node's gradient passes
  int32_t backward_rank = 0;
};

// A loss or a backward pass: both add to gradients.
struct GradientPass {
  int32_t microbatch;
  TaskKind kind;
};

// What a node waits for.
struct Waiting {
  enum class For : uint8_t { kNothing, kStart, kTask, kMessage, kDeparture, kReduction, kNorm, kStep, kLosses };
  For what = For::kNothing;
  TaskKind task = TaskKind::kForward;  // kTask: its own, under way
  Phase phase = Phase::kForward;       // kMessage
  int32_t microbatch = -1;             // kTask, kMessage, kDeparture
  int32_t peer = -1;                   // kMessage: who sends it; kDeparture: who takes it
  uint32_t iteration = 0;
  bool validation = false;  // that follows the iteration

  friend bool operator==(const Waiting&, const Waiting&) = default;
};
// "forward of microbatch 5 from node 2", "the optimizer step"
std::string describe(const Waiting& waiting);

// Ranked admission excludes deadlock (README.md), and with it gradient passes run in the order of their ranks, so that
// what a run computes does not depend on timing. Any-slot admission serves planners, which derive ranks from it.
enum class Admission : uint8_t { kRanked, kAnySlot };

struct MachineConfig {
  int32_t node = 0;
  int32_t slots = 1;
  int32_t microbatches = 0;             // of the whole iteration
  int32_t validation_microbatches = 0;  // of a whole validation; numbered from `microbatches` on
  uint32_t validation_interval = 0;     // one follows every so many iterations, and the last; 0: none does
  uint32_t first_iteration = 0;
  uint32_t last_iteration = 0;  // one past the last
  int32_t replicas = 1;         // nodes of the stage
  bool exchange_norm = true;
  Admission admission = Admission::kRanked;
  std::vector<MachineVisit> visits;  // those of validations behind the others
};

// The visit at `position` of a microbatch's path, as its node sees it.
MachineVisit machine_visit(const PlannedMicrobatch& planned, size_t microbatch, size_t position);

// The validation's part of a node's machine: to be added once all visits of the plan are there.
void add_validation(MachineConfig& config, const ValidationPlan& validation);

// The part of a plan that one node's machine needs. Throws PlanError if the node is in no stage.
MachineConfig machine_config(const Plan& plan, int node, uint32_t first_iteration, uint32_t last_iteration,
                             const ValidationPlan& validation = {});

class NodeMachine {
 public:
  // Throws PlanError if the visits contradict each other: a microbatch twice, or ranks that are no permutation.
  explicit NodeMachine(MachineConfig config);

  // As if constructed anew from `config`; allocates only where a count is larger than ever before.
  void reset(const MachineConfig& config);
  // The most actions that one event can return.
  static size_t max_actions(size_t visits) { return visits + 8; }

  // Events. Times in seconds, never decreasing. Each appends its actions to `out` (the caller clears it). An event that
  // the protocol excludes (a message twice, of a foreign microbatch, of a past iteration) ends in kFail; after that,
  // events do nothing.
  void start(double now, ActionList& out);
  // A message for this node is there to be let in; kReceive answers now or once there is a slot. Messages of the next
  // iteration, of the next validation, or from before `start`, wait.
  void message_announced(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out);
  // Its content is in the slot.
  void message_received(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out);
  // The content of a message that kSend asked to tell of has left the slot.
  void message_sent(double now, uint32_t iteration, int32_t microbatch, ActionList& out);
  void task_finished(double now, ActionList& out);
  void reduced(double now, ActionList& out);
  void norm_exchanged(double now, ActionList& out);
  void stepped(double now, ActionList& out);
  void losses_exchanged(double now, ActionList& out);
  void peer_failed(double now, int32_t node, ActionList& out);
  // The nodes agreed that `iteration`, the current one or a later one, is the last. Causes no action by itself, and no
  // validation.
  void end_after(uint32_t iteration);

  // Whether a validation follows the iteration, unless the run ends before.
  bool validates_after(uint32_t iteration) const { return next_validated(iteration) == iteration; }

  // For reports and tests.
  uint32_t iteration() const { return iteration_; }
  bool finished() const { return state_ == State::kFinished; }
  int open_visits() const { return open_; }
  int slots() const { return config_.slots; }
  const std::string& why() const { return why_; }  // after kFail
  // The oldest thing missing: what open visits wait for, before those that never came.
  Waiting waiting() const;
  // The same as one line, e.g. "iteration 3: forward of microbatch 5 from node 2, since 1.250 s".
  std::string waiting_for() const;
  // The microbatches of this iteration's visits, or its validation's, in the order in which they were let in.
  std::span<const int32_t> admitted() const { return admitted_; }
  // The gradient passes of this iteration in the order in which they began.
  std::span<const GradientPass> gradient_passes() const { return gradient_passes_; }

 private:
  enum class State : uint8_t {
    kBefore,
    kVisiting,
    kReducing,
    kExchangingNorm,
    kStepping,
    kValidating,
    kExchangingLosses,
    kFinished,
    kFailed
  };
  // What a visit went through, in this order. Only data visits know the output (the path's last activations).
  enum class Progress : uint8_t {
    kAbsent,
    kWaiting,  // its input is announced (a data visit needs none), not yet let in
    kReceivingInput,
    kForward,  // ready or running; likewise kLoss and kBackward
    kSending,  // of a validation: the result leaves
    kAwaitingOutput,
    kReceivingOutput,
    kLoss,
    kAwaitingGradient,
    kReceivingGradient,
    kBackward,
    kEnded,
  };
  struct VisitState {
    Progress progress = Progress::kAbsent;
    bool early = false;  // the input of the next iteration, or validation, is announced
    int32_t slot = -1;
  };
  struct Task {
    int32_t visit;
    TaskKind kind;
  };

  void order_tasks();
  void begin_iteration(ActionList& out);
  void begin_visits(State what, int32_t first, int32_t count, ActionList& out);
  void finish_visits(ActionList& out);
  void next_iteration(ActionList& out);
  uint32_t next_validated(uint32_t from) const;
  uint32_t upcoming_iteration(int32_t visit) const;
  void after_reduction(ActionList& out);
  void let_in(int32_t visit, ActionList& out);
  void let_in_waiting(ActionList& out);
  void end_visit(int32_t visit, ActionList& out);
  void end_visit_and_go_on(int32_t visit, ActionList& out);
  void rank_visits();
  void rank_gradient_passes();
  int32_t gradient_rank(const Task& task) const;
  void make_ready(int32_t visit, TaskKind kind);
  void begin_gradient_pass(const Task& task);
  void run_next(ActionList& out);
  void push_visit_action(Action::Kind kind, int32_t visit, TaskKind task, Phase phase, int32_t peer, ActionList& out);
  Waiting missing(int32_t visit) const;
  void fail(std::string why, ActionList& out);
  void fail_message(const char* event, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out);

  int32_t visit_of(int32_t microbatch) const {
    return microbatch >= 0 && static_cast<size_t>(microbatch) < visit_of_.size()
               ? visit_of_[static_cast<size_t>(microbatch)]
               : -1;
  }
  const MachineVisit& visit(int32_t v) const { return config_.visits[static_cast<size_t>(v)]; }
  VisitState& state_of(int32_t v) { return visit_states_[static_cast<size_t>(v)]; }
  int32_t& position(int32_t v, TaskKind kind) {
    return positions_[static_cast<size_t>(v) * 3 + static_cast<size_t>(kind) - 1];
  }
  int32_t visit_count() const { return static_cast<int32_t>(config_.visits.size()); }
  bool under_way(int32_t v) const { return state_ == (visit(v).forward_only ? State::kValidating : State::kVisiting); }

  MachineConfig config_;
  State state_ = State::kBefore;
  uint32_t iteration_ = 0;
  uint32_t run_end_ = 0;          // last_iteration, before it was agreed otherwise
  int32_t iteration_visits_ = 0;  // the first of config_.visits; those of validations follow
  int32_t first_visit_ = 0;       // of the iteration or validation under way
  int32_t visits_ = 0;            // their number
  int32_t open_ = 0;
  int32_t ended_ = 0;
  int32_t running_ = -1;  // index into tasks_
  double last_event_s_ = 0;

  std::vector<int32_t> visit_of_;         // by microbatch, -1: none here
  std::vector<int32_t> visit_of_rank_;    // kRanked only: of the iteration's visits, then of the validation's
  std::vector<VisitState> visit_states_;  // by visit
  std::vector<Task> tasks_;               // highest priority first
  std::vector<int32_t> positions_;        // by visit and kind: index into tasks_, -1: no such task
  std::vector<uint64_t> keys_;            // scratch of order_tasks
  std::vector<int32_t> admitted_;
  std::vector<GradientPass> gradient_passes_;
  std::vector<int32_t> task_of_gradient_rank_;  // kRanked only
  BitSet early_gradients_;                      // kRanked: ranks of passes that could run but for those before them
  BitSet ready_;                                // of tasks_
  BitSet waiting_;                              // kAnySlot: forward tasks whose visits wait to be let in
  BitSet free_slots_;
  std::string why_;
};

}  // namespace skippipe
