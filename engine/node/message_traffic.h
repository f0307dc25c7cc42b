// A node's messages with activations and their gradients, between the slots of its stage and the network.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "comm/transport/transport.h"
#include "engine/model/stage.h"
#include "engine/node/message_buffers.h"
#include "engine/node/transfers.h"
#include "schedule/machine/node_machine.h"

namespace skippipe {

struct MessageSettings {
  Dtype dtype = Dtype::kF32;
  int64_t part_bytes = int64_t{4} << 20;  // a GPU's messages leave in parts of so much
};

// A message comes whole or in parts, some of its rows each, in order; for the node it has arrived when all of it is on
// the device. Used by the event thread; pack, unpack and gradient_of belong to tasks. What is let in and sent, and
// when, is the machine's to say.
class MessageTraffic {
 public:
  using Event = std::function<void(uint32_t iteration, int32_t microbatch, Phase phase)>;
  struct Events {
    Event announced;  // a message is there to be let in; called from within on_announced
    Event arrived;    // from within on_received, or Transfers::poll
    Event sent;       // from within on_sent, of those that Action::tell_sent asks for
  };

  // `visits`: of the node by microbatch, those that are not its empty. transfers: null on the CPU. All but the settings
  // and events outlive this object. The slab is of a plan that MessageBuffers::plan_memory was asked for.
  MessageTraffic(const MachineConfig& machine, const std::vector<MachineVisit>& visits, Stage& stage, Slab& slab,
                 Transport& transport, Transfers* transfers, const MessageSettings& settings, Events events);

  // Not ok: the message is none of this node's, or not as it should be.
  [[nodiscard]] Status on_announced(Ticket ticket, const MessageHeader& header);
  [[nodiscard]] Status on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  void on_sent(Ticket ticket);

  // The machine's actions.
  void receive(const Action& action);
  void send(const Action& action);
  // Before a task of the slot is queued: what leaves from there must be gone before the task writes there.
  void hold_back(int slot);

  // Of tasks: between the messages' dtype and the stage's, where these differ.
  void unpack(Phase phase, int slot);
  void pack(const MachineVisit& visit, Phase phase, int slot);
  // Where backward writes the gradient that is sent on.
  Tensor gradient_of(const MachineVisit& visit, int slot) const;

 private:
  struct Part {
    uint64_t message = 0;  // its key
    int64_t first = 0, rows = 0;
  };
  struct Arrival {
    int64_t announced = 0, arrived = 0;            // rows
    bool let_in = false;                           // by the machine
    std::vector<std::pair<Ticket, Part>> waiting;  // until then
    MessageBuffer buffer;                          // from then on
  };

  // Of a message whose sending is to be told.
  struct Departure {
    uint32_t iteration = 0;
    int32_t microbatch = -1;
    int64_t rows = 0;  // of this part
  };

  Status check(const MessageHeader& header) const;
  void receive_part(Ticket ticket, const Part& part);
  void part_arrived(const MessageHeader& header, const Part& part);
  void send_rows(MessageHeader header, const Tensor& host, bool tell_sent);

  const std::vector<MachineVisit>& visits_;
  Stage& stage_;
  Transport& transport_;
  Transfers* const transfers_;
  const MessageSettings settings_;
  const Events events_;
  const Dims hidden_;  // (B T,C), of a message
  const MessageBuffers buffers_;
  std::map<uint64_t, Arrival> arrivals_;  // by iteration, microbatch and phase
  std::map<Ticket, Departure> departures_;
  std::map<int32_t, int64_t> rows_sent_;  // of these, by microbatch
  std::map<Ticket, Part> landing_;        // being received
  std::vector<int> downloads_;            // by slot: under way from its tensors on the device
};

}  // namespace skippipe
