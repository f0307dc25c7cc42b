#include "kernels/cuda/nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"

namespace skippipe::SKP_GPU {
namespace {

using Duration = std::chrono::microseconds;

// How often NCCL is asked; it tells nobody.
constexpr Duration kWhileConnecting{1000};
constexpr Duration kWhileLaunching{50};
constexpr Duration kWhileSumming{20'000};  // whether it failed: its end is told by the device

std::string describe(ncclResult_t result) {
  const char* const detail = ncclGetLastError(nullptr);
  if (detail == nullptr || *detail == '\0') return ncclGetErrorString(result);
  std::string text = format("{} ({})", ncclGetErrorString(result), detail);
  std::ranges::replace(text, '\n', ' ');
  return text;
}

std::string version_name() {
  int version = 0;
  if (const ncclResult_t result = ncclGetVersion(&version); result != ncclSuccess)
    throw DeviceError("ncclGetVersion: {}", describe(result));
  return format("NCCL {}.{}.{}", version / 10'000, version / 100 % 100, version % 100);
}

// Ends the communicator's thread.
struct Failure {
  Status status;
};
struct Abandoned {};

[[noreturn]] void fail(const char* call, ncclResult_t result) {
  const bool remote = result == ncclRemoteError || result == ncclSystemError;
  throw Failure{{remote ? StatusCode::kPeerGone : StatusCode::kCancelled, format("{}: {}", call, describe(result))}};
}

void check(const char* call, ncclResult_t result) {
  if (result != ncclSuccess) fail(call, result);
}

// What the thread that works and the one that asks have in common. It outlives both: a thread that hangs in NCCL is
// left behind.
class Exchange {
 public:
  struct Sum {
    float* buffer;
    int64_t count;
  };

  // ------------------------------------------------------------------------------------------------- who asks

  Communicator::State state() const {
    const std::lock_guard lock(mutex_);
    return state_;
  }
  Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }
  void ask_for(const Sum& sum) {
    const std::lock_guard lock(mutex_);
    SKP_CHECK(state_ == Communicator::State::kReady, "a sum by a communicator that is not ready");
    state_ = Communicator::State::kBusy;
    sum_ = sum;
    changed_.notify_all();
  }
  void end() noexcept {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    changed_.notify_all();
  }
  // Whether the thread will end by itself; else it hangs in the library, and is left alone.
  bool wait_for_end(std::chrono::milliseconds limit) noexcept {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, limit, [this] { return over_; }) || !in_library_) return true;
    abandoned_ = true;
    return false;
  }

  // ------------------------------------------------------------------------------------------------- who works

  // A call that may hang. Throws Abandoned if it did, and has returned: nothing else may be touched then.
  template <typename Call>
  auto in_library(const Call& call) {
    set_in_library(true);
    const auto result = call();
    set_in_library(false);
    return result;
  }
  // Sleeps until there is something to do; throws Failure where that is to end.
  void wait(Duration limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [this] { return ends_ || done_; });
    throw_if_ended();
  }
  Sum wait_for_sum() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ends_ || sum_; });
    throw_if_ended();
    done_ = false;
    return *std::exchange(sum_, std::nullopt);
  }
  bool done() const {
    const std::lock_guard lock(mutex_);
    return done_;
  }
  // By the device: all that was queued is done.
  void set_done() {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  void set_ready() {
    const std::lock_guard lock(mutex_);
    state_ = Communicator::State::kReady;
  }
  void set_failed(Status status) {
    const std::lock_guard lock(mutex_);
    state_ = Communicator::State::kFailed;
    status_ = std::move(status);
  }
  void set_over() {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

 private:
  void throw_if_ended() const {
    if (ends_) throw Failure{{StatusCode::kCancelled, "the sum between GPUs was given up"}};
  }
  void set_in_library(bool in_library) {
    const std::lock_guard lock(mutex_);
    if (abandoned_) throw Abandoned{};
    in_library_ = in_library;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Communicator::State state_ = Communicator::State::kBusy;
  Status status_;
  std::optional<Sum> sum_;
  bool done_ = false;
  bool ends_ = false, over_ = false;
  bool in_library_ = false, abandoned_ = false;
};

// The thread that makes all of a communicator's calls of NCCL: it does not want several at once.
class Worker {
 public:
  struct Rank {
    ncclUniqueId id;
    int rank, ranks;
  };

  Worker(Runtime& runtime, const Rank& rank, std::shared_ptr<Exchange> exchange, std::function<void()> wake)
      : runtime_(runtime), rank_(rank), exchange_(std::move(exchange)), wake_(std::move(wake)) {}

  void run() {
    try {
      work();
      exchange_->set_over();
    } catch (const Abandoned&) {
    }
  }

 private:
  void work() {
    try {
      runtime_.use_on_this_thread();
      stream_ = runtime_.make_stream();
      connect();
      for (;;) {
        exchange_->set_ready();
        wake_();
        sum(exchange_->wait_for_sum());
      }
    } catch (const Failure& failure) {
      end(failure.status);
    } catch (const std::exception& error) {  // the device's
      end({StatusCode::kCancelled, error.what()});
    }
  }

  void connect() {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t result = exchange_->in_library(
        [&] { return ncclCommInitRankConfig(&comm_, rank_.ranks, rank_.id, rank_.rank, &config); });
    wait_until_begun("ncclCommInitRankConfig", result, kWhileConnecting);
  }

  void sum(const Exchange::Sum& sum) {
    const ncclResult_t result = exchange_->in_library([&] {
      return ncclAllReduce(sum.buffer, sum.buffer, static_cast<size_t>(sum.count), ncclFloat32, ncclSum, comm_,
                           static_cast<cudaStream_t>(stream_));
    });
    // Only now is all of it on the stream.
    wait_until_begun("ncclAllReduce", result, kWhileLaunching);
    runtime_.call(stream_, [exchange = exchange_] { exchange->set_done(); });
    while (!exchange_->done()) {
      exchange_->wait(kWhileSumming);
      check("ncclAllReduce", async_error());
      (void)runtime_.finished(stream_);  // a device that has failed makes no calls
    }
  }

  void wait_until_begun(const char* call, ncclResult_t result, Duration interval) {
    for (; result == ncclInProgress; result = async_error()) exchange_->wait(interval);
    check(call, result);
  }

  ncclResult_t async_error() {
    ncclResult_t state = ncclSuccess;
    check("ncclCommGetAsyncError", exchange_->in_library([&] { return ncclCommGetAsyncError(comm_, &state); }));
    return state;
  }

  // Always by abort, which waits for nobody: who ends has heard that all have the last sum, or that there will be none.
  void end(Status status) {
    if (comm_ != nullptr) (void)exchange_->in_library([this] { return ncclCommAbort(comm_); });
    if (stream_ != nullptr) {
      (void)exchange_->in_library([this] { return leaves_stream(); });
      runtime_.destroy_stream(stream_);
    }
    exchange_->set_failed(std::move(status));
    wake_();
  }
  // The device no longer touches what was summed.
  bool leaves_stream() noexcept {
    try {
      runtime_.finish(stream_);
      return true;
    } catch (const std::exception&) {
      return false;  // it has failed, and does nothing any more
    }
  }

  Runtime& runtime_;
  const Rank rank_;
  const std::shared_ptr<Exchange> exchange_;
  const std::function<void()> wake_;
  Stream stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Runtime& runtime, const Worker::Rank& rank, std::function<void()> wake,
                   std::chrono::milliseconds end_limit)
      : end_limit_(end_limit),
        thread_([worker = Worker(runtime, rank, exchange_, std::move(wake))]() mutable { worker.run(); }) {}
  ~NcclCommunicator() override {
    exchange_->end();
    if (exchange_->wait_for_end(end_limit_))
      thread_.join();
    else
      thread_.detach();
  }

  State state() const override { return exchange_->state(); }
  Status status() const override { return exchange_->status(); }
  void sum(float* buffer, int64_t count) override { exchange_->ask_for({buffer, count}); }
  void abort() noexcept override { exchange_->end(); }

 private:
  const std::chrono::milliseconds end_limit_;
  const std::shared_ptr<Exchange> exchange_ = std::make_shared<Exchange>();
  std::thread thread_;
};

class NcclLibrary final : public CommunicatorLibrary {
 public:
  NcclLibrary(Runtime& runtime, std::chrono::milliseconds end_limit)
      : runtime_(runtime), end_limit_(end_limit), name_(version_name()) {}

  std::string name() const override { return name_; }

  std::vector<std::byte> make_id() override {
    ncclUniqueId id;
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
      throw DeviceError("ncclGetUniqueId: {}", describe(result));
    const auto bytes = std::as_bytes(std::span(&id, 1));
    return {bytes.begin(), bytes.end()};
  }

  std::unique_ptr<Communicator> connect(std::span<const std::byte> id, int rank, int ranks,
                                        std::function<void()> wake) override {
    Worker::Rank own{.id = {}, .rank = rank, .ranks = ranks};
    if (id.size() != sizeof(own.id)) throw DeviceError("{} bytes are no id of {}'s", id.size(), name_);
    std::memcpy(&own.id, id.data(), sizeof(own.id));
    return std::make_unique<NcclCommunicator>(runtime_, own, std::move(wake), end_limit_);
  }

 private:
  Runtime& runtime_;
  const std::chrono::milliseconds end_limit_;
  const std::string name_;
};

}  // namespace

std::unique_ptr<CommunicatorLibrary> load_nccl(Runtime& runtime, std::chrono::milliseconds end_limit) {
  return std::make_unique<NcclLibrary>(runtime, end_limit);
}

}  // namespace skippipe::SKP_GPU
