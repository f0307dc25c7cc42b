// Runs whose processes get signals, are stopped for a while, or may have few open files.
#include <signal.h>

#include "engine/run/resume.h"
#include "tests/tools/run_fixture.h"

namespace skippipe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class RunSignalsTest : public RunFixture {
 protected:
  static Sections endless() {
    Sections sections;
    sections.run = "iterations = 1000000";
    return sections;
  }
  // For stops that outlast it.
  static Sections impatient(const std::string& iterations) {
    Sections sections;
    sections.run = iterations;
    sections.network = "emulate_links = true\nheartbeat_interval_s = 0.2\nsilence_limit_s = 2";
    return sections;
  }
  static void expect_stopped_with_a_checkpoint(BackgroundLaunch& launch) {
    EXPECT_EQ(launch.wait(kLongEnough), 130) << launch.output();
    EXPECT_TRUE(newest_whole_checkpoint(output_folder()).has_value());
    EXPECT_TRUE(launch.nodes().empty());
  }
};

TEST_F(RunSignalsTest, AClosedTerminalEndsTheRunWithACheckpoint) {
  signal(SIGHUP, SIG_DFL);  // whoever runs the tests may have begun with nohup
  BackgroundLaunch launch(write_run(endless()));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.send(SIGHUP);
  expect_stopped_with_a_checkpoint(launch);
  EXPECT_THAT(launch.output(), AllOf(HasSubstr("SIGHUP: stopping after this iteration"), Not(HasSubstr("DEBUG"))));
}

TEST_F(RunSignalsTest, AClosedTerminalForEveryProcessAtOnce) {
  signal(SIGHUP, SIG_DFL);
  BackgroundLaunch launch(write_run(endless()));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.send_to_all(SIGHUP);
  launch.send_to_all(SIGHUP);
  expect_stopped_with_a_checkpoint(launch);
  EXPECT_THAT(launch.output(), Not(HasSubstr("DEBUG")));
}

// Also where the program starts itself once more, as it does without a setting for OpenMP.
TEST_F(RunSignalsTest, NohupHolds) {
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  const std::string before = policy == nullptr ? "" : policy;
  unsetenv("OMP_WAIT_POLICY");
  signal(SIGHUP, SIG_IGN);
  BackgroundLaunch launch(write_run(endless()));
  signal(SIGHUP, SIG_DFL);
  if (!before.empty()) setenv("OMP_WAIT_POLICY", before.c_str(), 1);
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.send_to_all(SIGHUP);
  launch.interrupt();
  expect_stopped_with_a_checkpoint(launch);
  EXPECT_THAT(launch.output(), AllOf(Not(HasSubstr("SIGHUP")), HasSubstr("Ctrl-C again stops at once")));
}

// The limit of processor time ends one node, and with it the run of all.
TEST_F(RunSignalsTest, ANodeThatMustEndEndsTheRunWithACheckpoint) {
  BackgroundLaunch launch(write_run(endless()));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  const std::vector<pid_t> node = launch.nodes(2);
  ASSERT_EQ(node.size(), 1u);
  kill(node.front(), SIGXCPU);
  expect_stopped_with_a_checkpoint(launch);
  EXPECT_THAT(launch.output(),
              AllOf(HasSubstr("node 2 (c): stopping: SIGXCPU"), HasSubstr("was stopped, and the run")));
}

// Suspended for longer than the nodes wait for each other: this takes a few seconds, for that is what it is about.
TEST_F(RunSignalsTest, ARunThatIsSuspendedAsAWholeGoesOn) {
  BackgroundLaunch launch(write_run(impatient("iterations = 30")));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  launch.send_to_all(SIGSTOP);
  EXPECT_FALSE(launch.wait(std::chrono::milliseconds(2600)).has_value());
  launch.send_to_all(SIGCONT);
  EXPECT_EQ(launch.wait(kLongEnough), 0) << launch.output();
  EXPECT_EQ(metrics().size(), 30u);
}

TEST_F(RunSignalsTest, ANodeThatIsSuspendedAloneIsFound) {
  BackgroundLaunch launch(write_run(impatient("iterations = 1000000")));
  ASSERT_TRUE(launch.wait_for("iteration")) << launch.output();
  const std::vector<pid_t> node = launch.nodes(2);
  ASSERT_EQ(node.size(), 1u);
  kill(node.front(), SIGSTOP);
  EXPECT_EQ(launch.wait(kLongEnough), 1) << launch.output();
  EXPECT_THAT(launch.output(), AllOf(HasSubstr("node 2 at"), HasSubstr("nothing was heard of it for 2000 ms")));
  EXPECT_TRUE(launch.wait_for_no_nodes());
}

TEST_F(RunSignalsTest, ALowSoftLimitOfOpenFilesIsRaised) {
  const ProgramResult result = run_skippipe("launch " + write_run({}), "/dev/null", "ulimit -Sn 20;");
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST_F(RunSignalsTest, ALowHardLimitOfOpenFilesIsNamed) {
  const ProgramResult result = run_skippipe("launch " + write_run({}), "/dev/null", "ulimit -n 20;");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, AllOf(HasSubstr("a run of 4 nodes needs up to 40 open files, this process may have 20"),
                                   HasSubstr("ulimit -Hn")));
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
}

}  // namespace
}  // namespace skippipe
