#include "tools/processes/stop_signals.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

#include "tools/processes/process_settings.h"

namespace skippipe {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::steady_clock::time_point kNow{100s};

TEST(StopRule, TheFirstSignalOfAnyKindEndsInTime) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGXCPU})
    EXPECT_EQ(StopRule(0ms).on_signal(signal, kNow), Stop::kInTime) << signal;
}

TEST(StopRule, ASecondOneInsists) {
  StopRule rule(0ms);
  rule.on_signal(SIGINT, kNow);
  EXPECT_EQ(rule.on_signal(SIGINT, kNow), Stop::kAtOnce);
  EXPECT_EQ(rule.on_signal(SIGTERM, kNow + 1s), Stop::kAtOnce);
}

TEST(StopRule, OneStopMayComeTwice) {
  StopRule rule(500ms);
  rule.on_signal(SIGTERM, kNow);
  EXPECT_EQ(rule.on_signal(SIGTERM, kNow + 499ms), Stop::kNot);
  EXPECT_EQ(rule.on_signal(SIGTERM, kNow + 500ms), Stop::kAtOnce);
}

// A terminal that closes may send several, a limit of processor time sends one each second.
TEST(StopRule, NobodyInsistsByThese) {
  for (const int signal : {SIGHUP, SIGXCPU}) {
    StopRule rule(0ms);
    rule.on_signal(signal, kNow);
    EXPECT_EQ(rule.on_signal(signal, kNow + 10s), Stop::kNot) << signal;
    EXPECT_EQ(rule.on_signal(SIGTERM, kNow + 20s), Stop::kNot) << signal << ": `launch` may pass it on late";
    EXPECT_EQ(rule.on_signal(SIGTERM, kNow + 30s), Stop::kAtOnce) << signal;
  }
}

// In processes of their own: signals belong to a process.
class StopSignalsTest : public testing::Test {
 protected:
  StopSignalsTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(StopSignalsTest, AClosedTerminalEndsInTime) {
  const auto body = [] {
    signal(SIGHUP, SIG_DFL);
    StopSignals signals;
    if (signals.take() != Stop::kNot) _exit(1);
    raise(SIGHUP);
    if (signals.take() != Stop::kInTime || signals.last() != "SIGHUP") _exit(2);
    _exit(0);
  };
  EXPECT_EXIT(body(), testing::ExitedWithCode(0), "");
}

TEST_F(StopSignalsTest, NohupHolds) {
  const auto body = [] {
    signal(SIGHUP, SIG_IGN);
    StopSignals signals;
    raise(SIGHUP);
    _exit(signals.take() == Stop::kNot ? 0 : 1);
  };
  EXPECT_EXIT(body(), testing::ExitedWithCode(0), "");
}

TEST_F(StopSignalsTest, AReaderThatLeavesEndsNothing) {
  const auto body = [] {
    signal(SIGPIPE, SIG_DFL);
    const StopSignals signals;
    raise(SIGPIPE);
    _exit(0);
  };
  EXPECT_EXIT(body(), testing::ExitedWithCode(0), "");
}

// UCX takes SIGHUP and those of crashes when it is loaded.
TEST_F(StopSignalsTest, SignalsThatALibraryTookAreOurs) {
  if (getenv("UCX_DEBUG_SIGNO") != nullptr) GTEST_SKIP() << "UCX does what the environment says";
  const auto body = [] {
    const auto handler = [] {
      struct sigaction current {};
      sigaction(SIGHUP, nullptr, &current);
      return current.sa_handler;
    };
    if (handler() == SIG_DFL || handler() == SIG_IGN) _exit(1);  // else this tests nothing
    settle_process();
    _exit(handler() == SIG_DFL || handler() == SIG_IGN ? 0 : 2);
  };
  EXPECT_EXIT(body(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace skippipe
