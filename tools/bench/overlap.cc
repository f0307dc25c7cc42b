#include "tools/bench/overlap.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "comm/transport/ucx_transport.h"
#include "engine/model/memory.h"
#include "engine/node/compute_thread.h"
#include "engine/node/transfers.h"
#include "kernels/backend.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "tools/bench/stage_choice.h"
#include "tools/bench/training_step.h"
#include "tools/processes/local_addresses.h"

namespace skippipe {
namespace {

constexpr size_t kLanes = 2;  // messages under way
constexpr auto kLimit = std::chrono::seconds(60);
constexpr auto kNap = std::chrono::milliseconds(100);

double median(const std::vector<double>& ascending) { return ascending[ascending.size() / 2]; }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The other end: returns every message.
class Echo final : private TransportListener {
 public:
  Echo(Transport& transport, int64_t message_bytes) : transport_(transport) {
    for (size_t i = 0; i < kLanes; ++i) free_.emplace_back(static_cast<size_t>(message_bytes));
    transport_.set_listener(this);
    thread_ = std::thread([this] { run(); });
  }
  ~Echo() override {
    ending_ = true;
    transport_.wake();
    thread_.join();
    transport_.set_listener(nullptr);
  }
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

 private:
  using Buffer = std::vector<std::byte>;

  void run() {
    while (!ending_) transport_.run_once(Clock::now() + kNap);
  }
  // A message may come before what was sent from its buffer is known to have arrived.
  void receive_waiting() {
    while (!waiting_.empty() && !free_.empty()) {
      Buffer& buffer = busy_[waiting_.front()] = std::move(free_.back());
      free_.pop_back();
      transport_.receive(waiting_.front(), buffer);
      waiting_.pop_front();
    }
  }
  void on_announced(Ticket ticket, const MessageHeader&) override {
    waiting_.push_back(ticket);
    receive_waiting();
  }
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override {
    if (!status.ok()) return;  // this end's partner says what went wrong
    MessageHeader answer = header;
    answer.destination = header.source;
    Buffer buffer = std::move(busy_.at(ticket));
    busy_.erase(ticket);
    const Ticket answered = transport_.send(answer, buffer);
    busy_[answered] = std::move(buffer);
  }
  void on_sent(Ticket ticket, const Status&) override {
    free_.push_back(std::move(busy_.at(ticket)));
    busy_.erase(ticket);
    receive_waiting();
  }
  void on_peer_failed(int, const Status&) override {}

  Transport& transport_;
  std::deque<Ticket> waiting_;
  std::vector<Buffer> free_;
  std::map<Ticket, Buffer> busy_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

struct Lane {
  Tensor device_out, host_out, host_in, device_in;  // those of the device: only on a GPU
  bool sending = false, receiving = false;

  bool idle() const { return !sending && !receiving; }
};

// This end: messages from the device's memory to the other end and back again, at most one in each lane. Used by one
// thread.
class Exchanges final : private TransportListener {
 public:
  Exchanges(Transport& transport, const Context& context, int64_t message_bytes)
      : transport_(transport),
        context_(context),
        on_gpu_(context.backend->device() != Device::kCpu),
        plan_(plan_for(context.backend->device(), message_bytes)),
        slab_(plan_, *context.backend) {
    if (on_gpu_) transfers_.emplace(context.backend->runtime(), [this] { transport_.wake(); });
    Arena host(slab_.take(Region::kCommunication, kBlock));
    const Dims shape = {message_bytes / dtype_bytes(Dtype::kF32)};
    for (Lane& lane : lanes_)
      for (Tensor* tensor : {&lane.host_out, &lane.host_in}) *tensor = host.take(shape, Dtype::kF32);
    if (on_gpu_) {
      Arena device(slab_.take(Region::kWorkspace, kBlock));
      for (Lane& lane : lanes_)
        for (Tensor* tensor : {&lane.device_out, &lane.device_in}) *tensor = device.take(shape, Dtype::kF32);
    }
    fill();
    transport_.set_listener(this);
  }
  ~Exchanges() override { transport_.set_listener(nullptr); }
  Exchanges(const Exchanges&) = delete;
  Exchanges& operator=(const Exchanges&) = delete;

  bool idle(size_t lane) const { return lanes_[lane].idle(); }
  bool idle() const { return std::ranges::all_of(lanes_, &Lane::idle); }

  // Sends the lane's message, which comes back. The lane is idle.
  void begin(size_t index) {
    Lane& lane = lanes_[index];
    SKP_CHECK(lane.idle(), "lane {} is under way", index);
    lane.sending = lane.receiving = true;
    if (on_gpu_)
      transfers_->download(lane.host_out, lane.device_out, [this, index] { send(index); });
    else
      send(index);
  }

  // Obeys the network and the copies until the condition holds, asleep while there is nothing to do.
  void run_until(const std::function<bool()>& condition) {
    const auto deadline = Clock::now() + kLimit;
    while (!condition()) {
      if (!failure_.empty()) throw RunError("the other end of the loopback: {}", failure_);
      if (Clock::now() > deadline) throw RunError("nothing was done for {} s", kLimit.count());
      if (!on_gpu_ || !transfers_->poll()) transport_.run_once(Clock::now() + kNap);
    }
  }

  // Throws RunError unless each lane has received what it sent. All are idle.
  void verify() {
    for (size_t i = 0; i < kLanes; ++i) {
      const auto in = bytes_of(on_gpu_ ? lanes_[i].device_in : lanes_[i].host_in);
      const auto out = bytes_of(on_gpu_ ? lanes_[i].device_out : lanes_[i].host_out);
      if (in != out) throw RunError("a message of {} bytes came back damaged", out.size());
    }
  }

 private:
  static constexpr const char* kBlock = "exchanged messages";

  static MemoryPlan plan_for(Device device, int64_t message_bytes) {
    MemoryPlan plan(device);
    for (const Region region : {Region::kWorkspace, Region::kCommunication})
      if (device != Device::kCpu || region == Region::kCommunication)
        plan.add(region, kBlock, 2 * static_cast<int64_t>(kLanes) * aligned_bytes(message_bytes));
    return plan;
  }

  // Each lane's message is another.
  void fill() {
    Random random(7);
    for (const Lane& lane : lanes_) {
      const Tensor& out = lane.host_out;
      const std::span<float> values(out.as<float>(), static_cast<size_t>(out.elements()));
      std::ranges::generate(values, [&] { return static_cast<float>(random.uniform()); });
      if (on_gpu_) copy(context_, lane.device_out, out);
    }
    finish(context_);
  }

  std::vector<std::byte> bytes_of(const Tensor& tensor) {
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes()));
    copy(context_, Tensor(bytes.data(), tensor.shape(), tensor.dtype()), tensor);
    finish(context_);
    return bytes;
  }

  void send(size_t index) {
    const Tensor& host = lanes_[index].host_out;
    MessageHeader header;
    header.microbatch = static_cast<uint32_t>(index);
    header.destination = static_cast<uint16_t>(1 - transport_.node());
    set_payload(header, WireDtype::kF32, std::array{host.elements()});
    sent_[transport_.send(header, {host.as<std::byte>(), static_cast<size_t>(host.bytes())})] = index;
  }
  void on_announced(Ticket ticket, const MessageHeader& header) override {
    const Tensor& host = lanes_.at(header.microbatch).host_in;
    transport_.receive(ticket, {host.as<std::byte>(), static_cast<size_t>(host.bytes())});
  }
  void on_received(Ticket, const MessageHeader& header, const Status& status) override {
    if (!status.ok()) return fail(status);
    Lane& lane = lanes_.at(header.microbatch);
    if (on_gpu_)
      transfers_->upload(lane.device_in, lane.host_in, [&lane] { lane.receiving = false; });
    else
      lane.receiving = false;
  }
  void on_sent(Ticket ticket, const Status& status) override {
    if (!status.ok()) return fail(status);
    lanes_.at(sent_.at(ticket)).sending = false;
    sent_.erase(ticket);
  }
  void on_peer_failed(int, const Status& status) override { fail(status); }
  void fail(const Status& status) { failure_ = status.message(); }

  Transport& transport_;
  Context context_;
  const bool on_gpu_;
  const MemoryPlan plan_;
  Slab slab_;
  std::array<Lane, kLanes> lanes_;
  std::map<Ticket, size_t> sent_;
  std::string failure_;
  std::optional<Transfers> transfers_;
};

// The stage and what a microbatch needs beside it.
class MiddleStage {
 public:
  MiddleStage(const StageSpec& spec, const Context& context)
      : plan_(plan_for(spec, context)), slab_(plan_, *context.backend), stage_(spec, slab_, context) {
    Arena arena(slab_.take(Region::kWorkspace, kBlock));
    input_gradient_ = arena.take(stage_.input(0).shape(), spec.dtype);
    fill_weights(stage_, *context.backend);
    for (const Tensor& hidden : {stage_.input(0), stage_.output_gradient(0)}) fill_from_weights(hidden);
  }

  // Of the compute thread.
  void run() {
    stage_.context().backend->runtime().use_on_this_thread();
    stage_.forward(0);
    stage_.backward(0, stage_.output_gradient(0), input_gradient_);
    finish(stage_.context());
  }

 private:
  static constexpr const char* kBlock = "gradient of the input";

  static MemoryPlan plan_for(const StageSpec& spec, const Context& context) {
    MemoryPlan plan = stage_plan(spec, context);
    plan.add(Region::kWorkspace, kBlock,
             spec.batch.samples * spec.batch.tokens * spec.config.channels * dtype_bytes(spec.dtype));
    check_fits(plan, context);
    return plan;
  }

  // Numbers that are at hand, in the stage's dtype.
  void fill_from_weights(const Tensor& hidden) {
    Context& ctx = stage_.context();
    const Tensor values = stage_.weights(), flat = hidden.reshape({hidden.elements()});
    for (int64_t done = 0; done < flat.elements();) {
      const int64_t count = std::min(flat.elements() - done, values.elements());
      cast(ctx, flat.slice(0, done, count), values.slice(0, 0, count));
      done += count;
    }
    finish(ctx);
  }

  const MemoryPlan plan_;
  Slab slab_;
  Stage stage_;
  Tensor input_gradient_;
};

class Overlap {
 public:
  Overlap(const StageSpec& spec, const Context& context, Transport& transport, int64_t message_bytes)
      : stage_(spec, context),
        exchanges_(transport, context, message_bytes),
        compute_([&transport] { transport.wake(); }) {}

  // Seconds of a microbatch in a round of so many.
  double round(int microbatches, bool with_messages) {
    const auto start = Clock::now();
    for (int i = 0; i < microbatches; ++i) {
      const size_t lane = static_cast<size_t>(i) % kLanes;
      if (with_messages) {
        exchanges_.run_until([&] { return exchanges_.idle(lane); });
        exchanges_.begin(lane);
      }
      compute_.submit([this] { stage_.run(); });
      exchanges_.run_until([&] { return compute_.collect(); });
    }
    exchanges_.run_until([&] { return exchanges_.idle(); });
    return seconds_since(start) / microbatches;
  }

  double exchange() {
    const auto start = Clock::now();
    exchanges_.begin(0);
    exchanges_.run_until([&] { return exchanges_.idle(); });
    return seconds_since(start);
  }

  void verify() { exchanges_.verify(); }

 private:
  MiddleStage stage_;
  Exchanges exchanges_;
  ComputeThread compute_;  // last: its job uses the stage
};

std::unique_ptr<Transport> connect(int node, std::span<const uint16_t> ports, FileDescriptor listener) {
  UcxOptions options;
  options.run_id = 1;
  options.node = node;
  for (const uint16_t port : ports) options.addresses.push_back({"127.0.0.1", port});
  options.listener = std::move(listener);
  std::unique_ptr<Transport> transport;
  if (const Status status = connect_ucx(std::move(options), transport); !status.ok()) throw RunError(status.message());
  return transport;
}

std::string spread(const std::vector<double>& ascending_s) {
  return fmt::format("median {:.2f} ms, {:.2f} to {:.2f}", 1e3 * median(ascending_s), 1e3 * ascending_s.front(),
                     1e3 * ascending_s.back());
}

}  // namespace

double OverlapResult::slowdown() const { return median(beside_s) / median(alone_s) - 1; }

OverlapResult measure_overlap(const StageSpec& spec, const Context& context, Transport& transport, Transport& peer,
                              const OverlapSettings& settings) {
  Overlap overlap(spec, context, transport, settings.message_bytes);
  const Echo echo(peer, settings.message_bytes);
  constexpr int kWarmUps = 2;
  for (const bool with_messages : {false, true}) (void)overlap.round(kWarmUps, with_messages);
  overlap.verify();
  OverlapResult result;
  for (int i = 0; i < settings.rounds; ++i) {
    result.alone_s.push_back(overlap.round(settings.microbatches, false));
    result.beside_s.push_back(overlap.round(settings.microbatches, true));
    result.exchange_s.push_back(overlap.exchange());
  }
  overlap.verify();
  for (std::vector<double>* seconds : {&result.alone_s, &result.beside_s, &result.exchange_s})
    std::ranges::sort(*seconds);
  return result;
}

OverlapResult measure_overlap_over_loopback(const StageSpec& spec, const Context& context,
                                            const OverlapSettings& settings) {
  LocalAddresses local = listen_locally(2);
  const std::array<uint16_t, 2> ports = {local_port(local.listeners[0]), local_port(local.listeners[1])};
  // Either waits for the other.
  std::array<std::unique_ptr<Transport>, 2> transports;
  std::array<std::exception_ptr, 2> errors;
  const auto meet = [&](size_t node) {
    try {
      transports[node] = connect(static_cast<int>(node), ports, std::move(local.listeners[node]));
    } catch (...) {
      errors[node] = std::current_exception();
    }
  };
  std::thread other(meet, 1);
  meet(0);
  other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return measure_overlap(spec, context, *transports[0], *transports[1], settings);
}

void print_overlap(const OverlapResult& result, const OverlapSettings& settings) {
  fmt::print("forward and backward of a stage between others, by microbatch, {} rounds of {} in turns\n",
             settings.rounds, settings.microbatches);
  fmt::print("without messages: {}\n", spread(result.alone_s));
  fmt::print("with {} sent and {} received beside each: {}\n", human_bytes(settings.message_bytes),
             human_bytes(settings.message_bytes), spread(result.beside_s));
  fmt::print("an exchange with nothing beside it: {}\n", spread(result.exchange_s));
  fmt::print("slower by {:.1f} %\n", 100 * result.slowdown());
}

}  // namespace skippipe
