#include "comm/control/connection_attempts.h"

#include <fmt/format.h>

#include <utility>

namespace skippipe {
namespace {

constexpr std::chrono::milliseconds kRetryInterval{100};
constexpr std::chrono::milliseconds kShortWait{1};      // most look-ups need no network
constexpr std::chrono::milliseconds kLookInterval{20};  // whether a longer one has ended

}  // namespace

ConnectionAttempts::ConnectionAttempts(NodeAddress name, LookUp look_up)
    : name_(std::move(name)), look_up_(std::move(look_up)) {}

std::optional<SocketAddress> ConnectionAttempts::next(Clock::time_point now) {
  if (next_ == addresses_.size() && !look_up_again(now)) return std::nullopt;
  return addresses_[next_++];
}

// True once there are addresses.
bool ConnectionAttempts::look_up_again(Clock::time_point now) {
  if (!looking_up_.valid()) {
    looking_up_ = std::async(std::launch::async, [name = name_, look_up = look_up_] {
      Meaning meaning;
      meaning.status = look_up(name, meaning.addresses);
      return meaning;
    });
  }
  if (looking_up_.wait_for(kShortWait) != std::future_status::ready) {
    next_try_ = now + kLookInterval;
    return false;
  }
  Meaning meaning = looking_up_.get();
  look_up_error_ = meaning.status.message();
  if (meaning.addresses != addresses_) {
    addresses_ = std::move(meaning.addresses);
    errors_.assign(addresses_.size(), "");
  }
  next_ = 0;
  if (addresses_.empty()) next_try_ = now + kRetryInterval;
  return !addresses_.empty();
}

void ConnectionAttempts::failed(std::string why, Clock::time_point now) {
  errors_[next_ - 1] = std::move(why);
  next_try_ = next_ < addresses_.size() ? now : now + kRetryInterval;
}

std::string ConnectionAttempts::errors() const {
  std::string list = look_up_error_;
  for (size_t i = 0; i < errors_.size(); ++i) {
    if (errors_[i].empty()) continue;
    if (!list.empty()) list += "; ";
    const std::string host = addresses_[i].host();
    list += host == name_.host ? errors_[i] : fmt::format("{}: {}", host, errors_[i]);
  }
  return list;
}

}  // namespace skippipe
