// The node machine: whole plans in any order of events, slots, early messages, and events that the protocol excludes.
#include "schedule/machine/node_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using test::Case;
using testing::HasSubstr;

// Drives the machines of a plan without a clock: at each step any one of the pending events happens, chosen by the
// seed. So every order that a network and its nodes could bring about may come up, also ones that no cost model would.
class ChaosDriver {
 public:
  ChaosDriver(const Plan& plan, const ValidationPlan& validation, uint32_t iterations, uint64_t seed)
      : plan_(plan),
        validation_(validation),
        max_actions_(NodeMachine::max_actions(plan.microbatches.size() + validation.microbatches.size())),
        random_(seed, {3}) {
    for (int node = 0; node < plan.node_count(); ++node)
      machines_.emplace_back(machine_config(plan, node, 0, iterations, validation));
    for (int node = 0; node < plan.node_count(); ++node) pending_.push_back({.kind = Event::kStart, .node = node});
  }

  void run() {
    while (!pending_.empty() && !testing::Test::HasFatalFailure()) {
      std::swap(pending_[random_.below(pending_.size())], pending_.back());
      const Event event = pending_.back();
      pending_.pop_back();
      handle(event);
    }
    for (const NodeMachine& machine : machines_) EXPECT_TRUE(machine.finished()) << machine.waiting_for();
  }

  // (node, microbatch, task, iteration): how often each ran.
  const std::map<std::tuple<int, int, TaskKind, uint32_t>, int>& tasks() const { return tasks_; }

 private:
  struct Event {
    enum Kind { kStart, kAnnounced, kReceived, kSent, kTask, kReduced, kNorm, kStepped, kLosses };
    Kind kind;
    int node = 0;
    Action action = {};
  };

  void handle(const Event& event) {
    NodeMachine& machine = machines_[static_cast<size_t>(event.node)];
    ActionList actions(max_actions_);
    const Action& a = event.action;
    const double now = ++now_;
    switch (event.kind) {
      case Event::kStart:
        machine.start(now, actions);
        break;
      case Event::kAnnounced:
        machine.message_announced(now, a.iteration, a.microbatch, a.phase, actions);
        break;
      case Event::kReceived:
        machine.message_received(now, a.iteration, a.microbatch, a.phase, actions);
        if (const auto sent = unsent_.extract({a.peer, a.microbatch}))
          pending_.push_back({Event::kSent, a.peer, sent.mapped()});
        break;
      case Event::kSent:
        ASSERT_EQ(slots_.erase({event.node, a.slot}), 1u);
        machine.message_sent(now, a.iteration, a.microbatch, actions);
        break;
      case Event::kTask:
        machine.task_finished(now, actions);
        break;
      case Event::kReduced:
        machine.reduced(now, actions);
        break;
      case Event::kNorm:
        machine.norm_exchanged(now, actions);
        break;
      case Event::kStepped:
        machine.stepped(now, actions);
        break;
      case Event::kLosses:
        machine.losses_exchanged(now, actions);
        break;
    }
    if (event.kind == Event::kTask) running_.erase(event.node);
    ASSERT_LE(machine.open_visits(), machine.slots());
    ASSERT_LE(actions.view().size(), max_actions_);
    for (const Action& action : actions.view()) obey(event.node, action);
  }

  void obey(int node, const Action& action) {
    switch (action.kind) {
      case Action::Kind::kReceive:
        pending_.push_back({Event::kReceived, node, action});
        break;
      case Action::Kind::kRun:
        run_task(node, action);
        break;
      case Action::Kind::kSend:
        pending_.push_back({Event::kAnnounced, action.peer, action});
        // Some leave at once, others only when the receiver lets them in.
        if (action.tell_sent && random_.below(2) == 0)
          pending_.push_back({Event::kSent, node, action});
        else if (action.tell_sent)
          unsent_[{node, action.microbatch}] = action;
        break;
      case Action::Kind::kReduce:
        gather(reducing_[stage_of(node)], stage_of(node), Event::kReduced, node, action);
        break;
      case Action::Kind::kExchangeNorm:
        gather(exchanging_, -1, Event::kNorm, node, action);
        break;
      case Action::Kind::kStep:
        EXPECT_EQ(action.contributions, visits_of(node));
        pending_.push_back({Event::kStepped, node, action});
        break;
      case Action::Kind::kExchangeLosses:
        gather(telling_losses_, -1, Event::kLosses, node, action);
        break;
      case Action::Kind::kFinish:
        break;
      case Action::Kind::kFail:
        FAIL() << machines_[static_cast<size_t>(node)].why();
    }
  }

  void run_task(int node, const Action& action) {
    ASSERT_TRUE(running_.insert(node).second) << "two tasks run at once on node " << node;
    ASSERT_GE(action.slot, 0);
    ASSERT_LT(action.slot, machines_[static_cast<size_t>(node)].slots());
    const auto count = [&](TaskKind kind) { return tasks_[{node, action.microbatch, kind, action.iteration}]; };
    ASSERT_EQ(count(action.task), 0) << "a task ran twice";
    if (action.task != TaskKind::kForward) {
      ASSERT_EQ(count(TaskKind::kForward), 1);
    }
    const auto microbatch = static_cast<size_t>(action.microbatch);
    const bool validates = microbatch >= plan_.microbatches.size();
    ASSERT_TRUE(!validates || action.task != TaskKind::kBackward);
    const bool is_data =
        (validates ? validation_.microbatches[microbatch - plan_.microbatches.size()] : plan_.microbatches[microbatch])
            .data_node() == node;
    if (action.task == TaskKind::kBackward && is_data) {
      ASSERT_EQ(count(TaskKind::kLoss), 1);
    }
    // A visit owns its slot from its forward to its backward; one of a validation until its result has left, or its
    // loss is known.
    const auto slot = std::make_pair(node, action.slot);
    if (action.task == TaskKind::kForward) {
      ASSERT_TRUE(slots_.emplace(slot, action.microbatch).second) << "a slot is taken twice";
    } else {
      ASSERT_EQ(slots_.at(slot), action.microbatch);
      if (action.task == TaskKind::kBackward || validates) slots_.erase(slot);
    }
    ++tasks_[{node, action.microbatch, action.task, action.iteration}];
    pending_.push_back({Event::kTask, node, action});
  }

  // Collective actions end once all the nodes of the group have joined.
  void gather(std::vector<int>& joined, int stage, Event::Kind done, int node, const Action& action) {
    joined.push_back(node);
    const size_t expected = stage < 0 ? machines_.size() : plan_.stages[static_cast<size_t>(stage)].size();
    if (joined.size() < expected) return;
    for (const int member : joined) pending_.push_back({done, member, action});
    joined.clear();
  }

  int stage_of(int node) const { return plan_.stage_of_nodes()[static_cast<size_t>(node)]; }
  int visits_of(int node) const {
    int count = 0;
    for (const PlannedMicrobatch& microbatch : plan_.microbatches)
      for (const PlannedVisit& visit : microbatch.visits) count += visit.node == node;
    return count;
  }

  const Plan& plan_;
  const ValidationPlan& validation_;
  const size_t max_actions_;
  Random random_;
  double now_ = 0;
  std::vector<NodeMachine> machines_;
  std::vector<Event> pending_;
  std::map<std::tuple<int, int, TaskKind, uint32_t>, int> tasks_;
  std::map<std::pair<int, int>, int> slots_;
  std::set<int> running_;
  std::map<int, std::vector<int>> reducing_;
  std::vector<int> exchanging_, telling_losses_;
  std::map<std::pair<int, int>, Action> unsent_;  // by node and microbatch
};

TEST(NodeMachine, EveryOrderOfEventsFinishesEveryPlan) {
  constexpr uint32_t kIterations = 3;
  int completed = 0, through_paths = 0;
  for (const uint64_t seed : test::seeds(2100)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> random = test::random_case(seed);
    if (!random) continue;
    ++completed;
    // None, after each iteration, after the second and the last, or only after the last.
    const auto interval = static_cast<uint32_t>(seed % 4);
    const size_t validations = std::array{0, 3, 2, 1}[interval];
    const ValidationPlan validation =
        interval == 0 ? ValidationPlan{} : plan_validation(random->plan, interval, 1 + static_cast<int>(seed % 5));
    through_paths += validations > 0 && validation.has_paths();
    ChaosDriver driver(random->plan, validation, kIterations, seed);
    driver.run();
    size_t tasks = 0, validation_tasks = 0;
    for (const PlannedMicrobatch& microbatch : random->plan.microbatches) tasks += 2 * microbatch.visits.size() + 1;
    for (const PlannedMicrobatch& microbatch : validation.microbatches)
      validation_tasks += microbatch.visits.size() + 1;
    ASSERT_EQ(driver.tasks().size(), tasks * kIterations + validation_tasks * validations);
    if (HasFailure()) return;
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GE(completed, 2000) << "the others deadlock while ranks are sought, so that there is no plan";
    EXPECT_GE(through_paths, 800);
  }
}

// A node between two others: microbatches 0..2 of one plan, 2 slots.
MachineConfig middle_node() {
  MachineConfig config;
  config.node = 5;
  config.slots = 2;
  config.microbatches = 4;
  config.last_iteration = 2;
  config.replicas = 2;
  for (int m = 0; m < 3; ++m)
    config.visits.push_back({.microbatch = m,
                             .rank = m,
                             .next_node = 7,
                             .previous_node = 6,
                             .forward_priority = 10 - m,
                             .backward_priority = 20 - m,
                             .backward_rank = m});
  return config;
}

class MiddleNode : public testing::Test {
 protected:
  using Kind = Action::Kind;

  std::vector<Kind> announce(uint32_t iteration, int microbatch, Phase phase = Phase::kForward) {
    return after([&] { machine_.message_announced(0, iteration, microbatch, phase, actions_); });
  }
  std::vector<Kind> receive(int microbatch, Phase phase = Phase::kForward) {
    return after([&] { machine_.message_received(0, machine_.iteration(), microbatch, phase, actions_); });
  }
  std::vector<Kind> finish_task() {
    return after([&] { machine_.task_finished(0, actions_); });
  }
  template <typename Event>
  std::vector<Kind> after(Event event) {
    actions_.clear();
    event();
    std::vector<Kind> kinds;
    for (const Action& action : actions_.view()) kinds.push_back(action.kind);
    return kinds;
  }
  std::vector<Kind> start() {
    return after([&] { machine_.start(0, actions_); });
  }
  // Forward and backward of a microbatch that is let in at once, on an idle node.
  void visit(int microbatch) {
    announce(machine_.iteration(), microbatch);
    receive(microbatch);
    finish_task();
    announce(machine_.iteration(), microbatch, Phase::kBackward);
    receive(microbatch, Phase::kBackward);
    finish_task();
  }

  NodeMachine machine_{middle_node()};
  ActionList actions_{NodeMachine::max_actions(3)};
};

TEST_F(MiddleNode, RankedAdmissionKeepsRoomForLowerRanks) {
  MachineConfig config = middle_node();
  std::swap(config.visits[0].backward_rank, config.visits[1].backward_rank);
  machine_ = NodeMachine(config);
  start();
  EXPECT_THAT(announce(0, 2), testing::IsEmpty()) << "rank 2 of 2 slots waits for one ended visit";
  EXPECT_EQ(machine_.open_visits(), 0);
  EXPECT_THAT(announce(0, 1), testing::ElementsAre(Kind::kReceive));
  EXPECT_EQ(actions_.view()[0].slot, 0);
  EXPECT_THAT(receive(1), testing::ElementsAre(Kind::kRun));
  EXPECT_THAT(finish_task(), testing::ElementsAre(Kind::kSend));
  EXPECT_EQ(actions_.view()[0].peer, 7);
  EXPECT_THAT(announce(0, 1, Phase::kBackward), testing::ElementsAre(Kind::kReceive));
  EXPECT_THAT(receive(1, Phase::kBackward), testing::ElementsAre(Kind::kRun));
  EXPECT_THAT(finish_task(), testing::ElementsAre(Kind::kSend, Kind::kReceive)) << "the waiting visit is let in";
  EXPECT_EQ(actions_.view()[0].peer, 6);
  EXPECT_EQ(actions_.view()[1].microbatch, 2);
}

TEST_F(MiddleNode, RunsTheReadyTaskOfHighestPriority) {
  for (const int forward_priority : {8, 30}) {
    MachineConfig config = middle_node();
    config.slots = 3;
    config.visits[2].forward_priority = forward_priority;
    machine_ = NodeMachine(config);
    start();
    announce(0, 0);
    receive(0);
    finish_task();
    announce(0, 1);
    EXPECT_THAT(receive(1), testing::ElementsAre(Kind::kRun));
    announce(0, 2);
    EXPECT_THAT(receive(2), testing::IsEmpty()) << "one task at a time";
    announce(0, 0, Phase::kBackward);
    EXPECT_THAT(receive(0, Phase::kBackward), testing::IsEmpty());
    // Ready now: forward of 2, and backward of 0 with priority 20.
    EXPECT_THAT(finish_task(), testing::ElementsAre(Kind::kSend, Kind::kRun));
    EXPECT_EQ(actions_.view()[1].task, forward_priority > 20 ? TaskKind::kForward : TaskKind::kBackward);
    EXPECT_EQ(actions_.view()[1].microbatch, forward_priority > 20 ? 2 : 0);
  }
}

TEST_F(MiddleNode, EndsAnIterationThroughReductionNormAndStep) {
  start();
  for (int m = 0; m < 3; ++m) visit(m);
  ASSERT_EQ(actions_.view().back().kind, Kind::kReduce);
  EXPECT_THAT(announce(1, 0), testing::IsEmpty()) << "messages of the next iteration wait";
  EXPECT_THAT(after([&] { machine_.reduced(0, actions_); }), testing::ElementsAre(Kind::kExchangeNorm));
  EXPECT_THAT(after([&] { machine_.norm_exchanged(0, actions_); }), testing::ElementsAre(Kind::kStep));
  EXPECT_EQ(actions_.view()[0].contributions, 3);
  EXPECT_THAT(after([&] { machine_.stepped(0, actions_); }), testing::ElementsAre(Kind::kReceive));
  EXPECT_EQ(actions_.view()[0].iteration, 1u);
  receive(0);
  finish_task();
  announce(1, 0, Phase::kBackward);
  receive(0, Phase::kBackward);
  finish_task();
  visit(1);
  visit(2);
  after([&] { machine_.reduced(0, actions_); });
  after([&] { machine_.norm_exchanged(0, actions_); });
  EXPECT_THAT(after([&] { machine_.stepped(0, actions_); }), testing::ElementsAre(Kind::kFinish));
  EXPECT_TRUE(machine_.finished());
}

TEST_F(MiddleNode, EndsAfterTheIterationThatAllAgreedOn) {
  start();
  for (int m = 0; m < 3; ++m) visit(m);
  after([&] { machine_.reduced(0, actions_); });
  machine_.end_after(0);  // of two
  after([&] { machine_.norm_exchanged(0, actions_); });
  EXPECT_THAT(after([&] { machine_.stepped(0, actions_); }), testing::ElementsAre(Kind::kFinish));
  EXPECT_TRUE(machine_.finished());
  EXPECT_EQ(machine_.iteration(), 1u);
  EXPECT_THROW(machine_.end_after(0), InternalError);
}

TEST_F(MiddleNode, MessagesMayComeBeforeTheStart) {
  EXPECT_THAT(announce(0, 1), testing::IsEmpty());
  EXPECT_THAT(start(), testing::ElementsAre(Kind::kReceive));
}

TEST_F(MiddleNode, SaysWhatItWaitsFor) {
  start();
  EXPECT_THAT(machine_.waiting_for(), HasSubstr("iteration 0: forward of microbatch 0 from node 6"));
  announce(0, 1);
  receive(1);
  finish_task();
  EXPECT_THAT(machine_.waiting_for(), HasSubstr("backward of microbatch 1 from node 7"));
  EXPECT_EQ(
      machine_.waiting(),
      (Waiting{.what = Waiting::For::kMessage, .phase = Phase::kBackward, .microbatch = 1, .peer = 7, .iteration = 0}));
}

TEST_F(MiddleNode, WaitsForTheLowestRankWhereNoVisitIsOpen) {
  MachineConfig config = middle_node();
  config.slots = 1;
  std::swap(config.visits[0].rank, config.visits[2].rank);
  machine_ = NodeMachine(config);
  EXPECT_EQ(machine_.waiting().what, Waiting::For::kStart);
  start();
  announce(0, 0);
  announce(0, 1);
  EXPECT_EQ(machine_.waiting().microbatch, 2) << "the others have higher ranks and wait for it too";
  announce(0, 2);
  receive(2);
  EXPECT_EQ(machine_.waiting().what, Waiting::For::kTask);
  EXPECT_THAT(machine_.waiting_for(), HasSubstr("its forward of microbatch 2"));
}

// What is added to the gradients, and in which order, must not depend on when messages come.
TEST_F(MiddleNode, RunsGradientPassesInTheOrderOfTheirRanks) {
  MachineConfig config = middle_node();
  std::swap(config.visits[0].backward_rank, config.visits[1].backward_rank);
  machine_ = NodeMachine(config);
  start();
  for (const int microbatch : {0, 1}) {
    announce(0, microbatch);
    receive(microbatch);
    finish_task();
  }
  announce(0, 0, Phase::kBackward);
  EXPECT_THAT(receive(0, Phase::kBackward), testing::IsEmpty()) << "that of microbatch 1 comes before";
  EXPECT_EQ(
      machine_.waiting(),
      (Waiting{.what = Waiting::For::kMessage, .phase = Phase::kBackward, .microbatch = 1, .peer = 7, .iteration = 0}));
  announce(0, 1, Phase::kBackward);
  EXPECT_THAT(receive(1, Phase::kBackward), testing::ElementsAre(Kind::kRun));
  EXPECT_EQ(actions_.view()[0].microbatch, 1);
  finish_task();
  EXPECT_EQ(actions_.view().back().microbatch, 0);
  EXPECT_EQ(machine_.gradient_passes().size(), 2u);
}

// Microbatches 4 and 5 are a validation's, after each of two iterations.
MachineConfig validating_node() {
  MachineConfig config = middle_node();
  config.slots = 1;
  config.visits.resize(1);
  config.validation_microbatches = 2;
  config.validation_interval = 1;
  for (int m = 0; m < 2; ++m)
    config.visits.push_back({.microbatch = 4 + m, .rank = m, .next_node = 8, .previous_node = 6, .forward_only = true});
  return config;
}

TEST_F(MiddleNode, ValidatesBetweenTwoIterations) {
  machine_ = NodeMachine(validating_node());
  const auto step = [&] {
    visit(0);
    after([&] { machine_.reduced(0, actions_); });
    after([&] { machine_.norm_exchanged(0, actions_); });
    return after([&] { machine_.stepped(0, actions_); });
  };
  start();
  EXPECT_THAT(announce(0, 5), testing::IsEmpty()) << "messages of the next validation wait";
  EXPECT_THAT(step(), testing::IsEmpty()) << "microbatch 4 is before";
  EXPECT_EQ(machine_.iteration(), 0u);
  EXPECT_THAT(machine_.waiting_for(), HasSubstr("the validation after iteration 0: forward of microbatch 4"));
  EXPECT_THAT(announce(0, 4), testing::ElementsAre(Kind::kReceive));
  EXPECT_THAT(receive(4), testing::ElementsAre(Kind::kRun));
  EXPECT_THAT(finish_task(), testing::ElementsAre(Kind::kSend)) << "the slot is taken until the result has left";
  EXPECT_TRUE(actions_.view()[0].tell_sent);
  EXPECT_EQ(
      machine_.waiting(),
      (Waiting{.what = Waiting::For::kDeparture, .microbatch = 4, .peer = 8, .iteration = 0, .validation = true}));
  EXPECT_THAT(after([&] { machine_.message_sent(0, 0, 4, actions_); }), testing::ElementsAre(Kind::kReceive));
  receive(5);
  finish_task();
  EXPECT_THAT(announce(1, 0), testing::IsEmpty());
  EXPECT_THAT(after([&] { machine_.message_sent(0, 0, 5, actions_); }), testing::ElementsAre(Kind::kExchangeLosses));
  EXPECT_EQ(machine_.waiting().what, Waiting::For::kLosses);
  EXPECT_THAT(announce(1, 4), testing::IsEmpty()) << "a peer may be one iteration ahead where norms are not exchanged";
  EXPECT_THAT(after([&] { machine_.losses_exchanged(0, actions_); }), testing::ElementsAre(Kind::kReceive));
  EXPECT_EQ(machine_.iteration(), 1u);
  receive(0);
  finish_task();
  announce(1, 0, Phase::kBackward);
  receive(0, Phase::kBackward);
  finish_task();
  after([&] { machine_.reduced(0, actions_); });
  after([&] { machine_.norm_exchanged(0, actions_); });
  EXPECT_THAT(after([&] { machine_.stepped(0, actions_); }), testing::ElementsAre(Kind::kReceive));
}

TEST_F(MiddleNode, DoesNotValidateBecauseTheRunStops) {
  MachineConfig config = validating_node();
  config.validation_interval = 2;
  machine_ = NodeMachine(config);
  start();
  visit(0);
  after([&] { machine_.reduced(0, actions_); });
  machine_.end_after(0);
  after([&] { machine_.norm_exchanged(0, actions_); });
  EXPECT_THAT(after([&] { machine_.stepped(0, actions_); }), testing::ElementsAre(Kind::kFinish));
}

TEST_F(MiddleNode, FailsOnEventsThatTheProtocolExcludes) {
  const auto fails = [&](auto prepare, auto event, const std::string& why) {
    machine_ = NodeMachine(middle_node());
    start();
    prepare();
    EXPECT_THAT(after(event), testing::ElementsAre(Kind::kFail)) << why;
    EXPECT_THAT(machine_.why(), HasSubstr(why));
    EXPECT_THAT(announce(0, 2), testing::IsEmpty()) << "no action follows a failure";
  };
  const auto nothing = [] {};
  const auto announced = [&](uint32_t iteration, int microbatch, Phase phase) {
    return [=, this] { machine_.message_announced(0, iteration, microbatch, phase, actions_); };
  };
  fails([&] { announce(0, 0); }, announced(0, 0, Phase::kForward), "forward message of microbatch 0");
  fails([&] { announce(1, 0); }, announced(1, 0, Phase::kForward), "too early");
  fails(nothing, announced(1, 0, Phase::kBackward), "too early");
  fails(nothing, announced(2, 0, Phase::kForward), "another iteration");
  fails(nothing, announced(0, 3, Phase::kForward), "not for this node");
  fails(nothing, announced(0, -1, Phase::kForward), "not for this node");
  fails(nothing, announced(0, 1 << 30, Phase::kForward), "not for this node");
  fails(nothing, announced(0, 0, Phase::kBackward), "not expected");
  fails([&] { visit(0); }, announced(0, 0, Phase::kForward), "not expected");
  fails(
      nothing, [&] { machine_.message_received(0, 0, 0, Phase::kForward, actions_); }, "unasked");
  fails(
      nothing, [&] { machine_.task_finished(0, actions_); }, "not running");
  fails(
      nothing, [&] { machine_.reduced(0, actions_); }, "not asked for");
  fails(
      nothing, [&] { machine_.norm_exchanged(0, actions_); }, "not asked for");
  fails(
      nothing, [&] { machine_.stepped(0, actions_); }, "not asked for");
  fails(
      nothing, [&] { machine_.losses_exchanged(0, actions_); }, "not asked for");
  fails([&] { announce(0, 0); }, [&] { machine_.message_sent(0, 0, 0, actions_); }, "unasked");
  fails(
      [&] {
        machine_ = NodeMachine(validating_node());
        start();
        announce(0, 4);
      },
      announced(0, 4, Phase::kForward), "too early");
  fails([&] { machine_ = NodeMachine(validating_node()); }, announced(2, 4, Phase::kForward), "another iteration");
  fails([&] { machine_ = NodeMachine(validating_node()); }, announced(0, 6, Phase::kForward), "not for this node");
  fails(
      nothing, [&] { machine_.start(0, actions_); }, "twice");
  fails(
      nothing, [&] { machine_.peer_failed(0, 6, actions_); }, "node 6 failed in iteration 0");
}

TEST(NodeMachineConfig, RefusesVisitsThatContradictEachOther) {
  MachineConfig twice = middle_node();
  twice.visits[1].microbatch = 0;
  EXPECT_THROW(NodeMachine{twice}, PlanError);
  MachineConfig ranks = middle_node();
  ranks.visits[1].rank = 2;
  EXPECT_THROW(NodeMachine{ranks}, PlanError);
  MachineConfig gradients = middle_node();
  gradients.visits[1].backward_rank = 2;
  EXPECT_THROW(NodeMachine{gradients}, PlanError);
  MachineConfig first = validating_node();
  std::swap(first.visits.front(), first.visits.back());
  EXPECT_THROW(NodeMachine{first}, PlanError);
  MachineConfig never = validating_node();
  never.validation_interval = 0;
  EXPECT_THROW(NodeMachine{never}, PlanError);
  MachineConfig backward = validating_node();
  backward.visits.back().forward_only = false;
  EXPECT_THROW(NodeMachine{backward}, PlanError);
  MachineConfig slots = middle_node();
  slots.slots = 0;
  EXPECT_THROW(NodeMachine{slots}, PlanError);
}

}  // namespace
}  // namespace skippipe
