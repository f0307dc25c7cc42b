#include "schedule/pictures/critical_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"

namespace skippipe {
namespace {

using Kind = CriticalPiece::Kind;
using Transfer = SimulationRecord::Transfer;
using Work = SimulationRecord::Work;

constexpr double kNever = -1;

// Something that could begin, and what let it: a message, or on the same node the end of what ran before.
struct Cause {
  double s = kNever;
  const Transfer* message = nullptr;
  int node = -1;  // where it began
};

class Tracer {
 public:
  Tracer(const Plan& plan, const SimulationRecord& record, uint32_t iteration)
      : plan_(plan),
        stage_of_(plan.stage_of_nodes()),
        begin_s_(plan.node_names.size(), 0),
        tasks_(plan.node_names.size()),
        ended_(plan.node_names.size()) {
    for (const Work& work : record.work) {
      if (work.iteration == iteration) add_work(work);
      if (work.iteration + 1 == iteration && work.kind == Work::Kind::kStep)
        begin_s_[static_cast<size_t>(work.node)] = work.end_s;
    }
    for (const Transfer& transfer : record.transfers)
      if (transfer.iteration == iteration) add_transfer(transfer);
    for (const Transfer& norm : record.last_norms)
      if (norm.iteration == iteration) last_norms_[norm.to] = &norm;
  }

  std::vector<CriticalPiece> run() {
    if (!last_step_) throw PlanError("the record holds no whole iteration");
    at_s_ = last_step_->end_s;
    add({.kind = Kind::kStep, .node = last_step_->node}, last_step_->start_s);
    int node = trace_norm(last_step_->node);
    node = trace_reduction(node);
    const std::vector<const Work*>& tasks = tasks_of(node);
    if (!tasks.empty()) node = trace_tasks(*tasks.back());
    SKP_CHECK(at_s_ == begin_s(node), "the critical path begins at {} s on node {}", at_s_, node);
    std::ranges::reverse(pieces_);
    return std::move(pieces_);
  }

 private:
  using TaskKey = std::tuple<Work::Kind, int, int>;              // of a node and a microbatch
  using MessageKey = std::tuple<Transfer::Kind, int, int, int>;  // from, to, microbatch

  const std::vector<const Work*>& tasks_of(int node) const { return tasks_[static_cast<size_t>(node)]; }

  // When the node had stepped, and could begin the iteration.
  double begin_s(int node) const { return begin_s_[static_cast<size_t>(node)]; }

  void add_work(const Work& work) {
    const auto node = static_cast<size_t>(work.node);
    if (work.kind == Work::Kind::kStep) {
      if (!last_step_ || work.end_s > last_step_->end_s) last_step_ = &work;
    } else if (work.microbatch >= 0) {
      place_[{work.kind, work.node, work.microbatch}] = tasks_[node].size();
      tasks_[node].push_back(&work);
      if (work.kind == Work::Kind::kBackward) ended_[node].push_back(&work);
    }
  }

  void add_transfer(const Transfer& transfer) {
    links_[{transfer.from, transfer.to}].push_back(&transfer);
    const MessageKey key{transfer.kind, transfer.from, transfer.to, transfer.microbatch};
    // Between two replicas a shard goes first, then a sum.
    if (!messages_.emplace(key, &transfer).second) sums_[{transfer.from, transfer.to}] = &transfer;
  }

  // A piece from `start_s` to where the path has come.
  void add(CriticalPiece piece, double start_s) {
    SKP_CHECK(start_s <= at_s_, "a critical path goes from {} s on to {} s", at_s_, start_s);
    piece.start_s = start_s;
    piece.end_s = at_s_;
    if (start_s < at_s_) pieces_.push_back(piece);
    at_s_ = start_s;
  }

  // Over the wire, and before it in the queue of the link since `sent_s`.
  void add_message(const Transfer& message, double sent_s) {
    static constexpr Kind kKinds[] = {Kind::kActivations, Kind::kActivations, Kind::kReduction, Kind::kNorm};
    add({.kind = kKinds[static_cast<size_t>(message.kind)],
         .node = message.from,
         .peer = message.to,
         .microbatch = message.microbatch},
        message.start_s);
    add({.kind = Kind::kLink,
         .node = message.from,
         .peer = message.to,
         .microbatch = message.microbatch,
         .behind = before_on_link(message)},
        sent_s);
  }

  int before_on_link(const Transfer& message) const {
    const auto link = links_.find({message.from, message.to});
    if (link == links_.end()) return -1;
    const Transfer* before = nullptr;
    for (const Transfer* other : link->second)
      if (other != &message && other->start_s < message.start_s) before = other;
    return before ? before->microbatch : -1;
  }

  // Returns the node whose norm came last.
  int trace_norm(int node) {
    const auto last = last_norms_.find(node);
    if (last == last_norms_.end()) return node;
    const Transfer& norm = *last->second;
    if (norm.from != norm.to) add_message(norm, reduced(norm.from).s);
    return norm.from;
  }

  // When the node's tasks had ended, the shards of the others had come, and their sums, and why not earlier.
  double tasks_end_s(int node) const { return tasks_of(node).empty() ? begin_s(node) : tasks_of(node).back()->end_s; }

  Cause scattered(int node) const {
    Cause last;
    for (const int replica : replicas(node)) {
      const auto shard = messages_.find({Transfer::Kind::kReduction, replica, node, -1});
      later(last, shard == messages_.end() ? Cause{tasks_end_s(replica), nullptr, replica}
                                           : Cause{shard->second->end_s, shard->second, replica});
    }
    return last;
  }

  Cause reduced(int node) const {
    if (replicas(node).size() == 1) return {tasks_end_s(node), nullptr, node};
    Cause last;
    for (const int replica : replicas(node)) {
      const auto sum = sums_.find({replica, node});
      later(last, sum == sums_.end() ? Cause{scattered(replica).s, nullptr, replica}
                                     : Cause{sum->second->end_s, sum->second, replica});
    }
    return last;
  }

  static void later(Cause& last, const Cause& cause) {
    if (cause.s > last.s) last = cause;
  }

  const std::vector<int>& replicas(int node) const {
    return plan_.stages[static_cast<size_t>(stage_of_[static_cast<size_t>(node)])];
  }

  // Returns the node whose tasks ended last of those that mattered.
  int trace_reduction(int node) {
    if (replicas(node).size() == 1) return node;
    const Cause sum = reduced(node);
    const Cause shard = scattered(sum.node);
    if (sum.message) add_message(*sum.message, shard.s);
    if (shard.message) add_message(*shard.message, tasks_end_s(shard.node));
    return shard.node;
  }

  const Work* task(Work::Kind kind, int node, int microbatch) const {
    const auto at = place_.find(TaskKey{kind, node, microbatch});
    if (at == place_.end()) throw PlanError("the record lacks a task of microbatch {} on node {}", microbatch, node);
    return tasks_of(node)[at->second];
  }

  const Transfer& message(Transfer::Kind kind, int from, int to, int microbatch) const {
    const auto at = messages_.find({kind, from, to, microbatch});
    if (at == messages_.end())
      throw PlanError("the record lacks a message of microbatch {} from node {} to {}", microbatch, from, to);
    return *at->second;
  }

  // Returns the node where the path begins.
  int trace_tasks(const Work& last) {
    int node = last.node;
    for (const Work* work = &last; work;) {
      node = work->node;
      static constexpr Kind kKinds[] = {Kind::kForward, Kind::kLoss, Kind::kBackward};
      add({.kind = kKinds[static_cast<size_t>(work->kind)], .node = work->node, .microbatch = work->microbatch},
          work->start_s);
      work = work->kind == Work::Kind::kForward ? before_forward(*work) : before_gradient_pass(*work);
    }
    return node;
  }

  // The task that went before, or none at the start of the iteration.
  const Work* before_forward(const Work& work) {
    const std::vector<PlannedVisit>& visits = visits_of(work);
    const auto visit = std::ranges::find(visits, work.node, &PlannedVisit::node);
    const int waits_for = visit->rank - plan_.node_slots[static_cast<size_t>(work.node)];
    const Work* freed =
        waits_for < 0 ? nullptr : ended_[static_cast<size_t>(work.node)][static_cast<size_t>(waits_for)];
    if (visit == visits.begin()) {
      add_queue(work, freed ? freed->end_s : begin_s(work.node));
      return freed;
    }
    const int previous = (visit - 1)->node;
    const Transfer& input = message(Transfer::Kind::kForward, previous, work.node, work.microbatch);
    add_queue(work, std::max({input.end_s, begin_s(work.node), freed ? freed->end_s : 0}));
    if (!freed && begin_s(work.node) > input.end_s) return nullptr;  // the node's step was later
    if (freed && freed->end_s > input.end_s)
      add({.kind = Kind::kSlot, .node = work.node, .microbatch = work.microbatch, .behind = freed->microbatch},
          input.end_s);
    return sender(input, task(Work::Kind::kForward, previous, work.microbatch));
  }

  const Work* before_gradient_pass(const Work& work) {
    const std::vector<PlannedVisit>& visits = visits_of(work);
    const auto visit = std::ranges::find(visits, work.node, &PlannedVisit::node);
    const int data_node = visits.front().node, last_node = visits.back().node;
    if (work.kind == Work::Kind::kLoss)
      return before(work, Transfer::Kind::kForward, task(Work::Kind::kForward, last_node, work.microbatch));
    const bool is_last = visit + 1 == visits.end();
    return before(work, Transfer::Kind::kBackward,
                  is_last ? task(Work::Kind::kLoss, data_node, work.microbatch)
                          : task(Work::Kind::kBackward, (visit + 1)->node, work.microbatch));
  }

  // `work` needs what `previous` made, perhaps on another node.
  const Work* before(const Work& work, Transfer::Kind kind, const Work* previous) {
    if (previous->node == work.node) {
      add_queue(work, previous->end_s);
      return previous;
    }
    const Transfer& input = message(kind, previous->node, work.node, work.microbatch);
    add_queue(work, input.end_s);
    return sender(input, previous);
  }

  const Work* sender(const Transfer& message, const Work* task) {
    add_message(message, task->end_s);
    return task;
  }

  // `work` could run since `ready_s`: the node ran others, or kept the order of its gradient passes.
  void add_queue(const Work& work, double ready_s) {
    const std::vector<const Work*>& tasks = tasks_of(work.node);
    int behind = work.microbatch;
    for (size_t k = place_.at(TaskKey{work.kind, work.node, work.microbatch}); at_s_ > ready_s; --k) {
      const Work* other = k > 0 ? tasks[k - 1] : nullptr;
      const CriticalPiece turn{.kind = Kind::kTurn, .node = work.node, .microbatch = work.microbatch, .behind = behind};
      add(turn, std::max(ready_s, other ? other->end_s : ready_s));
      if (!other) return;
      behind = other->microbatch;
      add({.kind = Kind::kQueue, .node = work.node, .microbatch = work.microbatch, .behind = behind},
          std::min(at_s_, std::max(ready_s, other->start_s)));
    }
  }

  const std::vector<PlannedVisit>& visits_of(const Work& work) const {
    return plan_.microbatches[static_cast<size_t>(work.microbatch)].visits;
  }

  const Plan& plan_;
  const std::vector<int> stage_of_;
  std::vector<double> begin_s_;                  // per node
  std::vector<std::vector<const Work*>> tasks_;  // per node, in order
  std::vector<std::vector<const Work*>> ended_;  // per node, backward passes in order
  std::map<TaskKey, size_t> place_;              // in tasks_
  std::map<MessageKey, const Transfer*> messages_;
  std::map<std::pair<int, int>, const Transfer*> sums_;  // of a reduction, by from and to
  std::map<std::pair<int, int>, std::vector<const Transfer*>> links_;
  std::map<int, const Transfer*> last_norms_;  // by receiver
  const Work* last_step_ = nullptr;
  std::vector<CriticalPiece> pieces_;  // backwards
  double at_s_ = 0;
};

}  // namespace

std::vector<CriticalPiece> critical_path(const Plan& plan, const SimulationRecord& record, uint32_t iteration) {
  return Tracer(plan, record, iteration).run();
}

std::string describe(const CriticalPiece& piece, const Plan& plan) {
  const auto name = [&](int node) { return plan.node_names[static_cast<size_t>(node)]; };
  const auto behind = [&] {
    return piece.behind < 0 ? std::string("gradients") : fmt::format("microbatch {}", piece.behind);
  };
  switch (piece.kind) {
    case Kind::kForward:
      return fmt::format("forward of microbatch {} on {}", piece.microbatch, name(piece.node));
    case Kind::kLoss:
      return fmt::format("loss of microbatch {} on {}", piece.microbatch, name(piece.node));
    case Kind::kBackward:
      return fmt::format("backward of microbatch {} on {}", piece.microbatch, name(piece.node));
    case Kind::kStep:
      return fmt::format("optimizer step on {}", name(piece.node));
    case Kind::kActivations:
      return fmt::format("microbatch {} on the wire from {} to {}", piece.microbatch, name(piece.node),
                         name(piece.peer));
    case Kind::kReduction:
      return fmt::format("gradients on the wire from {} to {}", name(piece.node), name(piece.peer));
    case Kind::kNorm:
      return fmt::format("gradient norm on the wire from {} to {}", name(piece.node), name(piece.peer));
    case Kind::kLink:
      return fmt::format("{} waits for the link from {} to {} behind {}",
                         piece.microbatch < 0 ? "a sum of gradients" : fmt::format("microbatch {}", piece.microbatch),
                         name(piece.node), name(piece.peer), behind());
    case Kind::kQueue:
      return fmt::format("microbatch {} waits on {} behind {}", piece.microbatch, name(piece.node), behind());
    case Kind::kSlot:
      return fmt::format("microbatch {} waits for a slot on {}, freed by {}", piece.microbatch, name(piece.node),
                         behind());
    case Kind::kTurn:
      return fmt::format("microbatch {} waits on {} for its turn after {}", piece.microbatch, name(piece.node),
                         behind());
  }
  throw InternalError("no critical piece has the number {}", static_cast<int>(piece.kind));
}

}  // namespace skippipe
