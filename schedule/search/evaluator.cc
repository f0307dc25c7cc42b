#include "schedule/search/evaluator.h"

#include <algorithm>
#include <limits>

#include "schedule/search/capacity.h"
#include "schedule/search/paths.h"

namespace skippipe {
namespace {

constexpr std::ptrdiff_t kShortWay = 16;  // events to pass one by one
constexpr size_t kManyOver = 1024;
// More snapshots save more events and cost more copies.
constexpr int kSnapshots = 8;
// A node that can't be in its stage is worse than any deadlock.
constexpr int64_t kMisfit = int64_t{1} << 32;
constexpr int32_t kNever = -1;
// Of sums of seconds in another order.
constexpr double kRounding = 1e-12;

template <typename T>
T& at(std::vector<T>& values, int index) {
  return values[static_cast<size_t>(index)];
}
template <typename T>
const T& at(const std::vector<T>& values, int index) {
  return values[static_cast<size_t>(index)];
}

}  // namespace

Candidate candidate_of(const Plan& plan) {
  Candidate candidate;
  candidate.length = static_cast<int>(plan.microbatches.front().visits.size());
  candidate.stages = plan.stages;
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) candidate.nodes.push_back(visit.node);
  return candidate;
}

void take_paths(const Candidate& candidate, Plan& plan) {
  plan.stages = candidate.stages;
  for (std::vector<int>& stage : plan.stages) std::ranges::sort(stage);
  size_t next = 0;
  for (PlannedMicrobatch& microbatch : plan.microbatches)
    for (PlannedVisit& visit : microbatch.visits) visit.node = candidate.nodes[next++];
}

Evaluator::EventLine& Evaluator::EventLine::operator=(const EventLine& other) {
  if (this == &other) return *this;
  events_.assign(other.events_.begin() + static_cast<std::ptrdiff_t>(other.first_), other.events_.end());
  first_ = 0;
  return *this;
}

void Evaluator::EventLine::clear() {
  events_.clear();
  first_ = 0;
}

void Evaluator::EventLine::push(double time_s, uint32_t what) {
  if (first_ >= kManyOver) {
    events_.erase(events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
  const Event event{time_s, what};
  events_.push_back(event);
  const auto begin = events_.begin() + static_cast<std::ptrdiff_t>(first_);
  auto place = events_.end() - 1;
  const auto short_way = std::max(begin, events_.end() - kShortWay);
  for (; place != short_way && time_s < place[-1].time_s; --place) *place = place[-1];
  if (place == short_way && place != begin && time_s < place[-1].time_s) {
    const auto later = std::ranges::upper_bound(begin, place, time_s, {}, &Event::time_s);
    std::move_backward(later, place, place + 1);
    place = later;
  }
  *place = event;
}

Evaluator::Evaluator(const PlanRequest& request) : request_(request), node_count_(request.network.size()) {
  const Network& network = request.network;
  activation_bytes_ = static_cast<double>(request.workload.activation_bytes);
  fixed_s_.reserve(network.links.size());
  s_per_byte_.reserve(network.links.size());
  for (const Link& link : network.links) {
    fixed_s_.push_back(link.latency_s + link.overhead_s);
    s_per_byte_.push_back(link.occupied_s(1));
    if (s_per_byte_.back() > 0) links_fill_ = true;
  }
  for (const NetworkNode& node : network.nodes) {
    uplink_s_per_byte_.push_back(node.uplink_bytes_per_s > 0 ? 1 / node.uplink_bytes_per_s : 0);
    if (uplink_s_per_byte_.back() > 0) links_fill_ = true;
  }
  link_free_s_.resize(network.links.size());
  link_run_.resize(network.links.size(), 0);
  costs_.resize(network.nodes.size());
  reduced_s_.resize(network.nodes.size());
  arrived_s_.resize(network.nodes.size());
}

void Evaluator::shape(const Candidate& candidate) {
  microbatches_ = candidate.microbatches();
  length_ = candidate.length;
  steps_ = 2 * length_ + 1;
  has_base_ = false;
  position_.clear();
  for (int step = 0; step < steps_; ++step)
    position_.push_back(step < length_ ? step : step == length_ ? 0 : 2 * length_ - step);
  const auto tasks = static_cast<size_t>(microbatches_) * static_cast<size_t>(steps_);
  key_.resize(tasks);
  for (int m = 0; m < microbatches_; ++m)
    for (int step = 0; step < steps_; ++step) {
      const int order = step < length_ ? 2 : step == length_ ? 1 : 0;  // backward before loss before forward
      key_[first_task(m) + static_cast<size_t>(step)] = static_cast<uint32_t>(order * microbatches_ + m);
    }
  tasks_.assign(tasks, Task{});
  base_tasks_.assign(tasks, Task{});
  trial_finish_.assign(tasks, kNever);
  base_finish_ = trial_finish_;
  changed_.clear();
  const int events = microbatches_ * (length_ > 1 ? 4 * length_ + 1 : steps_);
  snapshot_every_ = events / kSnapshots + 1;
  snapshots_.resize(kSnapshots);
  trial_snapshots_.resize(kSnapshots);
}

double Evaluator::duration_s(int node, int step) const {
  const NodeCost& cost = at(costs_, node);
  return step < length_ ? cost.seconds.forward_s : step == length_ ? cost.seconds.loss_s : cost.seconds.backward_s;
}

// Backwards from its last task.
void Evaluator::describe_tasks(int microbatch) {
  const size_t row = static_cast<size_t>(microbatch) * static_cast<size_t>(length_);
  Task* tasks = &tasks_[first_task(microbatch)];
  for (int step = steps_ - 1; step >= 0; --step) {
    Task& task = tasks[step];
    task.node = nodes_[row + static_cast<size_t>(at(position_, step))];
    task.microbatch = microbatch;
    task.step = step;
    task.duration_s = duration_s(task.node, step);
    task.fixed_s = task.remaining_s = 0;
    if (step + 1 == steps_) continue;
    const Task& next = tasks[step + 1];
    task.remaining_s = next.remaining_s + next.duration_s;
    if (length_ == 1) continue;
    const size_t l = link(task.node, next.node);
    task.fixed_s = fixed_s_[l];
    task.remaining_s += fixed_s_[l] + activation_bytes_ * s_per_byte_[l];
  }
}

void Evaluator::restore_rows() {
  for (const int m : changed_) {
    const auto row = static_cast<std::ptrdiff_t>(m) * length_;
    std::copy_n(base_nodes_.begin() + row, length_, nodes_.begin() + row);
    const auto tasks = static_cast<std::ptrdiff_t>(first_task(m));
    std::copy_n(base_tasks_.begin() + tasks, steps_, tasks_.begin() + tasks);
  }
  changed_.clear();
}

void Evaluator::take_stages(const std::vector<std::vector<int>>& stages) {
  given_stages_ = stages_ = stages;
  std::ranges::fill(costs_, NodeCost{});
  used_nodes_.clear();
  stage_of_.assign(costs_.size(), -1);
  misfits_ = 0;
  for (size_t stage = 0; stage < stages_.size(); ++stage) {
    std::ranges::sort(stages_[stage]);
    for (const int node : stages_[stage]) {
      const int slots = slots_in_stage(request_, node, static_cast<int>(stage));
      at(costs_, node) = {slots, task_seconds(request_, node, stage)};
      used_nodes_.push_back(node);
      at(stage_of_, node) = static_cast<int>(stage);
    }
    misfits_ += count_misfits(request_, stages_[stage], static_cast<int>(stage));
  }
  std::ranges::sort(used_nodes_);
}

// Whether a visit has the base's node, but in another stage: then its tasks differ where its row does not.
bool Evaluator::changes_tasks_alone(const Candidate& candidate) const {
  if (stage_of_ == base_stage_of_) return false;
  for (size_t i = 0; i < base_nodes_.size(); ++i) {
    const int node = base_nodes_[i];
    if (node == candidate.nodes[i] && at(stage_of_, node) != at(base_stage_of_, node)) return true;
  }
  return false;
}

// The candidate's rows; fills changed_ with those that are not the base's.
void Evaluator::take_rows(const Candidate& candidate) {
  if (!has_base_) {
    nodes_ = candidate.nodes;
    changed_.clear();
    for (int m = 0; m < microbatches_; ++m) describe_tasks(m);
    return;
  }
  restore_rows();
  for (int m = 0; m < microbatches_; ++m) {
    const auto row = static_cast<std::ptrdiff_t>(m) * length_;
    if (std::equal(nodes_.begin() + row, nodes_.begin() + row + length_, candidate.nodes.begin() + row)) continue;
    std::copy_n(candidate.nodes.begin() + row, length_, nodes_.begin() + row);
    describe_tasks(m);
    changed_.push_back(m);
  }
}

// The first event of the base's run after which the candidate's may be another; 0: from the start, where microbatches
// wait at their data nodes.
int Evaluator::first_difference() {
  int first = base_last_event_;
  for (const int m : changed_) {
    const size_t row = static_cast<size_t>(m) * static_cast<size_t>(length_);
    size_t position = 0;
    while (nodes_[row + position] == base_nodes_[row + position]) ++position;
    if (position == 0) return 0;
    first = std::min(first, base_finish_[first_task(m) + position - 1]);
  }
  return std::max(0, first);
}

void Evaluator::restart() {
  state_.nodes.assign(static_cast<size_t>(node_count_), NodeState{});
  state_.next.assign(static_cast<size_t>(microbatches_), -1);
  state_.busy_links.clear();
  state_.events.clear();
  state_.event = state_.finished = 0;
  state_.now_s = 0;
  ++run_;
  std::ranges::fill(trial_finish_, kNever);
  trial_from_ = 0;
}

void Evaluator::resume(const State& snapshot) {
  state_ = snapshot;
  ++run_;
  for (const BusyLink& busy : state_.busy_links) occupy(busy.link, busy.free_s);
  trial_from_ = state_.event;
}

void Evaluator::start_nodes() {
  for (int m = microbatches_ - 1; m >= 0; --m) {
    const int task = static_cast<int>(first_task(m));
    insert(at(state_.nodes, at(tasks_, task).node).waiting, task);
  }
  for (const int node : used_nodes_) {
    NodeState& state = at(state_.nodes, node);
    while (state.waiting >= 0 && state.open < at(costs_, node).slots) {
      const int task = state.waiting;
      state.waiting = next(task);
      ++state.open;
      insert(state.ready, task);
    }
    run_next(state, -1);
  }
}

Cost Evaluator::evaluate(const Candidate& candidate, const Cost& limit) {
  if (candidate.microbatches() != microbatches_ || candidate.length != length_) shape(candidate);
  if (candidate.stages != given_stages_) take_stages(candidate.stages);
  if (misfits_ > 0) return {.unfinished = kMisfit * misfits_};
  if (has_base_ && changes_tasks_alone(candidate)) has_base_ = false;
  take_rows(candidate);
  const int from = has_base_ ? first_difference() / snapshot_every_ : 0;
  if (from > 0) {
    const int latest = std::min(from, kSnapshots - 1);
    resume(at(snapshots_, latest));
    first_trial_snapshot_ = latest + 1;
  } else {
    restart();
    first_trial_snapshot_ = 1;
    start_nodes();
  }
  const double limit_s = limit.unfinished > 0 ? std::numeric_limits<double>::infinity() : limit.seconds;
  if (!run(limit_s)) return Cost::infinite();
  const int64_t unfinished = static_cast<int64_t>(tasks_.size()) - state_.finished;
  if (unfinished > 0) return {.unfinished = unfinished, .seconds = 0};
  return {.unfinished = 0, .seconds = after_reduction()};
}

void Evaluator::accept() {
  if (misfits_ > 0) {
    has_base_ = false;
    return;
  }
  std::swap_ranges(snapshots_.begin() + first_trial_snapshot_, snapshots_.end(),
                   trial_snapshots_.begin() + first_trial_snapshot_);
  if (!has_base_) {
    base_nodes_ = nodes_;
    base_tasks_ = tasks_;
  }
  for (const int m : changed_) {
    const auto row = static_cast<std::ptrdiff_t>(m) * length_;
    std::copy_n(nodes_.begin() + row, length_, base_nodes_.begin() + row);
    const auto tasks = static_cast<std::ptrdiff_t>(first_task(m));
    std::copy_n(tasks_.begin() + tasks, steps_, base_tasks_.begin() + tasks);
  }
  changed_.clear();
  remember();
  base_last_event_ = std::max(0, state_.event - 1);
  base_stage_of_ = stage_of_;
  has_base_ = true;
}

// What happened before trial_from_ happened as in the base's run.
void Evaluator::remember() {
  for (size_t task = 0; task < trial_finish_.size(); ++task)
    if (base_finish_[task] == kNever || base_finish_[task] >= trial_from_) base_finish_[task] = trial_finish_[task];
}

// False: some microbatch is certain to end after `limit_s`.
bool Evaluator::run(double limit_s) {
  limit_s *= 1 + kRounding;
  int next_snapshot = first_trial_snapshot_ * snapshot_every_;
  while (!state_.events.empty()) {
    if (state_.event == next_snapshot) {
      std::erase_if(state_.busy_links, [&](const BusyLink& busy) { return busy.free_s <= state_.now_s; });
      at(trial_snapshots_, next_snapshot / snapshot_every_) = state_;
      next_snapshot += snapshot_every_;
    }
    const Event event = state_.events.pop();
    state_.now_s = event.time_s;
    const int task = static_cast<int>(event.what / 2);
    if (event.what % 2 == 0) {
      if (event.time_s + at(tasks_, task).remaining_s > limit_s) return false;
      ++state_.event;
      finish(task);
    } else {
      ++state_.event;
      arrive(task);
    }
  }
  return true;
}

// state_.event counts from 1 here: the number of the event under way.
void Evaluator::finish(int task) {
  const Task& ended = at(tasks_, task);
  NodeState& node = at(state_.nodes, ended.node);
  node.running = -1;
  at(trial_finish_, task) = state_.event - 1;
  ++state_.finished;
  if (ended.step + 1 < steps_) {
    if (length_ > 1)
      send(task);
    else
      insert(node.ready, task + 1);
  }
  run_next(node, ended.step > length_ ? end_visit(node) : -1);
}

// Lets the next microbatch in. Returns its forward task if it is let in only after the node's next task is chosen: a
// message.
int Evaluator::end_visit(NodeState& node) {
  --node.open;
  node.last_end_s = state_.now_s;
  const int first = node.waiting;
  if (first < 0) return -1;
  node.waiting = next(first);
  ++node.open;
  if (at(tasks_, first).step > 0) return first;
  insert(node.ready, first);
  return -1;
}

void Evaluator::arrive(int task) {
  const Task& arrived = at(tasks_, task);
  NodeState& node = at(state_.nodes, arrived.node);
  if (arrived.step < length_) {
    if (node.open >= at(costs_, arrived.node).slots) return insert(node.waiting, task);
    ++node.open;
  }
  insert(node.ready, task);
  run_next(node, -1);
}

void Evaluator::insert(int32_t& list, int task) {
  int32_t* place = &list;
  while (*place >= 0 && at(key_, *place) < at(key_, task)) place = &next(*place);
  next(task) = *place;
  *place = task;
}

void Evaluator::run_next(NodeState& node, int let_in_late) {
  if (node.running < 0) {
    if (node.ready >= 0) {
      node.running = node.ready;
      node.ready = next(node.ready);
    } else {
      node.running = let_in_late;
      let_in_late = -1;
    }
    if (node.running >= 0)
      state_.events.push(state_.now_s + at(tasks_, node.running).duration_s, static_cast<uint32_t>(node.running) * 2);
  }
  if (let_in_late >= 0) insert(node.ready, let_in_late);
}

// To the next task.
void Evaluator::send(int task) {
  const Task& from = at(tasks_, task);
  const double arrival_s = links_fill_ ? transfer(state_.now_s, from.node, at(tasks_, task + 1).node, activation_bytes_)
                                       : state_.now_s + from.fixed_s;
  state_.events.push(arrival_s, static_cast<uint32_t>(task + 1) * 2 + 1);
}

// When a message that is ready to leave arrives.
double Evaluator::transfer(double now_s, int from, int to, double bytes) {
  const size_t l = link(from, to);
  if (!links_fill_) return now_s + fixed_s_[l];
  double start_s = link_run_[l] == run_ ? std::max(now_s, link_free_s_[l]) : now_s;
  const double uplink_s_per_byte = at(uplink_s_per_byte_, from);
  if (uplink_s_per_byte == 0) {
    const double free_s = start_s + bytes * s_per_byte_[l];
    occupy(l, free_s);
    state_.busy_links.push_back({l, free_s});
    return free_s + fixed_s_[l];
  }
  double& uplink_free_s = at(state_.nodes, from).uplink_free_s;
  start_s = std::max(start_s, uplink_free_s);
  const double free_s = start_s + bytes * s_per_byte_[l];
  occupy(l, free_s);
  state_.busy_links.push_back({l, free_s});
  uplink_free_s = start_s + bytes * uplink_s_per_byte;
  return std::max(free_s, uplink_free_s) + fixed_s_[l];
}

void Evaluator::occupy(size_t link, double free_s) {
  link_free_s_[link] = free_s;
  link_run_[link] = run_;
}

// When the last node has stepped. After its last backward pass a node sends nothing but its part of the reduction and
// its norm, so that these need no events.
double Evaluator::after_reduction() {
  for (size_t stage = 0; stage < stages_.size(); ++stage) reduce_stage(stages_[stage], stage);
  if (request_.workload.exchange_norm) exchange_norms();
  double end_s = 0;
  for (const int node : used_nodes_) end_s = std::max(end_s, at(reduced_s_, node) + at(costs_, node).seconds.step_s);
  return end_s;
}

// Fills reduced_s_ of a stage's replicas.
void Evaluator::reduce_stage(const std::vector<int>& replicas, size_t stage) {
  for (const int node : replicas) at(reduced_s_, node) = at(state_.nodes, node).last_end_s;
  if (replicas.size() == 1) return;
  const double shard_bytes =
      static_cast<double>(request_.workload.stage_gradient_bytes[stage]) / static_cast<double>(replicas.size());
  for (int round = 0; round < 2; ++round) {  // parts, then sums
    for (const int node : replicas) at(arrived_s_, node) = at(reduced_s_, node);
    for (const int from : replicas)
      for (const int to : replicas) {
        if (from == to) continue;
        const double now_s = at(reduced_s_, from);
        const double arrival_s = shard_bytes > 0 ? transfer(now_s, from, to, shard_bytes) : now_s;
        at(arrived_s_, to) = std::max(at(arrived_s_, to), arrival_s);
      }
    for (const int node : replicas) at(reduced_s_, node) = at(arrived_s_, node);
  }
}

void Evaluator::exchange_norms() {
  arrived_s_ = reduced_s_;
  for (const int from : used_nodes_)
    for (const int to : used_nodes_)
      if (to != from)
        at(arrived_s_, to) = std::max(at(arrived_s_, to), transfer(at(reduced_s_, from), from, to, kNormMessageBytes));
  reduced_s_ = arrived_s_;
}

}  // namespace skippipe
