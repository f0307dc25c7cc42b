#pragma once

#include <chrono>
#include <thread>

namespace skippipe::testing {

// Asks until the condition holds, for what tells of itself in no other way. False: not within a minute.
template <typename Condition>
[[nodiscard]] bool wait_until(Condition condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace skippipe::testing
