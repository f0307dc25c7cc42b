// Addresses that programs under test can listen on.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "base/random.h"
#include "comm/control/socket.h"

namespace skippipe {

// "127.0.0.1:port" on ports that nobody uses. They lie below those that the system gives to connections by itself
// (32768 and up on Linux), of which another test's could take one before the program listens.
inline std::vector<std::string> unused_addresses(int count) {
  static Random random(static_cast<uint64_t>(getpid()), {static_cast<uint64_t>(time(nullptr))});
  std::vector<FileDescriptor> listeners;
  std::vector<std::string> addresses;
  for (int tries = 0; static_cast<int>(addresses.size()) < count && tries < 1000; ++tries) {
    const NodeAddress address{"127.0.0.1", static_cast<uint16_t>(10000 + random.below(20000))};
    FileDescriptor listener;
    if (!listen_on(address, listener).ok()) continue;
    listeners.push_back(std::move(listener));
    addresses.push_back(address.to_string());
  }
  return addresses;
}

}  // namespace skippipe
