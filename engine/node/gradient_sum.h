// Sums a stage's gradients over its replicas, wherever they lie.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/collectives/collectives.h"
#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "engine/node/device_sum.h"
#include "engine/node/transfers.h"

namespace skippipe {

// DeviceSum between GPUs that can; else ReplicaSum (comm/collectives/collectives.h, whose rules hold): over the stage's
// gradients themselves on the CPU; on a GPU over a copy in pinned memory of the host, which is made before and brought
// back after. Used by the event thread.
class GradientSum {
 public:
  // Registers what the sum will take from the slab; the stage's memory must have been planned before.
  static void plan_memory(MemoryPlan& memory, size_t replicas);

  // transfers: null on the CPU. All outlive this object, but the settings.
  GradientSum(Transport& transport, std::vector<int> replicas, Stage& stage, Slab& slab, Transfers* transfers,
              const ReductionSettings& settings);

  // Begins to agree with the other replicas on how to sum (DeviceSum), before the first task.
  void agree() { between_devices_.agree(); }
  bool agreed() const { return between_devices_.agreed(); }
  const std::string& outcome() const { return between_devices_.outcome(); }
  bool is_between_devices() const { return between_devices_.used(); }

  // Begins the sum of what is in the gradients now, which no task may touch until done().
  void start(uint32_t iteration);

  // True if something has changed.
  bool poll() { return between_devices_.poll(); }

  bool on_announced(Ticket ticket, const MessageHeader& header) {
    return sum_.on_announced(ticket, header) || between_devices_.on_announced(ticket, header);
  }
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status);
  void on_peer_failed(int node, const Status& status);

  // The gradients hold the sum; or (status() not ok) it ended without one.
  bool done() const { return !copying_ && sum_.done() && between_devices_.done(); }
  const Status& status() const { return sum_.status().ok() ? between_devices_.status() : sum_.status(); }

 private:
  bool staged() const { return host_.data() != gradients_.data(); }
  void bring_back_if_summed();

  Transfers* const transfers_;
  const Tensor gradients_;  // (all), on the device
  const Tensor host_;       // (all); the same where they lie there, and with no replica to send them to
  ReplicaSum sum_;
  DeviceSum between_devices_;
  bool copying_ = false;  // down to the host or back
  bool summing_ = false;  // a staged sum is under way
};

}  // namespace skippipe
