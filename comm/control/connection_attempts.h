// To which address of a peer to connect next.
#pragma once

#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "comm/control/clock_offset.h"
#include "comm/control/socket_address.h"

namespace skippipe {

// A name may have several addresses, in both families, of which its machine listens on some only: they are tried one
// after the other. After the last one the name is looked up again, for it may mean something else by now. A look-up,
// which may take many seconds, has a thread of its own; the rest is for one thread.
class ConnectionAttempts {
 public:
  using LookUp = std::function<Status(const NodeAddress&, std::vector<SocketAddress>&)>;

  explicit ConnectionAttempts(NodeAddress name, LookUp look_up = skippipe::look_up);

  Clock::time_point next_try() const { return next_try_; }
  // What to connect to, once next_try() has come; nothing if the name is still looked up, or means nothing.
  std::optional<SocketAddress> next(Clock::time_point now);
  // The last one that next gave.
  void failed(std::string why, Clock::time_point now);
  bool has_others() const { return addresses_.size() > 1; }
  // Why each address that was tried failed; empty if none has.
  std::string errors() const;

 private:
  struct Meaning {
    Status status;
    std::vector<SocketAddress> addresses;
  };
  bool look_up_again(Clock::time_point now);

  const NodeAddress name_;
  const LookUp look_up_;
  std::vector<SocketAddress> addresses_;
  std::vector<std::string> errors_;  // by address
  std::string look_up_error_;
  size_t next_ = 0;
  Clock::time_point next_try_{};
  std::future<Meaning> looking_up_;  // its destructor waits for the look-up
};

}  // namespace skippipe
