// Sums over the devices of several processes, by a library that connects them by itself (NCCL between GPUs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace skippipe {

// One process's end. Used by one thread, which it never makes wait: what takes its time happens on a thread of its own,
// that asks for no attention but by `wake` (CommunicatorLibrary::connect).
class Communicator {
 public:
  enum class State : uint8_t {
    kBusy,    // connecting, or summing
    kReady,   // connected; the last sum, if any, is there
    kFailed,  // for good, and the device has let go of what was summed; status() says why
  };

  // As abort, and waits for kFailed, though not for ever: what hangs in the library is left behind.
  virtual ~Communicator() = default;

  virtual State state() const = 0;
  // kPeerGone: a process at the other end, or the way there; anything else lies here.
  virtual Status status() const = 0;
  // Begins the sum of a buffer of this device over all ranks, in place; it must be left alone while kBusy, and what was
  // queued to write it must be over. kReady only. All ranks call it in the same order with the same count, and get the
  // same bits.
  virtual void sum(float* buffer, int64_t count) = 0;
  // Gives up what is under way: kFailed before long. The others notice, or must be told.
  virtual void abort() noexcept = 0;
};

class CommunicatorLibrary {
 public:
  virtual ~CommunicatorLibrary() = default;
  // With its version: "NCCL 2.28.9". Only equal ones understand each other.
  virtual std::string name() const = 0;
  // For one group of processes: one of them makes it and tells the others. Throws DeviceError.
  virtual std::vector<std::byte> make_id() = 0;
  // Begins to connect; without a limit, if the others never come. `wake` is called on another thread when the state has
  // changed. The device's runtime outlives the communicator. Throws DeviceError if the id is none.
  virtual std::unique_ptr<Communicator> connect(std::span<const std::byte> id, int rank, int ranks,
                                                std::function<void()> wake) = 0;
};

}  // namespace skippipe
