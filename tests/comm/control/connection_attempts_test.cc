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

// The next address, or nothing if the name means nothing: a look-up takes as long as it takes.
std::optional<SocketAddress> next(ConnectionAttempts& attempts) {
  const auto limit = Clock::now() + kLimit;
  const std::string before = attempts.errors();
  while (Clock::now() < limit) {
    const std::optional<SocketAddress> address = attempts.next(kNow);
    if (address || attempts.errors() != before) return address;
  }
  return std::nullopt;
}

std::vector<std::string> tries(ConnectionAttempts& attempts, int count) {
  std::vector<std::string> tried;
  for (int i = 0; i < count; ++i) {
    tried.push_back(next(attempts)->to_string());
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
  std::ignore = next(attempts);
  attempts.failed("No route to host", kNow);
  EXPECT_EQ(attempts.errors(), "fd77::2: No route to host");
  std::ignore = next(attempts);
  attempts.failed("Connection refused", kNow);
  EXPECT_EQ(attempts.errors(), "fd77::2: No route to host; 10.77.0.2: Connection refused");
  names.hosts.clear();
  EXPECT_FALSE(next(attempts));
  EXPECT_EQ(attempts.errors(), "can't look up 'beta'");
  EXPECT_GT(attempts.next_try(), kNow);
}

// The thread that serves the other peers does not wait for a slow resolver.
TEST(ConnectionAttempts, ALookUpThatTakesLongHoldsNobodyUp) {
  std::promise<void> answer;
  const auto slow = [&](const NodeAddress& name, std::vector<SocketAddress>& addresses) {
    answer.get_future().wait();
    return look_up({"127.0.0.1", name.port}, addresses);
  };
  ConnectionAttempts attempts({"beta", 5000}, slow);
  EXPECT_FALSE(attempts.next(kNow));
  EXPECT_GT(attempts.next_try(), kNow);
  EXPECT_FALSE(attempts.next(kNow));
  answer.set_value();
  EXPECT_EQ(next(attempts)->to_string(), "127.0.0.1:5000");
}

TEST(ConnectionAttempts, AnAddressGivenAsSuchIsNotRepeated) {
  ConnectionAttempts attempts({"127.0.0.1", 5000});
  std::ignore = next(attempts);
  attempts.failed("Connection refused", kNow);
  EXPECT_EQ(attempts.errors(), "Connection refused");
}

}  // namespace
}  // namespace skippipe::test
