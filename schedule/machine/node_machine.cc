#include "schedule/machine/node_machine.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace skippipe {
namespace {

const char* name_of(Phase phase) { return phase == Phase::kForward ? "forward" : "backward"; }

const char* name_of(TaskKind kind) {
  return kind == TaskKind::kLoss ? "loss" : kind == TaskKind::kForward ? "forward" : "backward";
}

}  // namespace

MachineVisit machine_visit(const PlannedMicrobatch& planned, size_t microbatch, size_t position) {
  const std::vector<PlannedVisit>& path = planned.visits;
  const size_t last = path.size() - 1;
  MachineVisit visit;
  visit.microbatch = static_cast<int32_t>(microbatch);
  visit.rank = path[position].rank;
  visit.is_data = position == 0;
  if (last > 0) {
    visit.next_node = position == last ? path.front().node : path[position + 1].node;
    if (visit.is_data) visit.loss_gradient_node = path[last].node;
  }
  if (position > 0) visit.previous_node = path[position - 1].node;
  visit.forward_priority = path[position].forward_priority;
  visit.loss_priority = planned.loss_priority;
  visit.backward_priority = path[position].backward_priority;
  visit.loss_rank = planned.loss_rank;
  visit.backward_rank = path[position].backward_rank;
  return visit;
}

void add_validation(MachineConfig& config, const ValidationPlan& validation) {
  config.validation_microbatches = static_cast<int32_t>(validation.microbatches.size());
  config.validation_interval = validation.interval;
  for (size_t m = 0; m < validation.microbatches.size(); ++m) {
    const PlannedMicrobatch& planned = validation.microbatches[m];
    for (size_t i = 0; i < planned.visits.size(); ++i) {
      if (planned.visits[i].node != config.node) continue;
      MachineVisit& visit =
          config.visits.emplace_back(machine_visit(planned, m + static_cast<size_t>(config.microbatches), i));
      visit.forward_only = true;
    }
  }
}

MachineConfig machine_config(const Plan& plan, int node, uint32_t first_iteration, uint32_t last_iteration,
                             const ValidationPlan& validation) {
  MachineConfig config;
  config.node = node;
  config.replicas = 0;
  for (const std::vector<int>& stage : plan.stages)
    if (std::find(stage.begin(), stage.end(), node) != stage.end())
      config.replicas = static_cast<int32_t>(stage.size());
  if (config.replicas == 0) throw PlanError("node {} is in no stage of the plan", node);
  config.slots = plan.node_slots[static_cast<size_t>(node)];
  config.microbatches = static_cast<int32_t>(plan.microbatches.size());
  config.first_iteration = first_iteration;
  config.last_iteration = last_iteration;
  config.exchange_norm = plan.workload.exchange_norm;
  for (size_t m = 0; m < plan.microbatches.size(); ++m)
    for (size_t i = 0; i < plan.microbatches[m].visits.size(); ++i)
      if (plan.microbatches[m].visits[i].node == node)
        config.visits.push_back(machine_visit(plan.microbatches[m], m, i));
  add_validation(config, validation);
  return config;
}

NodeMachine::NodeMachine(MachineConfig config) { reset(config); }

void NodeMachine::reset(const MachineConfig& config) {
  const size_t visits = config.visits.size();
  config_ = config;  // vectors keep their capacity
  state_ = State::kBefore;
  iteration_ = config.first_iteration;
  run_end_ = config.last_iteration;
  first_visit_ = visits_ = open_ = ended_ = 0;
  running_ = -1;
  last_event_s_ = 0;
  why_.clear();

  if (config.slots < 1) throw PlanError("node {}: {} slots, expected at least 1", config.node, config.slots);
  const int32_t all = config.microbatches + config.validation_microbatches;
  visit_of_.assign(static_cast<size_t>(all), -1);
  iteration_visits_ = 0;
  for (int32_t v = 0; v < visit_count(); ++v) {
    const int32_t microbatch = visit(v).microbatch;
    if (microbatch < 0 || microbatch >= all || visit_of_[static_cast<size_t>(microbatch)] != -1)
      throw PlanError("node {}: microbatch {} visits twice or is not one of {}", config.node, microbatch, all);
    visit_of_[static_cast<size_t>(microbatch)] = v;
    if (visit(v).forward_only != (microbatch >= config.microbatches))
      throw PlanError("node {}: microbatch {} is not of the validation, or has gradients", config.node, microbatch);
    if (visit(v).forward_only) continue;
    if (v != iteration_visits_++) throw PlanError("node {}: visits of an iteration behind a validation's", config.node);
  }
  if (iteration_visits_ < visit_count() && config.validation_interval == 0)
    throw PlanError("node {}: visits of a validation that never is", config.node);
  if (config.admission == Admission::kRanked) rank_visits();
  visit_states_.assign(visits, VisitState{});
  admitted_.clear();
  admitted_.reserve(visits);
  free_slots_.reset(config.slots, true);
  order_tasks();
  gradient_passes_.clear();
  gradient_passes_.reserve(tasks_.size());
  early_gradients_.reset(static_cast<int32_t>(tasks_.size()), false);
  if (config.admission == Admission::kRanked) rank_gradient_passes();
}

void NodeMachine::rank_visits() {
  visit_of_rank_.assign(config_.visits.size(), -1);
  for (int32_t v = 0; v < visit_count(); ++v) {
    const int32_t first = visit(v).forward_only ? iteration_visits_ : 0;
    const int32_t count = visit(v).forward_only ? visit_count() - iteration_visits_ : iteration_visits_;
    const int32_t rank = visit(v).rank;
    if (rank < 0 || rank >= count || visit_of_rank_[static_cast<size_t>(first + rank)] != -1)
      throw PlanError("node {}: rank {} of microbatch {} is taken or not below {}", config_.node, rank,
                      visit(v).microbatch, count);
    visit_of_rank_[static_cast<size_t>(first + rank)] = v;
  }
}

int32_t NodeMachine::gradient_rank(const Task& task) const {
  const MachineVisit& planned = config_.visits[static_cast<size_t>(task.visit)];
  return task.kind == TaskKind::kLoss ? planned.loss_rank : planned.backward_rank;
}

void NodeMachine::rank_gradient_passes() {
  const auto adds = [&](const Task& task) {
    return task.kind != TaskKind::kForward && !visit(task.visit).forward_only;
  };
  const auto passes = static_cast<int32_t>(std::ranges::count_if(tasks_, adds));
  task_of_gradient_rank_.assign(static_cast<size_t>(passes), -1);
  for (size_t t = 0; t < tasks_.size(); ++t) {
    if (!adds(tasks_[t])) continue;
    const int32_t rank = gradient_rank(tasks_[t]);
    if (rank < 0 || rank >= passes || task_of_gradient_rank_[static_cast<size_t>(rank)] != -1)
      throw PlanError("node {}: rank {} of a gradient pass of microbatch {} is taken or not below {}", config_.node,
                      rank, visit(tasks_[t].visit).microbatch, passes);
    task_of_gradient_rank_[static_cast<size_t>(rank)] = static_cast<int32_t>(t);
  }
}

// Sorts all tasks of an iteration by priority, so that the next one to run is the first of a bit set. Of equal
// priorities, later phases and then earlier visits go first.
void NodeMachine::order_tasks() {
  const auto count = static_cast<uint64_t>(visit_count());
  keys_.clear();
  const auto add = [&](uint64_t v, TaskKind kind, int32_t priority) {
    const auto descending = static_cast<uint64_t>(int64_t{std::numeric_limits<int32_t>::max()} - priority);
    keys_.push_back(descending << 32 | ((3 - static_cast<uint64_t>(kind)) * count + v));
  };
  for (uint64_t v = 0; v < count; ++v) {
    const MachineVisit& planned = config_.visits[v];
    add(v, TaskKind::kForward, planned.forward_priority);
    if (planned.is_data) add(v, TaskKind::kLoss, planned.loss_priority);
    if (!planned.forward_only) add(v, TaskKind::kBackward, planned.backward_priority);
  }
  std::sort(keys_.begin(), keys_.end());
  positions_.assign(count * 3, -1);
  tasks_.clear();
  for (const uint64_t key : keys_) {
    const uint64_t index = key & 0xffffffffu;
    const auto visit_index = static_cast<int32_t>(index % count);
    const auto kind = static_cast<TaskKind>(3 - index / count);
    position(visit_index, kind) = static_cast<int32_t>(tasks_.size());
    tasks_.push_back({visit_index, kind});
  }
  const auto tasks = static_cast<int32_t>(tasks_.size());
  ready_.reset(tasks, false);
  waiting_.reset(tasks, false);
}

void NodeMachine::start(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ != State::kBefore) return fail("started twice", out);
  if (iteration_ >= config_.last_iteration) {
    state_ = State::kFinished;
    out.push({.kind = Action::Kind::kFinish, .iteration = iteration_});
    return;
  }
  begin_iteration(out);
}

void NodeMachine::begin_iteration(ActionList& out) {
  gradient_passes_.clear();
  begin_visits(State::kVisiting, 0, iteration_visits_, out);
}

void NodeMachine::begin_visits(State what, int32_t first, int32_t count, ActionList& out) {
  state_ = what;
  first_visit_ = first;
  visits_ = count;
  open_ = ended_ = 0;
  admitted_.clear();
  for (int32_t v = first; v < first + count; ++v) {
    VisitState& state = state_of(v);
    state.progress = visit(v).is_data || state.early ? Progress::kWaiting : Progress::kAbsent;
    state.early = false;
    if (state.progress == Progress::kWaiting) waiting_.insert(position(v, TaskKind::kForward));
  }
  if (count == 0) return finish_visits(out);
  if (config_.admission == Admission::kRanked) {
    for (int32_t rank = 0; rank < std::min(config_.slots, count); ++rank) {
      const int32_t v = visit_of_rank_[static_cast<size_t>(first + rank)];
      if (state_of(v).progress == Progress::kWaiting) let_in(v, out);
    }
  } else {
    while (open_ < config_.slots && waiting_.first() >= 0) let_in_waiting(out);
  }
  run_next(out);
}

void NodeMachine::let_in(int32_t v, ActionList& out) {
  VisitState& state = state_of(v);
  state.slot = free_slots_.first();
  SKP_CHECK(state.slot >= 0, "node {}: no slot is free for microbatch {}", config_.node, visit(v).microbatch);
  free_slots_.erase(state.slot);
  waiting_.erase(position(v, TaskKind::kForward));
  ++open_;
  admitted_.push_back(visit(v).microbatch);
  if (visit(v).is_data) {
    state.progress = Progress::kForward;
    make_ready(v, TaskKind::kForward);
  } else {
    state.progress = Progress::kReceivingInput;
    push_visit_action(Action::Kind::kReceive, v, TaskKind::kForward, Phase::kForward, visit(v).previous_node, out);
  }
}

void NodeMachine::let_in_waiting(ActionList& out) {
  const int32_t task = waiting_.first();
  if (task >= 0) let_in(tasks_[static_cast<size_t>(task)].visit, out);
}

// The first iteration from `from` on that a validation follows.
uint32_t NodeMachine::next_validated(uint32_t from) const {
  if (config_.validation_interval == 0 || from >= run_end_) return run_end_;
  const uint64_t interval = config_.validation_interval;
  return static_cast<uint32_t>(std::min<uint64_t>((from / interval + 1) * interval, run_end_)) - 1;
}

// Whose messages for the visit are early.
uint32_t NodeMachine::upcoming_iteration(int32_t v) const {
  if (!visit(v).forward_only) return state_ == State::kBefore ? iteration_ : iteration_ + 1;
  const bool begun = state_ == State::kValidating || state_ == State::kExchangingLosses;
  return next_validated(begun ? iteration_ + 1 : iteration_);
}

void NodeMachine::message_announced(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  const int32_t v = visit_of(microbatch);
  if (v < 0 || state_ == State::kFinished)
    return fail_message("is not for this node", iteration, microbatch, phase, out);
  const uint32_t upcoming = upcoming_iteration(v);
  VisitState& state = state_of(v);
  const bool is_input = phase == Phase::kForward && !visit(v).is_data;
  if (iteration == upcoming && upcoming < config_.last_iteration) {
    if (!is_input || state.early) return fail_message("came too early", iteration, microbatch, phase, out);
    state.early = true;
    return;
  }
  if (iteration != iteration_ || !under_way(v))
    return fail_message("is of another iteration", iteration, microbatch, phase, out);

  if (is_input && state.progress == Progress::kAbsent) {
    state.progress = Progress::kWaiting;
    const bool may_enter =
        config_.admission == Admission::kRanked ? visit(v).rank < ended_ + config_.slots : open_ < config_.slots;
    if (may_enter) {
      let_in(v, out);
    } else {
      waiting_.insert(position(v, TaskKind::kForward));
    }
  } else if (phase == Phase::kForward && state.progress == Progress::kAwaitingOutput) {
    state.progress = Progress::kReceivingOutput;
    push_visit_action(Action::Kind::kReceive, v, TaskKind::kLoss, phase, visit(v).loss_gradient_node, out);
  } else if (phase == Phase::kBackward && state.progress == Progress::kAwaitingGradient) {
    state.progress = Progress::kReceivingGradient;
    push_visit_action(Action::Kind::kReceive, v, TaskKind::kBackward, phase, visit(v).next_node, out);
  } else {
    fail_message("was not expected", iteration, microbatch, phase, out);
  }
}

void NodeMachine::message_received(double now, uint32_t iteration, int32_t microbatch, Phase phase, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  const int32_t v = visit_of(microbatch);
  if (v < 0 || !under_way(v) || iteration != iteration_)
    return fail_message("was received unasked", iteration, microbatch, phase, out);
  const Progress progress = state_of(v).progress;
  if (phase == Phase::kForward && progress == Progress::kReceivingInput) {
    make_ready(v, TaskKind::kForward);
    state_of(v).progress = Progress::kForward;
  } else if (phase == Phase::kForward && progress == Progress::kReceivingOutput) {
    make_ready(v, TaskKind::kLoss);
    state_of(v).progress = Progress::kLoss;
  } else if (phase == Phase::kBackward && progress == Progress::kReceivingGradient) {
    make_ready(v, TaskKind::kBackward);
    state_of(v).progress = Progress::kBackward;
  } else {
    return fail_message("was received unasked", iteration, microbatch, phase, out);
  }
  run_next(out);
}

void NodeMachine::message_sent(double now, uint32_t iteration, int32_t microbatch, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  const int32_t v = visit_of(microbatch);
  if (v < 0 || !under_way(v) || iteration != iteration_ || state_of(v).progress != Progress::kSending)
    return fail_message("was sent unasked", iteration, microbatch, Phase::kForward, out);
  end_visit_and_go_on(v, out);
}

void NodeMachine::task_finished(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  if (running_ < 0) return fail("a task finished that was not running", out);
  const auto [v, kind] = tasks_[static_cast<size_t>(running_)];
  running_ = -1;
  const MachineVisit& planned = visit(v);
  Progress& progress = state_of(v).progress;
  switch (kind) {
    case TaskKind::kForward:
      if (planned.next_node >= 0) {
        progress = planned.is_data        ? Progress::kAwaitingOutput
                   : planned.forward_only ? Progress::kSending
                                          : Progress::kAwaitingGradient;
        push_visit_action(Action::Kind::kSend, v, kind, Phase::kForward, planned.next_node, out);
      } else {
        progress = Progress::kLoss;
        make_ready(v, TaskKind::kLoss);
      }
      break;
    case TaskKind::kLoss:
      if (planned.forward_only) return end_visit_and_go_on(v, out);
      if (planned.loss_gradient_node >= 0) {
        progress = Progress::kAwaitingGradient;
        push_visit_action(Action::Kind::kSend, v, kind, Phase::kBackward, planned.loss_gradient_node, out);
      } else {
        progress = Progress::kBackward;
        make_ready(v, TaskKind::kBackward);
      }
      break;
    case TaskKind::kBackward:
      if (planned.previous_node >= 0)
        push_visit_action(Action::Kind::kSend, v, kind, Phase::kBackward, planned.previous_node, out);
      return end_visit_and_go_on(v, out);
  }
  run_next(out);
}

void NodeMachine::end_visit_and_go_on(int32_t v, ActionList& out) {
  end_visit(v, out);
  if (ended_ == visits_) return finish_visits(out);
  run_next(out);
}

void NodeMachine::end_visit(int32_t v, ActionList& out) {
  VisitState& state = state_of(v);
  state.progress = Progress::kEnded;
  free_slots_.insert(state.slot);
  state.slot = -1;
  --open_;
  ++ended_;
  if (config_.admission == Admission::kAnySlot) return let_in_waiting(out);
  // One more ended visit admits exactly one more rank.
  const int32_t rank = ended_ + config_.slots - 1;
  if (rank >= visits_) return;
  const int32_t next = visit_of_rank_[static_cast<size_t>(first_visit_ + rank)];
  if (state_of(next).progress == Progress::kWaiting) let_in(next, out);
}

void NodeMachine::finish_visits(ActionList& out) {
  if (state_ == State::kValidating) {
    state_ = State::kExchangingLosses;
    out.push({.kind = Action::Kind::kExchangeLosses, .iteration = iteration_});
    return;
  }
  if (config_.replicas <= 1) return after_reduction(out);
  state_ = State::kReducing;
  out.push({.kind = Action::Kind::kReduce, .iteration = iteration_});
}

void NodeMachine::reduced(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  if (state_ != State::kReducing) return fail("a reduction ended that was not asked for", out);
  after_reduction(out);
}

void NodeMachine::after_reduction(ActionList& out) {
  if (config_.exchange_norm) {
    state_ = State::kExchangingNorm;
    out.push({.kind = Action::Kind::kExchangeNorm, .iteration = iteration_});
  } else {
    state_ = State::kStepping;
    out.push({.kind = Action::Kind::kStep, .iteration = iteration_, .contributions = ended_});
  }
}

void NodeMachine::norm_exchanged(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  if (state_ != State::kExchangingNorm) return fail("a norm was exchanged that was not asked for", out);
  state_ = State::kStepping;
  out.push({.kind = Action::Kind::kStep, .iteration = iteration_, .contributions = ended_});
}

void NodeMachine::stepped(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  if (state_ != State::kStepping) return fail("a step ended that was not asked for", out);
  if (!validates_after(iteration_)) return next_iteration(out);
  begin_visits(State::kValidating, iteration_visits_, visit_count() - iteration_visits_, out);
}

// No node is past the validation's end before all have made their visits: so messages of the iterations and of the one
// validation that follow can't be told apart wrongly, even where nodes exchange no norms.
void NodeMachine::losses_exchanged(double now, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed) return;
  if (state_ != State::kExchangingLosses) return fail("losses were exchanged that were not asked for", out);
  next_iteration(out);
}

void NodeMachine::next_iteration(ActionList& out) {
  ++iteration_;
  if (iteration_ < config_.last_iteration) return begin_iteration(out);
  state_ = State::kFinished;
  out.push({.kind = Action::Kind::kFinish, .iteration = iteration_});
}

void NodeMachine::peer_failed(double now, int32_t node, ActionList& out) {
  last_event_s_ = now;
  if (state_ == State::kFailed || state_ == State::kFinished) return;
  fail(fmt::format("node {} failed in iteration {}", node, iteration_), out);
}

void NodeMachine::end_after(uint32_t iteration) {
  SKP_CHECK(iteration >= iteration_, "node {} in iteration {}: cannot end after iteration {}", config_.node, iteration_,
            iteration);
  config_.last_iteration = std::min(config_.last_iteration, iteration + 1);
}

void NodeMachine::make_ready(int32_t v, TaskKind kind) {
  const int32_t task = position(v, kind);
  const bool adds_gradients = kind != TaskKind::kForward && !visit(v).forward_only;
  if (adds_gradients && config_.admission == Admission::kRanked) {
    const int32_t rank = gradient_rank({v, kind});
    if (rank != static_cast<int32_t>(gradient_passes_.size())) return early_gradients_.insert(rank);
  }
  ready_.insert(task);
}

void NodeMachine::begin_gradient_pass(const Task& task) {
  gradient_passes_.push_back({visit(task.visit).microbatch, task.kind});
  const size_t next = gradient_passes_.size();
  if (config_.admission != Admission::kRanked || next == task_of_gradient_rank_.size()) return;
  if (!early_gradients_.contains(static_cast<int32_t>(next))) return;
  early_gradients_.erase(static_cast<int32_t>(next));
  ready_.insert(task_of_gradient_rank_[next]);
}

void NodeMachine::run_next(ActionList& out) {
  if (running_ >= 0) return;
  running_ = ready_.first();
  if (running_ < 0) return;
  ready_.erase(running_);
  const auto [v, kind] = tasks_[static_cast<size_t>(running_)];
  if (kind != TaskKind::kForward && !visit(v).forward_only) begin_gradient_pass({v, kind});
  const Phase phase = kind == TaskKind::kBackward ? Phase::kBackward : Phase::kForward;
  push_visit_action(Action::Kind::kRun, v, kind, phase, -1, out);
}

void NodeMachine::push_visit_action(Action::Kind kind, int32_t v, TaskKind task, Phase phase, int32_t peer,
                                    ActionList& out) {
  out.push({.kind = kind,
            .task = task,
            .phase = phase,
            .slot = state_of(v).slot,
            .microbatch = visit(v).microbatch,
            .peer = peer,
            .iteration = iteration_,
            .tell_sent = state_of(v).progress == Progress::kSending});
}

void NodeMachine::fail(std::string why, ActionList& out) {
  if (state_ == State::kFailed) return;
  why_ = std::move(why);
  state_ = State::kFailed;
  out.push({.kind = Action::Kind::kFail, .iteration = iteration_});
}

void NodeMachine::fail_message(const char* event, uint32_t iteration, int32_t microbatch, Phase phase,
                               ActionList& out) {
  fail(fmt::format("node {} in iteration {}: the {} message of microbatch {} of iteration {} {}", config_.node,
                   iteration_, name_of(phase), microbatch, iteration, event),
       out);
}

Waiting NodeMachine::waiting() const {
  const auto what = [&](Waiting::For kind) {
    return Waiting{.what = kind, .iteration = iteration_, .validation = kind == Waiting::For::kLosses};
  };
  switch (state_) {
    case State::kBefore:
      return what(Waiting::For::kStart);
    case State::kReducing:
      return what(Waiting::For::kReduction);
    case State::kExchangingNorm:
      return what(Waiting::For::kNorm);
    case State::kStepping:
      return what(Waiting::For::kStep);
    case State::kExchangingLosses:
      return what(Waiting::For::kLosses);
    case State::kFinished:
    case State::kFailed:
      return what(Waiting::For::kNothing);
    case State::kVisiting:
    case State::kValidating:
      break;
  }
  if (running_ >= 0) {
    const auto [v, kind] = tasks_[static_cast<size_t>(running_)];
    return {.what = Waiting::For::kTask,
            .task = kind,
            .microbatch = visit(v).microbatch,
            .iteration = iteration_,
            .validation = visit(v).forward_only};
  }
  const auto next_gradient = static_cast<int32_t>(gradient_passes_.size());
  if (early_gradients_.first() > next_gradient)  // held back by the one whose turn it is
    return missing(tasks_[static_cast<size_t>(task_of_gradient_rank_[static_cast<size_t>(next_gradient)])].visit);
  const auto ended = [&](int32_t v) { return visit_states_[static_cast<size_t>(v)].progress == Progress::kEnded; };
  for (const int32_t microbatch : admitted_)
    if (const int32_t v = visit_of(microbatch); !ended(v)) return missing(v);
  // None is open: the first of those that are left may enter once its input is there.
  for (int32_t i = first_visit_; i < first_visit_ + visits_; ++i) {
    const int32_t v = config_.admission == Admission::kRanked ? visit_of_rank_[static_cast<size_t>(i)] : i;
    if (!ended(v)) return missing(v);
  }
  return what(Waiting::For::kNothing);
}

// The message without which the visit can't go on.
Waiting NodeMachine::missing(int32_t v) const {
  const MachineVisit& planned = visit(v);
  Waiting waiting{.what = Waiting::For::kMessage,
                  .microbatch = planned.microbatch,
                  .peer = planned.previous_node,
                  .iteration = iteration_,
                  .validation = planned.forward_only};
  switch (visit_states_[static_cast<size_t>(v)].progress) {
    case Progress::kSending:
      waiting.what = Waiting::For::kDeparture;
      waiting.peer = planned.next_node;
      break;
    case Progress::kAwaitingOutput:
    case Progress::kReceivingOutput:
      waiting.peer = planned.loss_gradient_node;
      break;
    case Progress::kAwaitingGradient:
    case Progress::kReceivingGradient:
      waiting.phase = Phase::kBackward;
      waiting.peer = planned.next_node;
      break;
    default:
      break;
  }
  return waiting;
}

std::string NodeMachine::waiting_for() const {
  if (state_ == State::kBefore) return "the start";
  if (state_ == State::kFinished) return "nothing: finished";
  if (state_ == State::kFailed) return "nothing: " + why_;
  const Waiting missing = waiting();
  return fmt::format("{}iteration {}: {}, since {:.3f} s", missing.validation ? "the validation after " : "",
                     iteration_, describe(missing), last_event_s_);
}

std::string describe(const Waiting& waiting) {
  switch (waiting.what) {
    case Waiting::For::kNothing:
      return "nothing";
    case Waiting::For::kStart:
      return "the start";
    case Waiting::For::kTask:
      return fmt::format("its {} of microbatch {}", name_of(waiting.task), waiting.microbatch);
    case Waiting::For::kMessage:
      return fmt::format("{} of microbatch {} from node {}", name_of(waiting.phase), waiting.microbatch, waiting.peer);
    case Waiting::For::kDeparture:
      return fmt::format("node {} to take forward of microbatch {}", waiting.peer, waiting.microbatch);
    case Waiting::For::kReduction:
      return "the reduction of the stage's gradients";
    case Waiting::For::kNorm:
      return "the other nodes' gradient norms";
    case Waiting::For::kStep:
      return "the optimizer step";
    case Waiting::For::kLosses:
      return "the other nodes' validation losses";
  }
  throw InternalError("no waiting has the number {}", static_cast<int>(waiting.what));
}

}  // namespace skippipe
