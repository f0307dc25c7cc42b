// The node machine decides what a node does next; the simulator and the engine obey it (see README.md).
//
// A pure, deterministic state machine: events go in with the time as an argument, actions come out. It does no I/O,
// reads no clock, holds no lock and no tensor. Owned and driven by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "schedule/plan.h"

namespace skippipe {

enum class Phase : uint8_t { kForward = 1, kBackward = 2 };
enum class TaskKind : uint8_t { kForward = 1, kLoss = 2, kBackward = 3 };

struct Action {
  enum class Kind : uint8_t {
    kReceive,       // let the announced message (microbatch, phase) in, into `slot`
    kRun,           // run `task` of the microbatch in `slot`; at most one task runs at a time
    kSend,          // send the result of `phase` of the microbatch in `slot` to node `peer`
    kReduce,        // sum the stage's gradients over its replicas
    kExchangeNorm,  // agree on the global gradient norm over all the nodes
    kStep,          // optimizer step with the gradients of `contributions` visits
    kFinish,        // all iterations are done
    kFail,          // the run can't go on; `why()` says why. No action follows
  };
  Kind kind;
  TaskKind task = TaskKind::kForward;
  Phase phase = Phase::kForward;
  int32_t slot = -1;
  int32_t microbatch = -1;
  int32_t peer = -1;
  uint32_t iteration = 0;
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
  int32_t loss_gradient_node = -1;  // on the data node: who gets the loss gradient (the path's last node); -1: stays here
  bool is_data = false;        // first visit of its path: starts by itself, computes the loss
  int32_t forward_priority = 0;
  int32_t loss_priority = 0;
  int32_t backward_priority = 0;
};

// Ranked admission excludes deadlock (README.md). Any-slot admission serves planners, which derive ranks from it.
enum class Admission : uint8_t { kRanked, kAnySlot };

struct MachineConfig {
  int32_t node = 0;
  int32_t slots = 1;
  int32_t microbatches = 0;     // of the whole iteration
  uint32_t first_iteration = 0;
  uint32_t last_iteration = 0;  // one past the last
  int32_t replicas = 1;         // nodes of the stage
  bool exchange_norm = true;
  Admission admission = Admission::kRanked;
  std::vector<MachineVisit> visits;
};

// The part of a plan that one node's machine needs.
MachineConfig machine_config(const Plan& plan, int node, uint32_t first_iteration, uint32_t last_iteration);

class NodeMachine {
 public:
  explicit NodeMachine(MachineConfig config);

  // Events. Times in seconds, never decreasing. Each appends its actions to `out` (the caller clears it). An event that
  // the protocol excludes (a message twice, of a foreign microbatch, of a past iteration) ends in kFail.
  void start(double now, ActionList& out);
  // A message for this node is there to be let in; kReceive answers now or once there is a slot.
  void message_announced(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out);
  // Its content is in the slot.
  void message_received(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out);
  void task_finished(double now, ActionList& out);
  void reduced(double now, ActionList& out);
  void norm_exchanged(double now, ActionList& out);
  void stepped(double now, ActionList& out);
  void peer_failed(double now, int32_t node, ActionList& out);

  // For reports and tests.
  uint32_t iteration() const;
  bool finished() const;
  int open_visits() const;
  int slots() const;
  const std::string& why() const;  // after kFail
  // One line on what the machine waits for, e.g. "iteration 3: forward of microbatch 5 from node 2".
  std::string waiting_for() const;
};

}  // namespace skippipe
