#include "comm/control/connection_attempts.h"

#include <fmt/format.h>

#include <utility>

namespace skippipe {
namespace {

constexpr std::chrono::milliseconds kRetryInterval{100};

}  // namespace

ConnectionAttempts::ConnectionAttempts(NodeAddress name, LookUp look_up)
    : name_(std::move(name)), look_up_(std::move(look_up)) {}

std::optional<SocketAddress> ConnectionAttempts::next(Clock::time_point now) {
  if (next_ == addresses_.size()) {
    std::vector<SocketAddress> found;
    const Status status = look_up_(name_, found);
    look_up_error_ = status.message();
    if (found != addresses_) {
      addresses_ = std::move(found);
      errors_.assign(addresses_.size(), "");
    }
    next_ = 0;
    if (addresses_.empty()) next_try_ = now + kRetryInterval;
    if (addresses_.empty()) return std::nullopt;
  }
  return addresses_[next_++];
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
