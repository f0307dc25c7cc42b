#include "engine/node/message_buffers.h"

#include "base/error.h"

namespace skippipe {
namespace {

constexpr const char* kMessagesBlock = "messages";
constexpr const char* kWireBlock = "messages on the device";

// Takes what lies between a stage's tensors and the network. Without a stage it only measures.
class Path {
 public:
  Path(const StageSpec& stage, Dtype wire, Device device)
      : shape_{stage.batch.samples, stage.batch.tokens, stage.config.channels},
        wire_(wire),
        casts_(wire != stage.dtype),
        copies_(device != Device::kCpu) {}

  MessageBuffer take(const Tensor& local, Arena& on_device, Arena& on_host) const {
    MessageBuffer buffer{local, local, local};
    if (casts_ && copies_) buffer.wire = on_device.take(shape_, wire_);
    if (casts_ || copies_) buffer.host = on_host.take(shape_, wire_);
    if (casts_ && !copies_) buffer.wire = buffer.host;
    return buffer;
  }
  // Of a gradient whose message must not depend on the slot. What is empty is the slot's.
  MessageBuffer take_gradient(Arena& on_host) const {
    const Tensor host = on_host.take(shape_, wire_);
    if (copies_) return {{}, {}, host};
    if (casts_) return {{}, host, host};
    return {host, host, host};
  }
  bool needs_wire() const { return casts_ && copies_; }
  int64_t message_bytes() const { return aligned_bytes(element_count(shape_) * dtype_bytes(wire_)); }

 private:
  Dims shape_;
  Dtype wire_;
  bool casts_, copies_;
};

}  // namespace

struct MessageBuffers::Layout {
  Layout(const MachineConfig& machine, const StageSpec& spec, const Path& path, const Stage* stage, Arena& on_device,
         Arena& on_host)
      : slots(static_cast<size_t>(spec.slots)), gradient_out(static_cast<size_t>(machine.microbatches)) {
    for (int i = 0; i < spec.slots; ++i) {
      const auto take = [&](Tensor (Stage::*tensor)(int) const) {
        return path.take(stage ? (stage->*tensor)(i) : Tensor(), on_device, on_host);
      };
      Slot& slot = slots[static_cast<size_t>(i)];
      const bool first = spec.layout.index == 0;
      slot.arrived = take(first ? &Stage::returned : &Stage::input);
      slot.output = take(&Stage::output);
      slot.output_gradient = take(&Stage::output_gradient);
      if (first) slot.loss_gradient = take(&Stage::loss_gradient);
    }
    // Visits that send a gradient on, each from a buffer of its own: the slot may serve the next visit meanwhile.
    for (const MachineVisit& visit : machine.visits)
      if (visit.previous_node >= 0 && !visit.forward_only)
        gradient_out[static_cast<size_t>(visit.microbatch)] = path.take_gradient(on_host);
  }

  std::vector<Slot> slots;
  std::vector<MessageBuffer> gradient_out;
};

void MessageBuffers::plan_memory(MemoryPlan& memory, const MachineConfig& machine, const StageSpec& stage, Dtype wire) {
  const Path path(stage, wire, memory.device());
  Arena on_device, on_host;
  Layout(machine, stage, path, nullptr, on_device, on_host);
  const auto add = [&](Region region, const char* name, const Arena& arena) {
    memory.add(region, name, arena.used_bytes(),
               fmt::format("{} of {}, {}", arena.used_bytes() / path.message_bytes(), human_bytes(path.message_bytes()),
                           dtype_name(wire)));
  };
  add(Region::kCommunication, kMessagesBlock, on_host);
  if (path.needs_wire()) add(Region::kActivations, kWireBlock, on_device);
}

MessageBuffers::MessageBuffers(Layout layout)
    : slots_(std::move(layout.slots)), gradient_out_(std::move(layout.gradient_out)) {}

MessageBuffers::MessageBuffers(const MachineConfig& machine, const Stage& stage, Slab& slab, Dtype wire)
    : MessageBuffers([&] {
        const Path path(stage.spec(), wire, slab.device());
        Arena on_host(slab.take(Region::kCommunication, kMessagesBlock));
        Arena on_device(path.needs_wire() ? slab.take(Region::kActivations, kWireBlock) : MemoryBlock{});
        return Layout(machine, stage.spec(), path, &stage, on_device, on_host);
      }()) {}

MessageBuffer MessageBuffers::landing(Phase phase, int slot) const {
  const Slot& buffers = slots_[static_cast<size_t>(slot)];
  return phase == Phase::kForward ? buffers.arrived : buffers.output_gradient;
}

MessageBuffer MessageBuffers::outgoing(const MachineVisit& visit, Phase phase, int slot) const {
  const Slot& buffers = slots_[static_cast<size_t>(slot)];
  if (phase == Phase::kForward) return buffers.output;
  if (visit.is_data) return buffers.loss_gradient;
  MessageBuffer gradient = gradient_out_[static_cast<size_t>(visit.microbatch)];
  // The gradient of the input may lie where that of the output did.
  if (gradient.local.empty()) gradient.local = buffers.output_gradient.local;
  if (gradient.wire.empty()) gradient.wire = buffers.output_gradient.wire;
  return gradient;
}

}  // namespace skippipe
