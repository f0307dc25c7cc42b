#include "schedule/machine/simulator.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace skippipe {
namespace {

using Event = SimulatedEvent;
using Work = SimulationRecord::Work;
using Transfer = SimulationRecord::Transfer;

}  // namespace

Simulator::Simulator(const Network& network) : nodes_(network.nodes), actions_(0) {
  if (network.nodes.size() > std::numeric_limits<int16_t>::max() ||
      network.links.size() != network.nodes.size() * network.nodes.size())
    throw PlanError("a network of {} nodes with {} links can't be simulated", network.nodes.size(),
                    network.links.size());
  links_.reserve(network.links.size());
  for (const Link& link : network.links)
    links_.push_back({.fixed_s = link.latency_s + link.overhead_s, .s_per_byte = link.occupied_s(1)});
  for (const NetworkNode& node : nodes_)
    uplinks_.push_back({.s_per_byte = node.uplink_bytes_per_s > 0 ? 1 / node.uplink_bytes_per_s : 0});
  configs_.resize(nodes_.size());
  costs_.resize(nodes_.size());
  norm_arrival_s_.resize(nodes_.size());
  last_norms_.resize(nodes_.size());
  result_.busy_share.resize(nodes_.size());
  machines_.reserve(nodes_.size());
  for (size_t node = 0; node < nodes_.size(); ++node) machines_.emplace_back(MachineConfig{});
}

const Simulation& Simulator::run(const Plan& plan, const SimulationOptions& options) {
  plan_ = &plan;
  options_ = options;
  random_ = Random(options.seed);
  log_jitter_ = std::log(std::max(1.0, options.jitter));
  prepare(plan);
  now_ = 0;
  for (int node = 0; node < plan.node_count(); ++node) {
    if (costs_[static_cast<size_t>(node)].stage < 0) continue;
    actions_.clear();
    machines_[static_cast<size_t>(node)].start(now_, actions_);
    ++result_.machine_events;
    obey(node);
  }
  while (!events_.empty()) handle(events_.pop());
  summarize();
  return result_;
}

void Simulator::prepare(const Plan& plan) {
  const size_t nodes = nodes_.size();
  const size_t stages = plan.stages.size();
  const Workload& workload = plan.workload;
  if (plan.node_names.size() != nodes || plan.node_slots.size() != nodes)
    throw PlanError("plan has {} nodes, the network {}", plan.node_names.size(), nodes);
  if (workload.stage_layers.size() != stages || workload.stage_gradient_bytes.size() != stages)
    throw PlanError("plan has {} stages, its workload describes {}", stages, workload.stage_layers.size());

  for (size_t node = 0; node < nodes; ++node) {
    MachineConfig& config = configs_[node];
    config.node = static_cast<int32_t>(node);
    config.slots = plan.node_slots[node];
    config.microbatches = static_cast<int32_t>(plan.microbatches.size());
    config.last_iteration = options_.iterations;
    config.exchange_norm = workload.exchange_norm;
    config.admission = options_.admission;
    config.visits.clear();
    costs_[node] = NodeCost{};
  }
  used_nodes_ = 0;
  for (size_t stage = 0; stage < stages; ++stage) {
    for (const int node : plan.stages[stage]) {
      if (node < 0 || node >= static_cast<int>(nodes)) throw PlanError("stage {} has an unknown node {}", stage, node);
      NodeCost& cost = costs_[static_cast<size_t>(node)];
      cost.stage = static_cast<int>(stage);
      cost.seconds = task_seconds(nodes_[static_cast<size_t>(node)], workload, stage);
      configs_[static_cast<size_t>(node)].replicas = static_cast<int32_t>(plan.stages[stage].size());
      ++used_nodes_;
    }
  }
  size_t tasks = 0;
  for (size_t m = 0; m < plan.microbatches.size(); ++m) {
    const std::vector<PlannedVisit>& visits = plan.microbatches[m].visits;
    tasks += visits.size() * 2 + 1;
    for (size_t i = 0; i < visits.size(); ++i) {
      const int node = visits[i].node;
      if (node < 0 || node >= static_cast<int>(nodes) || costs_[static_cast<size_t>(node)].stage < 0)
        throw PlanError("microbatch {} visits node {}, which is in no stage", m, node);
      configs_[static_cast<size_t>(node)].visits.push_back(machine_visit(plan.microbatches[m], m, i));
    }
  }
  int64_t validation_tasks = 0;
  const ValidationPlan none, &validation = options_.validation ? *options_.validation : none;
  for (const PlannedMicrobatch& microbatch : validation.microbatches)
    validation_tasks += std::ssize(microbatch.visits) + 1;
  for (size_t node = 0; node < nodes; ++node) {
    add_validation(configs_[node], validation);
    machines_[node].reset(configs_[node]);
  }
  for (const size_t used : used_links_) links_[used].free_s = 0;  // of the run before
  used_links_.clear();
  for (Uplink& uplink : uplinks_) uplink.free_s = 0;
  norm_arrival_s_.assign(nodes, 0);
  iteration_end_s_.assign(options_.iterations, 0);
  stage_reduction_start_s_.assign(stages, 0);
  events_.clear();
  norms_sent_ = 0;
  validation_end_s_ = 0;
  const uint32_t every = validation.interval;
  unfinished_tasks_ = static_cast<int64_t>(tasks) * options_.iterations +
                      validation_tasks * (every > 0 ? (options_.iterations + every - 1) / every : 0);
  result_.bytes_sent = 0;
  result_.machine_events = 0;
}

void Simulator::handle(const SimulatedEvent& event) {
  now_ = event.time_s;
  actions_.clear();
  NodeMachine& machine = machines_[static_cast<size_t>(event.node)];
  ++result_.machine_events;
  switch (event.kind) {
    case Event::Kind::kAnnounced:
      machine.message_announced(now_, event.iteration, event.microbatch, static_cast<Phase>(event.phase), actions_);
      break;
    case Event::Kind::kTaskFinished:
      --unfinished_tasks_;
      machine.task_finished(now_, actions_);
      break;
    case Event::Kind::kScattered:
      --result_.machine_events;  // between simulated transports only
      send_shards(event.node, event.iteration, Event::Kind::kReduced);
      break;
    case Event::Kind::kReduced:
      finish_reduction(event.node, event.iteration);
      machine.reduced(now_, actions_);
      break;
    case Event::Kind::kNormExchanged:
      machine.norm_exchanged(now_, actions_);
      break;
    case Event::Kind::kStepped: {
      double& end_s = iteration_end_s_[event.iteration];
      end_s = std::max(end_s, now_);
      machine.stepped(now_, actions_);
      break;
    }
    case Event::Kind::kSent:
      machine.message_sent(now_, event.iteration, event.microbatch, actions_);
      break;
    case Event::Kind::kLossesExchanged:
      if (validation_end_s_ == 0) validated_ = event.iteration;
      if (event.iteration == validated_) validation_end_s_ = now_;
      machine.losses_exchanged(now_, actions_);
      break;
  }
  obey(event.node);
}

void Simulator::obey(int node) {
  NodeMachine& machine = machines_[static_cast<size_t>(node)];
  // Letting a message in appends to the list that is being obeyed.
  for (size_t i = 0; i < actions_.view().size(); ++i) {
    const Action action = actions_.view()[i];
    switch (action.kind) {
      case Action::Kind::kReceive:
        machine.message_received(now_, action.iteration, action.microbatch, action.phase, actions_);
        ++result_.machine_events;
        if (is_of_validation(action.microbatch)) tell_sender(action);
        break;
      case Action::Kind::kRun:
        run_task(node, action);
        break;
      case Action::Kind::kSend:
        send(node, action);
        break;
      case Action::Kind::kReduce:
        begin_reduction(node, action.iteration);
        break;
      case Action::Kind::kExchangeNorm:
        exchange(node, action.iteration, Event::Kind::kNormExchanged);
        break;
      case Action::Kind::kExchangeLosses:
        exchange(node, action.iteration, Event::Kind::kLossesExchanged);
        break;
      case Action::Kind::kStep:
        step(node, action);
        break;
      case Action::Kind::kFinish:
        break;
      case Action::Kind::kFail:
        throw InternalError("simulated node {} failed: {}", node, machine.why());
    }
  }
}

void Simulator::push(double time_s, SimulatedEvent::Kind kind, int node, uint32_t iteration) {
  events_.push({.time_s = time_s, .iteration = iteration, .node = static_cast<int16_t>(node), .kind = kind});
}

void Simulator::run_task(int node, const Action& action) {
  NodeCost& cost = costs_[static_cast<size_t>(node)];
  double duration_s = cost.seconds.forward_s;
  Work::Kind kind = Work::Kind::kForward;
  if (action.task == TaskKind::kLoss) {
    duration_s = cost.seconds.loss_s;
    kind = Work::Kind::kLoss;
  } else if (action.task == TaskKind::kBackward) {
    duration_s = cost.seconds.backward_s;
    kind = Work::Kind::kBackward;
  }
  duration_s = jittered(duration_s);
  if (action.iteration == 0 && !is_of_validation(action.microbatch)) cost.busy_s += duration_s;
  push(now_ + duration_s, Event::Kind::kTaskFinished, node, action.iteration);
  if (options_.record) record_work(kind, node, action, now_, now_ + duration_s);
}

void Simulator::send(int node, const Action& action) {
  const bool forward = action.phase == Phase::kForward;
  const double arrival_s =
      transfer(node, action.peer, static_cast<double>(plan_->workload.activation_bytes), action.iteration,
               action.microbatch, forward ? Transfer::Kind::kForward : Transfer::Kind::kBackward);
  events_.push({.time_s = arrival_s,
                .iteration = action.iteration,
                .microbatch = action.microbatch,
                .node = static_cast<int16_t>(action.peer),
                .kind = Event::Kind::kAnnounced,
                .phase = static_cast<uint8_t>(action.phase)});
}

// The data node's visit goes on, whenever its message leaves.
void Simulator::tell_sender(const Action& received) {
  const size_t m = static_cast<size_t>(received.microbatch) - plan_->microbatches.size();
  if (options_.validation->microbatches[m].data_node() == received.peer) return;
  events_.push({.time_s = now_,
                .iteration = received.iteration,
                .microbatch = received.microbatch,
                .node = static_cast<int16_t>(received.peer),
                .kind = Event::Kind::kSent});
}

void Simulator::begin_reduction(int node, uint32_t iteration) {
  stage_reduction_start_s_[static_cast<size_t>(costs_[static_cast<size_t>(node)].stage)] =
      now_;  // the last one's stays
  send_shards(node, iteration, Event::Kind::kScattered);
}

// Sends one shard to each of the other replicas: its own part of theirs (done: kScattered) or its own sum (kReduced).
void Simulator::send_shards(int node, uint32_t iteration, SimulatedEvent::Kind done) {
  const std::vector<int>& replicas = stage_nodes(node);
  const int count = static_cast<int>(replicas.size());
  const auto stage = static_cast<size_t>(costs_[static_cast<size_t>(node)].stage);
  const double shard_bytes = static_cast<double>(plan_->workload.stage_gradient_bytes[stage]) / count;
  for (const int replica : replicas) {
    double arrival_s = now_;
    if (replica != node && shard_bytes > 0)
      arrival_s = transfer(node, replica, shard_bytes, iteration, -1, Transfer::Kind::kReduction);
    NodeCost& cost = costs_[static_cast<size_t>(replica)];
    collect(done == Event::Kind::kScattered ? cost.scattered : cost.gathered, count, arrival_s, done, replica,
            iteration);
  }
}

void Simulator::collect(Gathering& gathering, int expected, double arrival_s, SimulatedEvent::Kind kind, int node,
                        uint32_t iteration) {
  gathering.last_arrival_s = std::max(gathering.last_arrival_s, arrival_s);
  if (++gathering.count < expected) return;
  push(gathering.last_arrival_s, kind, node, iteration);
  gathering = {};
}

// A replica that waits for others to begin does not count as reducing.
void Simulator::finish_reduction(int node, uint32_t iteration) {
  NodeCost& cost = costs_[static_cast<size_t>(node)];
  const double start_s = stage_reduction_start_s_[static_cast<size_t>(cost.stage)];
  if (iteration == 0) cost.reducing_s += now_ - start_s;
  if (options_.record)
    record_work(Work::Kind::kReduce, node, {.kind = Action::Kind::kReduce, .iteration = iteration}, start_s, now_);
}

void Simulator::exchange(int node, uint32_t iteration, SimulatedEvent::Kind done) {
  const bool record = options_.record && done == Event::Kind::kNormExchanged;
  for (int peer = 0; peer < plan_->node_count(); ++peer) {
    if (costs_[static_cast<size_t>(peer)].stage < 0) continue;
    double start_s = now_, arrival_s = now_;
    if (peer != node) {
      const LinkCost& cost = links_[link_index(node, peer)];
      const double uplink_s = kNormMessageBytes * uplinks_[static_cast<size_t>(node)].s_per_byte;
      const Departure departure = depart(node, peer, kNormMessageBytes * cost.s_per_byte, uplink_s);
      start_s = departure.start_s;
      arrival_s = departure.left_s + jittered(cost.fixed_s);
    }
    double& last_s = norm_arrival_s_[static_cast<size_t>(peer)];
    if (record && arrival_s >= last_s)
      last_norms_[static_cast<size_t>(peer)] = {Transfer::Kind::kNorm, node, peer, -1, iteration, start_s, arrival_s};
    last_s = std::max(last_s, arrival_s);
  }
  if (iteration == 0 && done == Event::Kind::kNormExchanged)
    result_.bytes_sent += kNormMessageBytes * (used_nodes_ - 1);
  if (++norms_sent_ < used_nodes_) return;
  norms_sent_ = 0;
  for (int peer = 0; peer < plan_->node_count(); ++peer) {
    if (costs_[static_cast<size_t>(peer)].stage >= 0) {
      push(norm_arrival_s_[static_cast<size_t>(peer)], done, peer, iteration);
      if (record) options_.record->last_norms.push_back(last_norms_[static_cast<size_t>(peer)]);
    }
    norm_arrival_s_[static_cast<size_t>(peer)] = 0;
  }
}

void Simulator::step(int node, const Action& action) {
  NodeCost& cost = costs_[static_cast<size_t>(node)];
  const double duration_s = jittered(cost.seconds.step_s);
  if (action.iteration == 0) cost.busy_s += duration_s;
  push(now_ + duration_s, Event::Kind::kStepped, node, action.iteration);
  if (options_.record) record_work(Work::Kind::kStep, node, action, now_, now_ + duration_s);
}

double Simulator::jittered(double seconds) {
  return log_jitter_ > 0 ? seconds * std::exp(random_.uniform(-log_jitter_, log_jitter_)) : seconds;
}

Simulator::Departure Simulator::depart(int from, int to, double link_s, double uplink_s) {
  const size_t index = link_index(from, to);
  LinkCost& cost = links_[index];
  if (cost.free_s == 0) used_links_.push_back(index);
  Uplink& uplink = uplinks_[static_cast<size_t>(from)];
  const bool shared = uplink.s_per_byte > 0;
  const double free_s = shared ? std::max(cost.free_s, uplink.free_s) : cost.free_s;
  const double start_s = std::max(now_, free_s);
  cost.free_s = start_s + link_s;
  if (!shared) return {start_s, cost.free_s};
  uplink.free_s = start_s + uplink_s;
  return {start_s, std::max(cost.free_s, uplink.free_s)};
}

double Simulator::transfer(int from, int to, double bytes, uint32_t iteration, int microbatch,
                           SimulationRecord::Transfer::Kind kind) {
  const LinkCost& cost = links_[link_index(from, to)];
  const double uplink_s_per_byte = uplinks_[static_cast<size_t>(from)].s_per_byte;
  const double link_s = jittered(bytes * cost.s_per_byte);
  const double uplink_s = uplink_s_per_byte > 0 ? jittered(bytes * uplink_s_per_byte) : 0;
  const auto [start_s, left_s] = depart(from, to, link_s, uplink_s);
  const double arrival_s = left_s + jittered(cost.fixed_s);
  if (iteration == 0 && !is_of_validation(microbatch)) result_.bytes_sent += bytes;
  if (options_.record)
    options_.record->transfers.push_back({kind, from, to, microbatch, iteration, start_s, arrival_s});
  return arrival_s;
}

void Simulator::record_work(SimulationRecord::Work::Kind kind, int node, const Action& action, double start_s,
                            double end_s) {
  options_.record->work.push_back({kind, node, action.microbatch, action.slot, action.iteration, start_s, end_s});
}

void Simulator::summarize() {
  result_.deadlock = false;
  for (size_t node = 0; node < nodes_.size(); ++node)
    if (costs_[node].stage >= 0 && !machines_[node].finished()) result_.deadlock = true;
  result_.unfinished_tasks = unfinished_tasks_;
  result_.iteration_s = iteration_end_s_.empty() ? 0 : iteration_end_s_.front();
  result_.steady_iteration_s = 0;
  if (iteration_end_s_.size() > 1)
    result_.steady_iteration_s =
        (iteration_end_s_.back() - iteration_end_s_.front()) / static_cast<double>(iteration_end_s_.size() - 1);
  result_.validation_s = validation_end_s_ == 0 ? 0 : validation_end_s_ - iteration_end_s_[validated_];
  result_.waiting_share = 0;
  for (size_t node = 0; node < nodes_.size(); ++node) {
    double& busy_share = result_.busy_share[node];
    busy_share = 0;
    if (costs_[node].stage < 0 || result_.iteration_s <= 0) continue;
    busy_share = std::min(1.0, costs_[node].busy_s / result_.iteration_s);
    const double working_share = (costs_[node].busy_s + costs_[node].reducing_s) / result_.iteration_s;
    result_.waiting_share += std::max(0.0, 1 - working_share) / used_nodes_;
  }
  result_.waiting_share = std::min(1.0, result_.waiting_share);  // a sum of rounded parts
  plan_ = nullptr;
}

std::string Simulator::describe_deadlock() const {
  std::string text;
  for (size_t node = 0; node < nodes_.size(); ++node)
    if (costs_[node].stage >= 0 && !machines_[node].finished())
      text += fmt::format("node '{}' waits in {}\n", nodes_[node].name, machines_[node].waiting_for());
  return text;
}

}  // namespace skippipe
