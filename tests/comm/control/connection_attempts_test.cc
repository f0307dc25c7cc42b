// In which order the addresses of a name are tried.
#include "comm/control/connection_attempts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

using testing::ElementsAre;

constexpr Clock::time_point kNow{100s};

// Names and what they mean now.
class FakeNames {
 public:
  std::vector<std::string> hosts;  // of any name; none: it is not known
  int asked = 0;

  ConnectionAttempts::LookUp look_up() {
    return [this](const NodeAddress& name, std::vector<SocketAddress>& addresses) {
      ++asked;
      if (hosts.empty()) return Status(StatusCode::kUnreachable, "can't look up '" + name.host + "'");
      for (const std::string& host : hosts) {
        std::vector<SocketAddress> one;
        EXPECT_TRUE(skippipe::look_up({host, name.port}, one).ok());
        addresses.push_back(one.front());
      }
      return Status();
    };
  }
};

std::vector<std::string> tries(ConnectionAttempts& attempts, int count) {
  std::vector<std::string> tried;
  for (int i = 0; i < count; ++i) {
    tried.push_back(attempts.next(kNow)->to_string());
    attempts.failed("refused", kNow);
  }
  return tried;
}

TEST(ConnectionAttempts, TriesAllAddressesInTurnAndLooksUpAgain) {
  FakeNames names{{"fd77::2", "10.77.0.2"}};
  ConnectionAttempts attempts({"beta", 5000}, names.look_up());
  EXPECT_THAT(tries(attempts, 2), ElementsAre("[fd77::2]:5000", "10.77.0.2:5000"));
  EXPECT_TRUE(attempts.has_others());
  EXPECT_EQ(names.asked, 1);
  names.hosts = {"10.77.0.3"};
  EXPECT_THAT(tries(attempts, 2), ElementsAre("10.77.0.3:5000", "10.77.0.3:5000"));
  EXPECT_FALSE(attempts.has_others());
  EXPECT_EQ(names.asked, 3);
}

TEST(ConnectionAttempts, WaitsOnlyOnceAllWereTried) {
  FakeNames names{{"fd77::2", "10.77.0.2"}};
  ConnectionAttempts attempts({"beta", 5000}, names.look_up());
  EXPECT_LE(attempts.next_try(), kNow);
  tries(attempts, 1);
  EXPECT_LE(attempts.next_try(), kNow);
  tries(attempts, 1);
  EXPECT_GT(attempts.next_try(), kNow);
}

TEST(ConnectionAttempts, TellsWhyEachFailed) {
  FakeNames names{{"fd77::2", "10.77.0.2"}};
  ConnectionAttempts attempts({"beta", 5000}, names.look_up());
  EXPECT_EQ(attempts.errors(), "");
  std::ignore = attempts.next(kNow);
  attempts.failed("No route to host", kNow);
  EXPECT_EQ(attempts.errors(), "fd77::2: No route to host");
  std::ignore = attempts.next(kNow);
  attempts.failed("Connection refused", kNow);
  EXPECT_EQ(attempts.errors(), "fd77::2: No route to host; 10.77.0.2: Connection refused");
  names.hosts.clear();
  EXPECT_FALSE(attempts.next(kNow));
  EXPECT_EQ(attempts.errors(), "can't look up 'beta'");
  EXPECT_GT(attempts.next_try(), kNow);
}

TEST(ConnectionAttempts, AnAddressGivenAsSuchIsNotRepeated) {
  ConnectionAttempts attempts({"127.0.0.1", 5000});
  std::ignore = attempts.next(kNow);
  attempts.failed("Connection refused", kNow);
  EXPECT_EQ(attempts.errors(), "Connection refused");
}

}  // namespace
}  // namespace skippipe::test
