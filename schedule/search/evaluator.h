// The planners' objective, fast: what the Simulator says of a plan with priorities by start order and admission to any
// slot, from flat arrays, beginning where a candidate first differs from the one before.
//
// Why a second implementation of what the node machine decides: a search lives on evaluations, and the machine is made
// to be driven by anyone. Tests hold the two equal to the last bit; plans are completed and judged by the Simulator.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "schedule/machine/cost_model.h"
#include "schedule/search/planner.h"

namespace skippipe {

// A plan as a search changes it. Rows are microbatches in start order, `length` nodes each, the data node first.
struct Candidate {
  int length = 0;                        // P
  std::vector<std::vector<int>> stages;  // nodes of each stage
  std::vector<int> nodes;                // microbatches x length

  int microbatches() const { return static_cast<int>(nodes.size()) / length; }
  std::span<int> path(int microbatch) { return std::span(nodes).subspan(offset(microbatch), size()); }
  std::span<const int> path(int microbatch) const { return std::span(nodes).subspan(offset(microbatch), size()); }

 private:
  size_t size() const { return static_cast<size_t>(length); }
  size_t offset(int microbatch) const { return static_cast<size_t>(microbatch) * size(); }
};

Candidate candidate_of(const Plan& plan);
// The plan's stages and paths become the candidate's, of as many microbatches and visits.
void take_paths(const Candidate& candidate, Plan& plan);

// Lower is better: first of all every node can hold its stage, then no deadlock.
struct Cost {
  int64_t unfinished = 0;  // tasks, when deadlocked; more than any number of them for each node that is misplaced
  double seconds = 0;      // of the first iteration

  auto operator<=>(const Cost&) const = default;
  static Cost infinite() { return {std::numeric_limits<int64_t>::max(), std::numeric_limits<double>::infinity()}; }
};

// Owned by one thread. Allocates only where a candidate is larger than any before.
class Evaluator {
 public:
  // The cost model is the Simulator's. Keeps a reference to the request.
  explicit Evaluator(const PlanRequest& request);

  // The cost of a candidate; Cost::infinite() as soon as it is certain to be above `limit`. Stages need not be sorted;
  // every visited node is in the stage that its path needs (not checked), and no microbatch is visited twice by a node.
  Cost evaluate(const Candidate& candidate, const Cost& limit = Cost::infinite());
  // The last evaluated candidate (whose cost was not above its limit) becomes the one that later ones are compared
  // with. Nothing accepted yet: evaluations begin at the start.
  void accept();

 private:
  struct Event {
    double time_s;
    uint32_t what;  // 2 x task, + 1: its input arrives, + 0: it ends
  };
  // Sorted by time, and by insertion where times are equal. There are few at a time (at most one for each microbatch
  // under way), and new ones are mostly late, so that they pass few.
  class EventLine {
   public:
    EventLine() = default;
    EventLine(const EventLine& other) { *this = other; }
    EventLine& operator=(const EventLine& other);

    bool empty() const { return first_ == events_.size(); }
    void clear();
    void push(double time_s, uint32_t what);
    Event pop() { return events_[first_++]; }

   private:
    std::vector<Event> events_;
    size_t first_ = 0;  // those before are over
  };
  struct NodeState {
    int32_t running = -1;
    int32_t open = 0;
    int32_t ready = -1;    // list of tasks, first to run first
    int32_t waiting = -1;  // list of forward tasks that are not let in, likewise
    double last_end_s = 0;
    double uplink_free_s = 0;
  };
  struct BusyLink {
    size_t link;
    double free_s;
  };
  // All that changes while a candidate runs and that what comes depends on. Copied for snapshots.
  struct State {
    std::vector<NodeState> nodes;
    std::vector<int32_t> next;         // by microbatch, whose task is in a list: the task behind it there
    std::vector<BusyLink> busy_links;  // where a message may still wait; may name a link again, the last one counts
    EventLine events;
    int32_t event = 0;
    int32_t finished = 0;  // tasks
    double now_s = 0;
  };
  // One of a microbatch's tasks: forward along its path, loss, backward against it.
  struct Task {
    int32_t node = 0;
    int32_t microbatch = 0;
    int32_t step = 0;  // among its microbatch's tasks
    double duration_s = 0;
    double fixed_s = 0;      // of the message to the next one's node
    double remaining_s = 0;  // from its end to its microbatch's, unhindered
  };
  struct NodeCost {
    int32_t slots = 0;
    TaskSeconds seconds;
  };

  size_t first_task(int microbatch) const { return static_cast<size_t>(microbatch) * static_cast<size_t>(steps_); }
  double duration_s(int node, int step) const;
  int32_t& next(int task) { return state_.next[static_cast<size_t>(tasks_[static_cast<size_t>(task)].microbatch)]; }
  size_t link(int from, int to) const {
    return static_cast<size_t>(from) * static_cast<size_t>(node_count_) + static_cast<size_t>(to);
  }

  void shape(const Candidate& candidate);
  void take_stages(const std::vector<std::vector<int>>& stages);
  bool changes_tasks_alone(const Candidate& candidate) const;
  void take_rows(const Candidate& candidate);
  void restore_rows();
  void describe_tasks(int microbatch);
  int first_difference();
  void remember();
  void restart();
  void resume(const State& snapshot);
  void occupy(size_t link, double free_s);
  void start_nodes();
  bool run(double limit_s);
  void finish(int task);
  void arrive(int task);
  void insert(int32_t& list, int task);
  int end_visit(NodeState& node);
  void run_next(NodeState& node, int let_in_late);
  void send(int task);
  double transfer(double now_s, int from, int to, double bytes);
  double after_reduction();
  void reduce_stage(const std::vector<int>& replicas, size_t stage);
  void exchange_norms();

  const PlanRequest& request_;
  int node_count_ = 0;
  int microbatches_ = 0;
  int length_ = 0;
  int steps_ = 0;                  // tasks of a microbatch: forward along its path, loss, backward
  std::vector<int32_t> position_;  // by step: along the path
  std::vector<uint32_t> key_;      // by task: lower runs first
  std::vector<double> fixed_s_, s_per_byte_, uplink_s_per_byte_;
  double activation_bytes_ = 0;
  bool links_fill_ = false;  // some messages occupy links

  std::vector<int> nodes_;       // of the candidate under evaluation
  std::vector<int> base_nodes_;  // of the accepted one
  std::vector<NodeCost> costs_;
  std::vector<std::vector<int>> given_stages_, stages_;  // of the candidate; sorted, as in plans
  std::vector<int> used_nodes_;
  std::vector<int> stage_of_, base_stage_of_;  // by node, -1: unused
  int64_t misfits_ = 0;                        // see count_misfits
  std::vector<Task> tasks_, base_tasks_;
  std::vector<int> changed_;                   // rows of nodes_ that differ from base_nodes_
  std::vector<double> reduced_s_, arrived_s_;  // by node
  bool has_base_ = false;

  State state_;
  // free_s of links, as far as stamped with the run's number. Outside of State as few links are busy at a time.
  std::vector<double> link_free_s_;
  std::vector<uint64_t> link_run_;
  uint64_t run_ = 0;
  // By task: the event at which it ended, kNever if it did not. The trial's holds what ended from event trial_from_ on.
  std::vector<int32_t> trial_finish_, base_finish_;
  int32_t trial_from_ = 0;
  int base_last_event_ = 0;
  std::vector<State> snapshots_, trial_snapshots_;
  int snapshot_every_ = 0;
  int first_trial_snapshot_ = 0;
};

}  // namespace skippipe
