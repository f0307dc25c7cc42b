#include "engine/node/node.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/number_text.h"
#include "kernels/backend.h"
#include "kernels/copy.h"

namespace skippipe {
namespace {

using What = TraceEvent::What;

// What a node tells the others after each iteration; the sums over all nodes are what everyone knows of it.
enum Stat : size_t {
  kSquaredNorm,
  kLossSum,
  kLosses,
  kBusySeconds,
  kStopRequests,
  kCheckpoint,
  kCheckpointHistory,
  kLastCheckpoint,
  kStatCount
};

// The same after each validation, of the targets of its samples.
enum ValidationSum : size_t { kAllStagesLoss, kAllStagesTargets, kPathsLoss, kPathsTargets, kValidationSumCount };

constexpr auto kLongestNap = std::chrono::seconds(1);
constexpr auto kRumourLimit = std::chrono::milliseconds(100);
constexpr auto kCloseLimit = std::chrono::seconds(10);

std::vector<MachineVisit> visits_by_microbatch(const MachineConfig& machine) {
  std::vector<MachineVisit> visits(static_cast<size_t>(machine.microbatches + machine.validation_microbatches));
  for (const MachineVisit& visit : machine.visits) visits[static_cast<size_t>(visit.microbatch)] = visit;
  return visits;
}

const std::vector<int>& replicas_of(const Plan& plan, int node) {
  return plan.stages[static_cast<size_t>(plan.stage_of_nodes()[static_cast<size_t>(node)])];
}

std::vector<int> first_replicas(const Plan& plan) {
  std::vector<int> nodes;
  for (const std::vector<int>& replicas : plan.stages) nodes.push_back(replicas.front());
  return nodes;
}

// What a task is among the jobs of the compute thread.
What job_of(TaskKind task) {
  switch (task) {
    case TaskKind::kForward:
      return What::kForward;
    case TaskKind::kLoss:
      return What::kLoss;
    case TaskKind::kBackward:
      return What::kBackward;
  }
  throw InternalError("no task has the number {}", static_cast<int>(task));
}

}  // namespace

void Node::plan_memory(MemoryPlan& memory, const Plan& plan, int node, const StageSpec& stage, Dtype wire) {
  MessageBuffers::plan_memory(memory, machine_config(plan, node, 0, 1), stage, wire);
  GradientSum::plan_memory(memory, replicas_of(plan, node).size());
}

Node::Node(const Plan& plan, const TrainingSettings& settings, Stage& stage, Slab& slab, Transport& transport,
           const Sampler* sampler, const ShardWindows* held_out, std::unique_ptr<CheckpointWriter> checkpoints,
           NodeHooks hooks)
    : Node(machine_config(plan, transport.node(), settings.first_iteration, settings.iterations, settings.validation),
           plan, settings, stage, slab, transport, sampler, held_out, std::move(checkpoints), std::move(hooks)) {}

Node::Node(MachineConfig machine, const Plan& plan, const TrainingSettings& settings, Stage& stage, Slab& slab,
           Transport& transport, const Sampler* sampler, const ShardWindows* held_out,
           std::unique_ptr<CheckpointWriter> checkpoints, NodeHooks hooks)
    : settings_(settings),
      stage_(stage),
      transport_(transport),
      sampler_(sampler),
      held_out_(held_out),
      hooks_(std::move(hooks)),
      microbatches_(machine.microbatches),
      first_replicas_(first_replicas(plan)),
      first_replica_(replicas_of(plan, transport.node()).front() == transport.node()),
      visits_(visits_by_microbatch(machine)),
      actions_(NodeMachine::max_actions(machine.visits.size())),
      traffic_(machine, visits_, stage, slab, transport, start_transfers(), settings.messages, message_events()),
      machine_(std::move(machine)),
      gradient_sum_(transport, replicas_of(plan, transport.node()), stage, slab, transfers_ ? &*transfers_ : nullptr,
                    settings.reduction),
      stats_(transport, kStatCount, settings.first_iteration,
             [this](const SumExchange::Result& result) { stats_arrived(result); }),
      losses_exchange_(
          transport, kValidationSumCount, 0, [this](const SumExchange::Result& result) { losses_arrived(result.sums); },
          MessageKind::kValidation),
      tokens_(static_cast<size_t>(stage.batch().samples * stage.batch().tokens)),
      targets_(tokens_.size()),
      reports_(settings.first_iteration),
      stall_(std::chrono::duration<double>(settings.stall_limit_s)),
      validation_losses_(settings.validation.microbatches.size()),
      checkpoints_(std::move(checkpoints)),
      compute_([this] { transport_.wake(); }) {
  SKP_CHECK(plan.workload.exchange_norm == (settings.clip_norm > 0), "the plan says whether a step waits for the norm");
  for (const MachineVisit& visit : visits_)
    SKP_CHECK(!visit.is_data || (visit.forward_only ? held_out_ != nullptr : sampler_ != nullptr),
              "a data node reads data");
  SKP_CHECK((checkpoints_ != nullptr) == (first_replica_ && settings.checkpoint_interval > 0));
  transport_.set_listener(this);
}

Transfers* Node::start_transfers() {
  Backend& backend = *stage_.context().backend;
  if (backend.device() == Device::kCpu) return nullptr;
  return &transfers_.emplace(backend.runtime(), [this] { transport_.wake(); });
}

MessageTraffic::Events Node::message_events() {
  return {.announced =
              [this](uint32_t iteration, int32_t microbatch, Phase phase) {
                feed([&](NodeMachine& machine, double now, ActionList& out) {
                  machine.message_announced(now, iteration, microbatch, phase, out);
                });
              },
          .arrived =
              [this](uint32_t iteration, int32_t microbatch, Phase phase) {
                feed([&](NodeMachine& machine, double now, ActionList& out) {
                  machine.message_received(now, iteration, microbatch, phase, out);
                });
              },
          .sent =
              [this](uint32_t iteration, int32_t microbatch, Phase) {
                feed([&](NodeMachine& machine, double now, ActionList& out) {
                  machine.message_sent(now, iteration, microbatch, out);
                });
              }};
}

Node::~Node() { transport_.set_listener(nullptr); }

Node::End Node::run() {
  start_ = Clock::now();
  stall_.restart();
  agree_on_reduction();
  feed([](NodeMachine& machine, double now, ActionList& out) { machine.start(now, out); });
  while (!machine_.finished() || reports_ < machine_.iteration()) {
    if (progress()) continue;
    if (stop_requested_ && settings_.clip_norm == 0) return End::kLeft;
    if (hooks_.tracer && !computing_ && !machine_.finished()) hooks_.tracer->waits(machine_.waiting());
    wait();
  }
  return reports_ == settings_.iterations ? End::kFinished : End::kStopped;
}

// Messages of others that have begun wait meanwhile.
void Node::agree_on_reduction() {
  gradient_sum_.agree();
  while (!gradient_sum_.agreed()) {
    if (!gradient_sum_.status().ok()) fail(gradient_sum_.status());
    if (!progress()) wait();
  }
  if (hooks_.on_reduction && !gradient_sum_.outcome().empty())
    hooks_.on_reduction(gradient_sum_.outcome(), gradient_sum_.is_between_devices());
}

bool Node::progress() {
  const bool any = pump();
  if (peer_failed_) hear_of_other_failures();
  if (peer_failed_) throw PeerError(failure_);
  if (!failure_.empty()) throw RunError(failure_);
  return any;
}

void Node::wait() {
  check_for_stall();
  transport_.run_once(Clock::now() + kLongestNap);
}

Status Node::leave() { return transport_.close(kCloseLimit); }

// Peers give signs of life even when their tasks hang.
void Node::check_for_stall() {
  if (computing_ || !stall_.is_over()) return;
  throw PeerError("nothing has come for {:.0f} s (network.stall_limit_s); this node waits for {}",
                  settings_.stall_limit_s, machine_.waiting_for());
}

// Peers that end because of a peer look like it: name them all.
void Node::hear_of_other_failures() {
  const auto deadline = Clock::now() + kRumourLimit;
  while (Clock::now() < deadline) transport_.run_once(deadline);
}

void Node::fail(const Status& status) {
  if (!failure_.empty()) return;
  failure_ = status.message();
  peer_failed_ = status.code() == StatusCode::kPeerGone || status.code() == StatusCode::kUnreachable;
}

void Node::request_stop() {
  stop_requested_ = true;
  transport_.wake();
}

double Node::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

template <typename Event>
void Node::feed(Event&& event) {
  if (!failure_.empty()) return;
  stall_.restart();
  actions_.clear();
  event(machine_, seconds(), actions_);
  for (const Action& action : actions_.view()) obey(action);
}

void Node::obey(const Action& action) {
  switch (action.kind) {
    case Action::Kind::kReceive:
      return traffic_.receive(action);
    case Action::Kind::kRun:
      return run_task(action);
    case Action::Kind::kSend:
      return traffic_.send(action);
    case Action::Kind::kReduce:
      reducing_ = true;
      reducing_since_ = Clock::now();
      return gradient_sum_.start(action.iteration);
    case Action::Kind::kExchangeNorm:
      return measure_norm(action.iteration);
    case Action::Kind::kStep:
      return step(action.iteration);
    case Action::Kind::kExchangeLosses:
      return tell_losses();
    case Action::Kind::kFinish:
      return;
    case Action::Kind::kFail:
      failure_ = machine_.why();
      return;
  }
}

bool Node::pump() {
  if (transfers_ && transfers_->poll()) return true;
  if (gradient_sum_.poll()) return true;
  if (reducing_ && gradient_sum_.done()) {
    reducing_ = false;
    if (hooks_.tracer) hooks_.tracer->reduced(machine_.iteration(), reducing_since_, Clock::now());
    if (!gradient_sum_.status().ok()) fail(gradient_sum_.status());
    feed([](NodeMachine& machine, double now, ActionList& out) { machine.reduced(now, out); });
    return true;
  }
  for (const SumExchange* exchange : {&stats_, &losses_exchange_})
    if (!exchange->status().ok()) fail(exchange->status());
  if (losses_known_) {
    losses_known_ = false;
    feed([](NodeMachine& machine, double now, ActionList& out) { machine.losses_exchanged(now, out); });
    return true;
  }
  if (norm_known_) {
    norm_known_ = false;
    feed([](NodeMachine& machine, double now, ActionList& out) { machine.norm_exchanged(now, out); });
    return true;
  }
  if (compute_.collect()) {
    computing_ = false;
    if (hooks_.tracer) hooks_.tracer->computed(job_.what, job_.iteration, job_.microbatch, job_start_, job_end_);
    job_done();
    return true;
  }
  return false;
}

// ---- messages

void Node::on_announced(Ticket ticket, const MessageHeader& header) {
  if (gradient_sum_.on_announced(ticket, header) || stats_.on_announced(ticket, header) ||
      losses_exchange_.on_announced(ticket, header))
    return;
  if (const Status status = traffic_.on_announced(ticket, header); !status.ok()) fail(status);
}

void Node::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (gradient_sum_.on_received(ticket, header, status) || stats_.on_received(ticket, header, status) ||
      losses_exchange_.on_received(ticket, header, status))
    return;
  if (const Status landed = traffic_.on_received(ticket, header, status); !landed.ok()) fail(landed);
}

void Node::on_sent(Ticket ticket, const Status& status) {
  if (gradient_sum_.on_sent(ticket, status) || stats_.on_sent(ticket, status) ||
      losses_exchange_.on_sent(ticket, status))
    return;
  if (!status.ok()) return fail(status);
  traffic_.on_sent(ticket);
}

void Node::on_peer_failed(int node, const Status& status) {
  feed([&](NodeMachine& machine, double now, ActionList& out) { machine.peer_failed(now, node, out); });
  stats_.on_peer_failed(node, status);
  losses_exchange_.on_peer_failed(node, status);
  gradient_sum_.on_peer_failed(node, status);
  // The machine says that the run ends; the transport knows why, and better than a send that failed because of it.
  if (failure_.empty() && stats_.status().ok()) return;
  if (peers_failed_++ == 0) {
    failure_ = status.message();
  } else {
    failure_ += "; " + status.message();
  }
  peer_failed_ = true;
}

// ---- tasks

void Node::submit(const Job& job, std::function<void()> work) {
  if (hooks_.tracer) hooks_.tracer->works();
  job_ = job;
  computing_ = true;
  compute_.submit([this, work = std::move(work), trains = job.what != What::kValidation] {
    Context& context = stage_.context();
    context.backend->runtime().use_on_this_thread();
    job_start_ = Clock::now();
    work();
    finish(context);
    job_end_ = Clock::now();
    if (trains) busy_s_ += std::chrono::duration<double>(job_end_ - job_start_).count();
  });
}

void Node::run_task(const Action& action) {
  traffic_.hold_back(action.slot);
  const bool validates = is_of_validation(action.microbatch);
  const What what = validates ? What::kValidation : job_of(action.task);
  submit({what, action.iteration, action.microbatch}, [this, action, validates] {
    if (hooks_.on_task && !validates) hooks_.on_task(action.task, action.microbatch);
    const MachineVisit& visit = visits_[static_cast<size_t>(action.microbatch)];
    switch (action.task) {
      case TaskKind::kForward:
        return run_forward(visit, action);
      case TaskKind::kLoss:
        return run_loss(visit, action);
      case TaskKind::kBackward:
        return run_backward(visit, action);
    }
  });
}

void Node::run_forward(const MachineVisit& visit, const Action& action) {
  if (visit.is_data) {
    if (visit.forward_only)
      held_out_->fill(static_cast<uint64_t>(settings_.validation.batch_of(action.microbatch - microbatches_)), tokens_,
                      targets_);
    else
      sampler_->fill(action.iteration, static_cast<uint32_t>(action.microbatch), tokens_, targets_);
    stage_.set_batch(action.slot, tokens_, targets_);
  } else {
    traffic_.unpack(Phase::kForward, action.slot);
  }
  stage_.forward(action.slot);
  if (visit.next_node >= 0) traffic_.pack(visit, Phase::kForward, action.slot);
}

void Node::run_loss(const MachineVisit& visit, const Action& action) {
  const bool alone = visit.next_node < 0;
  if (!alone) traffic_.unpack(Phase::kForward, action.slot);
  const Tensor hidden = alone ? stage_.output(action.slot) : stage_.returned(action.slot);
  if (visit.forward_only) {
    validation_losses_[static_cast<size_t>(action.microbatch - microbatches_)] =
        stage_.evaluate_loss(action.slot, hidden);
    return;
  }
  const LossSum loss = stage_.loss(action.slot, hidden);
  if (!alone) traffic_.pack(visit, Phase::kBackward, action.slot);
  loss_sum_ += loss.mean();
  ++losses_;
}

void Node::run_backward(const MachineVisit& visit, const Action& action) {
  const bool alone = visit.is_data && visit.next_node < 0;
  if (!alone) traffic_.unpack(Phase::kBackward, action.slot);
  const Tensor dy = alone ? stage_.loss_gradient(action.slot) : stage_.output_gradient(action.slot);
  if (visit.is_data) return stage_.backward(action.slot, dy, {});
  stage_.backward(action.slot, dy, traffic_.gradient_of(visit, action.slot));
  traffic_.pack(visit, Phase::kBackward, action.slot);
}

// The replicas hold the same sum: one of them measures it for the stage.
void Node::measure_norm(uint32_t iteration) {
  submit({What::kNorm, iteration}, [this] { squared_norm_ = first_replica_ ? stage_.squared_gradient_norm() : 0; });
}

void Node::step(uint32_t iteration) {
  AdamWStep step = settings_.adamw;
  step.learning_rate = static_cast<float>(settings_.learning_rate.at(iteration));
  step.step = int64_t{iteration} + 1;
  // Gradient of the mean loss over the iteration's microbatches.
  step.grad_scale = 1.0f / static_cast<float>(microbatches_);
  const bool clips = settings_.clip_norm > 0;
  if (clips && gradient_norm_ > settings_.clip_norm)
    step.grad_scale *= static_cast<float>(settings_.clip_norm / (gradient_norm_ + 1e-6));
  submit({What::kStep, iteration}, [this, step, clips, iteration] {
    if (!clips) squared_norm_ = first_replica_ ? stage_.squared_gradient_norm() : 0;
    if (hooks_.before_step) hooks_.before_step(iteration, stage_);
    stage_.step(step);
    stage_.zero_gradients();
    if (checkpoints_ && checkpoints_->due(iteration + 1)) take_snapshot(iteration + 1);
  });
}

void Node::job_done() {
  switch (job_.what) {
    case What::kNorm:
      return tell_stats(job_.iteration);
    case What::kStep:
      if (settings_.clip_norm == 0) tell_stats(job_.iteration);
      validation_begin_s_ = seconds();
      return feed([](NodeMachine& machine, double now, ActionList& out) { machine.stepped(now, out); });
    case What::kSnapshot:
      return;
    default:
      return feed([](NodeMachine& machine, double now, ActionList& out) { machine.task_finished(now, out); });
  }
}

// ---- statistics

void Node::tell_stats(uint32_t iteration) {
  std::array<double, kStatCount> values{};
  values[kSquaredNorm] = squared_norm_;
  values[kLossSum] = std::exchange(loss_sum_, 0);
  values[kLosses] = std::exchange(losses_, 0);
  values[kBusySeconds] = std::exchange(busy_s_, 0);
  values[kStopRequests] = stop_requested_ ? 1 : 0;
  tell_of_checkpoints(values);
  stats_.start(iteration, values);
}

void Node::stats_arrived(const SumExchange::Result& result) {
  if (!last_checkpoint_) report(result);
  // Weights that have just gone wrong replace no checkpoint.
  if (settings_.checkpoint_interval > 0 && failure_.empty()) checkpoints_arrived(result.node_values);
}

void Node::report(const SumExchange::Result& result) {
  const uint32_t iteration = result.iteration;
  const std::span<const double> sums = result.sums;
  ++reports_;
  gradient_norm_ = std::sqrt(sums[kSquaredNorm]) / microbatches_;
  const double now = seconds();
  IterationReport report;
  report.iteration = iteration;
  report.loss = sums[kLossSum] / sums[kLosses];
  report.gradient_norm = gradient_norm_;
  report.learning_rate = settings_.learning_rate.at(iteration);
  report.seconds = now - std::exchange(last_report_s_, now) - std::exchange(validating_s_, 0);
  report.busy_share = sums[kBusySeconds] / (report.seconds * transport_.node_count());
  report.tokens = int64_t{microbatches_} * stage_.batch().samples * stage_.batch().tokens;
  for (size_t i = kBusySeconds; i < result.node_values.size(); i += kStatCount) {
    const double busy_s = result.node_values[i];  // peers may send anything, NaN too
    report.node_busy_s.push_back(busy_s > 0 && std::isfinite(busy_s) ? busy_s : 0);
  }
  if (!std::isfinite(report.loss) || !std::isfinite(gradient_norm_)) {
    failure_ = fmt::format(
        "iteration {}: the loss is {} and the gradient norm is {}, expected finite numbers; a lower learning "
        "rate may help",
        iteration + 1, number_text(report.loss), number_text(gradient_norm_));
    return;
  }
  report_ = report;
  if (!machine_.validates_after(iteration) || validation_) hand_out_report();
  if (settings_.clip_norm > 0) {
    norm_known_ = true;
    if (sums[kStopRequests] > 0) machine_.end_after(iteration);
  }
}

void Node::hand_out_report() {
  report_->validation = std::exchange(validation_, std::nullopt);
  if (hooks_.on_report) hooks_.on_report(*report_);
  report_.reset();
}

// Added in the order of the microbatches, whatever order they came in.
void Node::tell_losses() {
  std::array<double, kValidationSumCount> values{};
  for (size_t m = 0; m < validation_losses_.size(); ++m) {
    const bool all = settings_.validation.passes_all_stages(static_cast<int>(m));
    values[all ? kAllStagesLoss : kPathsLoss] += validation_losses_[m].sum;
    values[all ? kAllStagesTargets : kPathsTargets] += static_cast<double>(validation_losses_[m].tokens);
  }
  losses_exchange_.start(validations_++, values);
}

void Node::losses_arrived(std::span<const double> sums) {
  const double now = seconds();
  ValidationReport validation;
  validation.loss = sums[kAllStagesLoss] / sums[kAllStagesTargets];
  if (settings_.validation.has_paths()) validation.path_loss = sums[kPathsLoss] / sums[kPathsTargets];
  // Without norms to wait for, other nodes may have trained on after this one began.
  validation.seconds = now - std::max(validation_begin_s_, last_report_s_);
  validating_s_ += validation.seconds;
  losses_known_ = true;
  if (const double worse = validation.path_loss.value_or(validation.loss);
      !std::isfinite(validation.loss) || !std::isfinite(worse)) {
    failure_ = fmt::format("iteration {}: the validation loss is {}, expected a finite number", machine_.iteration(),
                           number_text(std::isfinite(validation.loss) ? worse : validation.loss));
    return;
  }
  validation_ = validation;
  if (report_) hand_out_report();
}

// ---- checkpoints

void Node::take_snapshot(uint32_t iterations_done) {
  checkpoints_->snapshot(iterations_done);
  last_snapshot_ = iterations_done;
}

void Node::tell_of_checkpoints(std::span<double> values) const {
  if (!checkpoints_) return;
  const CheckpointProgress progress = checkpoints_->progress();
  values[kCheckpoint] = progress.newest;
  values[kCheckpointHistory] = static_cast<double>(progress.history);
}

void Node::checkpoints_arrived(std::span<const double> node_values) {
  std::vector<CheckpointProgress> nodes;
  bool all_have_last = true;
  for (const int node : first_replicas_) {
    const auto values = node_values.subspan(static_cast<size_t>(node) * kStatCount, kStatCount);
    // Peers may send anything, NaN too.
    const auto within = [](double value, double high) { return value > 0 ? std::min(value, high) : 0; };
    nodes.push_back({static_cast<uint32_t>(within(values[kCheckpoint], 4294967295.0)),
                     static_cast<uint64_t>(within(values[kCheckpointHistory], 0x1p52))});
    all_have_last = all_have_last && values[kLastCheckpoint] == 1;
  }
  if (last_checkpoint_) last_whole_ = all_have_last;
  if (!checkpoints_) return;
  for (const uint32_t iteration : written_by_all(nodes, settings_.checkpoint_interval))
    checkpoints_->publish(iteration);
  if (last_checkpoint_ && all_have_last) checkpoints_->publish(reports_);
}

Status Node::write_last_checkpoint() {
  SKP_CHECK(settings_.checkpoint_interval > 0);
  const uint32_t done = reports_;
  // Until `finished` or something fails, with signs of life to the peers.
  const auto wait = [this](const std::function<bool()>& finished) {
    while (!finished() && failure_.empty() && stats_.status().ok())
      if (!pump()) transport_.run_once(Clock::now() + kLongestNap);
    if (stats_.status().ok() && !failure_.empty()) return Status(StatusCode::kPeerGone, failure_);
    return stats_.status();
  };
  std::string error;
  if (checkpoints_) {
    if (last_snapshot_ != done)
      submit({What::kSnapshot, std::max(done, 1u) - 1}, [this, done] { take_snapshot(done); });
    Patience patience(std::chrono::duration<double>(settings_.last_checkpoint_limit_s));
    const Status status = wait([&] {
      const bool is_over = patience.is_over();
      if (computing_) return false;
      if (!checkpoints_->written(done)) error = checkpoints_->last_error();
      return checkpoints_->written(done) || checkpoints_->refused(done) || (is_over && !error.empty());
    });
    if (!status.ok()) return status;
  }
  const bool written = checkpoints_ && checkpoints_->written(done);
  last_checkpoint_ = true;
  std::array<double, kStatCount> values{};
  tell_of_checkpoints(values);
  values[kLastCheckpoint] = written ? 1 : 0;
  stats_.start(done, values);
  Patience patience(std::chrono::duration<double>(settings_.stall_limit_s));
  const Status status = wait([&] { return last_whole_.has_value() || patience.is_over(); });
  if (!status.ok()) return status;
  if (checkpoints_ && !written) return {StatusCode::kTimeout, error};
  if (!last_whole_.value_or(false)) return {StatusCode::kPeerGone, "another node has not written its part"};
  if (!checkpoints_) return {};
  const Status idle = wait([this] { return checkpoints_->idle(); });
  if (idle.ok() && checkpoints_->published() != done) return {StatusCode::kTimeout, "it could not be renamed"};
  return idle;
}

}  // namespace skippipe
