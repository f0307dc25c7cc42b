// Where a node's messages land and where they leave from.
#pragma once

#include <vector>

#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "kernels/tensor.h"
#include "schedule/machine/node_machine.h"

namespace skippipe {

// A message (B,T,C) on its way between the stage and the network. Steps that a node does not need fall together: on the
// CPU with messages in the stage's dtype, all three are one tensor.
struct MessageBuffer {
  Tensor local;  // what the stage computes with, in its dtype
  Tensor wire;   // the same in the messages' dtype, on the device; a task casts between the two
  Tensor host;   // the same where the network takes it from and puts it; a transfer copies between the two
};

// The buffers of every slot, and of every microbatch whose gradient is sent on. Tensors have fixed addresses.
// Immutable; who may touch which buffer when is the node's to say.
class MessageBuffers {
 public:
  // Registers what the buffers will take from the slab.
  static void plan_memory(MemoryPlan& memory, const MachineConfig& machine, const StageSpec& stage, Dtype wire);
  // The slab must be that of a plan made by plan_memory with the same arguments.
  MessageBuffers(const MachineConfig& machine, const Stage& stage, Slab& slab, Dtype wire);

  // Of the message of this phase that comes for the visit in the slot.
  MessageBuffer landing(Phase phase, int slot) const;
  // Of the one that leaves. Backward writes to `local`.
  MessageBuffer outgoing(const MachineVisit& visit, Phase phase, int slot) const;

 private:
  struct Slot {
    MessageBuffer arrived, output, output_gradient, loss_gradient;
  };
  struct Layout;

  explicit MessageBuffers(Layout layout);

  std::vector<Slot> slots_;
  // By microbatch; local and wire are empty where the slot's serve, all where none is sent.
  std::vector<MessageBuffer> gradient_out_;
};

}  // namespace skippipe
