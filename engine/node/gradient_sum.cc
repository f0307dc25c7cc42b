#include "engine/node/gradient_sum.h"

#include <utility>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr const char* kScratchBlock = "gradient reduction";
constexpr const char* kHostBlock = "gradients on the host";

bool needs_copy(Device device, size_t replicas) { return device != Device::kCpu && replicas > 1; }

Tensor take_host_copy(const Tensor& gradients, Slab& slab, size_t replicas) {
  if (!needs_copy(slab.device(), replicas)) return gradients;
  return Arena(slab.take(Region::kCommunication, kHostBlock)).take(gradients.shape(), gradients.dtype());
}

// One replica alone exchanges nothing.
std::span<float> exchanged(const Tensor& gradients, size_t replicas) {
  if (replicas == 1) return {};
  return {gradients.as<float>(), static_cast<size_t>(gradients.elements())};
}

}  // namespace

void GradientSum::plan_memory(MemoryPlan& memory, size_t replicas) {
  const int64_t bytes = memory.bytes(Region::kGradients);
  if (needs_copy(memory.device(), replicas)) memory.add(Region::kCommunication, kHostBlock, bytes, "f32");
  const size_t scratch = ReplicaSum::scratch_bytes(replicas, static_cast<size_t>(bytes / dtype_bytes(Dtype::kF32)));
  memory.add(Region::kCommunication, kScratchBlock, static_cast<int64_t>(scratch),
             fmt::format("{} replicas", replicas));
}

GradientSum::GradientSum(Transport& transport, std::vector<int> replicas, Stage& stage, Slab& slab,
                         Transfers* transfers, const ReductionSettings& settings)
    : transfers_(transfers),
      gradients_(stage.gradients()),
      host_(take_host_copy(gradients_, slab, replicas.size())),
      sum_(transport, replicas, exchanged(host_, replicas.size()),
           slab.take(Region::kCommunication, kScratchBlock).bytes),
      between_devices_(transport, replicas, stage, host_, transfers, settings, [&transport] { transport.wake(); }) {
  SKP_CHECK(!staged() || transfers_ != nullptr, "gradients on a GPU are copied by transfers");
}

void GradientSum::start(uint32_t iteration) {
  if (between_devices_.used()) return between_devices_.start();
  if (!staged()) return sum_.start(iteration);
  copying_ = summing_ = true;
  transfers_->download(host_, gradients_, [this, iteration] {
    copying_ = false;
    sum_.start(iteration);
    bring_back_if_summed();
  });
}

void GradientSum::bring_back_if_summed() {
  if (!summing_ || copying_ || !sum_.done()) return;
  summing_ = false;
  if (!sum_.status().ok()) return;
  copying_ = true;
  transfers_->upload(gradients_, host_, [this] { copying_ = false; });
}

bool GradientSum::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  const bool taken = sum_.on_received(ticket, header, status) || between_devices_.on_received(ticket, header, status);
  bring_back_if_summed();
  return taken;
}

bool GradientSum::on_sent(Ticket ticket, const Status& status) {
  const bool taken = sum_.on_sent(ticket, status) || between_devices_.on_sent(ticket, status);
  bring_back_if_summed();
  return taken;
}

void GradientSum::on_peer_failed(int node, const Status& status) {
  sum_.on_peer_failed(node, status);
  between_devices_.on_peer_failed(node, status);
  bring_back_if_summed();
}

}  // namespace skippipe
