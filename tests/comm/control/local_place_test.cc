// Where a node listens and which interfaces its data uses, on machines of the test's own, and on this one's loopback.
#include "comm/control/local_place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/comm/support.h"

namespace skippipe::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

SocketAddress address(const std::string& host, uint16_t port = 0) {
  std::vector<SocketAddress> found;
  EXPECT_TRUE(look_up({host, port}, found).ok()) << host;
  return found.empty() ? SocketAddress() : found.front();
}

std::vector<SocketAddress> addresses(const std::vector<std::string>& hosts, uint16_t port = 5000) {
  std::vector<SocketAddress> all;
  for (const std::string& host : hosts) all.push_back(address(host, port));
  return all;
}

std::vector<std::string> texts(const std::vector<SocketAddress>& all) {
  std::vector<std::string> list;
  for (const SocketAddress& each : all) list.push_back(each.to_string());
  return list;
}

// A machine with Docker, an IPv6 network and a second address on its interface.
std::vector<InterfaceAddress> machine() {
  return {{"lo", true, address("127.0.0.1")},        {"lo", true, address("10.255.0.1")},
          {"docker0", false, address("172.17.0.1")}, {"eth0", false, address("10.77.0.1")},
          {"eth0", false, address("10.88.0.1")},     {"eth0", false, address("fd77::1")},
          {"wg0", false, address("fd99::1")},        {"lo", true, address("::1")}};
}

DataPath path_of(const std::vector<std::string>& hosts, const Routes& routes = {}, bool has_loopback_peer = false) {
  return data_path(addresses(hosts), machine(), routes, has_loopback_peer);
}

TEST(SocketAddress, KnowsWhatItIs) {
  EXPECT_TRUE(address("127.0.1.1").is_loopback());
  EXPECT_TRUE(address("::1").is_loopback());
  EXPECT_FALSE(address("128.0.0.1").is_loopback());
  EXPECT_FALSE(address("fd77::1").is_loopback());
  EXPECT_TRUE(address("0.0.0.0").is_wildcard());
  EXPECT_TRUE(address("::").is_wildcard());
  EXPECT_FALSE(address("10.0.0.0").is_wildcard());
  EXPECT_TRUE(address("10.0.0.1", 7).has_host_of(address("10.0.0.1", 8)));
  EXPECT_FALSE(address("10.0.0.1", 7) == address("10.0.0.1", 8));
  EXPECT_FALSE(address("::1").has_host_of(address("127.0.0.1")));
  EXPECT_EQ(address("fd77::1", 80).to_string(), "[fd77::1]:80");
  EXPECT_EQ(address("fd77::1", 80).with_port(81).port(), 81);
  EXPECT_EQ(address("10.0.0.1", 80).with_port(81).to_string(), "10.0.0.1:81");
}

TEST(SocketAddress, AnUnknownNameIsNamed) {
  std::vector<SocketAddress> found;
  const Status status = look_up({"no.such.host.invalid", 80}, found);
  EXPECT_EQ(status.code(), StatusCode::kUnreachable);
  EXPECT_THAT(status.message(), HasSubstr("no.such.host.invalid"));
}

TEST(AddressesToListenOn, AllThatTheNameHas) {
  EXPECT_THAT(texts(addresses_to_listen_on(addresses({"fd77::2", "10.77.0.2"}), {})),
              ElementsAre("[fd77::2]:5000", "10.77.0.2:5000"));
}

// Debian's /etc/hosts.
TEST(AddressesToListenOn, ALoopbackNameIsNotAllIfOthersAreElsewhere) {
  const Routes routes{{address("10.77.0.1")}, {}};
  EXPECT_THAT(texts(addresses_to_listen_on(addresses({"127.0.1.1"}), routes)),
              ElementsAre("127.0.1.1:5000", "10.77.0.1:5000"));
  EXPECT_THAT(texts(addresses_to_listen_on(addresses({"127.0.0.1"}), {})), ElementsAre("127.0.0.1:5000"));
  EXPECT_THAT(texts(addresses_to_listen_on(addresses({"10.88.0.1"}), routes)), ElementsAre("10.88.0.1:5000"));
}

TEST(DataPath, IsTheInterfaceOfTheNodesAddress) {
  EXPECT_THAT(path_of({"10.77.0.1"}).interfaces, ElementsAre("eth0"));
  EXPECT_FALSE(path_of({"10.77.0.1"}).is_ipv6);
  EXPECT_EQ(path_of({"10.77.0.1"}).remark, "");
  EXPECT_THAT(path_of({"172.17.0.1"}).interfaces, ElementsAre("docker0"));
  EXPECT_THAT(path_of({"10.77.0.1", "fd99::1"}).interfaces, ElementsAre("eth0", "wg0"));
}

TEST(DataPath, IsIpv6OnlyWhereTheNodeHasNoOther) {
  EXPECT_TRUE(path_of({"fd77::1"}).is_ipv6);
  EXPECT_THAT(path_of({"fd77::1"}).interfaces, ElementsAre("eth0"));
  EXPECT_FALSE(path_of({"fd77::1", "10.77.0.1"}).is_ipv6);
  EXPECT_FALSE(path_of({"127.0.0.1"}).is_ipv6);
}

TEST(DataPath, IsTheLoopbackInterfaceForLocalRuns) {
  EXPECT_THAT(path_of({"127.0.0.1"}).interfaces, ElementsAre("lo"));
  EXPECT_THAT(path_of({"127.0.0.2"}).interfaces, ElementsAre("lo"));
  EXPECT_THAT(path_of({"127.0.1.1", "10.77.0.1"}).interfaces, ElementsAre("eth0"));
  EXPECT_THAT(path_of({"10.77.0.1"}, {}, true).interfaces, ElementsAre("eth0", "lo"));
}

TEST(DataPath, SaysThatUcxTakesAnotherAddress) {
  EXPECT_THAT(path_of({"10.88.0.1"}).interfaces, ElementsAre("eth0"));
  EXPECT_THAT(path_of({"10.88.0.1"}).remark, AllOf(HasSubstr("10.77.0.1"), HasSubstr("eth0"), HasSubstr("10.88.0.1")));
}

TEST(DataPath, IsThatOfTheRoutesIfNoInterfaceHasTheAddress) {
  const Routes routes{{address("10.77.0.1")}, {}};
  EXPECT_THAT(path_of({"0.0.0.0"}, routes).interfaces, ElementsAre("eth0"));
  EXPECT_THAT(path_of({"10.255.0.1"}, routes).interfaces, ElementsAre("eth0"));  // of lo, but not a loopback address
  EXPECT_THAT(path_of({"203.0.113.7"}, {}).interfaces, IsEmpty());               // not known: all
}

TEST(Routes, NodesOfThisMachineNeedNone) {
  const std::vector<NodeAddress> nodes = {{"127.0.0.1", 1}, {"127.0.0.2", 2}, {"localhost", 3}, {"10.77.0.1", 4}};
  const Routes routes = routes_to_other_machines(nodes, 0, machine());
  EXPECT_THAT(routes.sources, IsEmpty());
  EXPECT_THAT(routes.problems, IsEmpty());
}

TEST(Routes, NamesThatMeanNothingAreProblems) {
  const Routes routes = routes_to_other_machines({{"127.0.0.1", 1}, {"no.such.host.invalid", 2}}, 0, machine());
  EXPECT_THAT(routes.problems, ElementsAre(HasSubstr("no.such.host.invalid")));
}

TEST(SourceTowards, AnAddressOfThisMachineIsReachedFromItself) {
  SocketAddress source;
  ASSERT_TRUE(source_towards(address("127.0.0.2", 9), source).ok());
  EXPECT_TRUE(source.is_loopback());
  EXPECT_EQ(source.port(), 0);
}

TEST(InterfaceAddresses, HaveTheLoopbackInterface) {
  const std::vector<InterfaceAddress> carried = interface_addresses();
  EXPECT_TRUE(std::ranges::any_of(carried, [](const InterfaceAddress& each) {
    return each.is_loopback_interface && each.address.is_loopback() && !each.interface.empty();
  }));
}

TEST(TakePlace, ListensOnTheLoopbackAddressOfALocalRun) {
  LocalPlace place;
  ASSERT_TRUE(take_place({{"127.0.0.2", 0}, {"127.0.0.3", 9}}, 0, {}, place).ok());
  ASSERT_EQ(place.listeners.size(), 1u);
  EXPECT_EQ(local_address(place.listeners[0]).host(), "127.0.0.2");
  EXPECT_EQ(place.data.interfaces.size(), 1u);
  EXPECT_THAT(place.remarks, IsEmpty());
}

TEST(TakePlace, TakesAListenerThatIsThere) {
  FileDescriptor given;
  ASSERT_TRUE(listen_on(NodeAddress{"127.0.0.1", 0}, given).ok());
  const uint16_t port = local_port(given);
  LocalPlace place;
  ASSERT_TRUE(take_place({{"127.0.0.1", port}}, 0, std::move(given), place).ok());
  ASSERT_EQ(place.listeners.size(), 1u);
  EXPECT_EQ(local_port(place.listeners[0]), port);
}

TEST(TakePlace, AnAddressThatNoInterfaceCarriesIsRefused) {
  LocalPlace place;
  const Status status = take_place({{"203.0.113.7", 5000}, {"203.0.113.8", 5000}}, 0, {}, place);
  EXPECT_EQ(status.code(), StatusCode::kUnreachable);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("203.0.113.7:5000"), HasSubstr("no network interface of this machine carries it")));
}

TEST(TakePlace, ALoopbackNameWithoutAWayToTheOthersIsRefused) {
  LocalPlace place;
  const Status status = take_place({{"127.0.1.1", 0}, {"no.such.host.invalid", 5000}}, 0, {}, place);
  EXPECT_EQ(status.code(), StatusCode::kUnreachable);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'127.0.1.1' is 127.0.1.1 on this machine, a loopback address"),
                                      HasSubstr("no.such.host.invalid")));
}

TEST(TakePlace, APortInUseIsNamed) {
  FileDescriptor taken;
  ASSERT_TRUE(listen_on(NodeAddress{"127.0.0.1", 0}, taken).ok());
  LocalPlace place;
  EXPECT_THAT(take_place({{"127.0.0.1", local_port(taken)}}, 0, {}, place).message(), HasSubstr("address in use"));
}

}  // namespace
}  // namespace skippipe::test
