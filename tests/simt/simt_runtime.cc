#include "tests/simt/simt_runtime.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cuda/nccl_communicator.h"
#include "kernels/host_runtime.h"
#include "tests/simt/block.h"
#include "tests/simt/device_memory.h"
#include "tests/simt/simulated_nccl.h"

namespace skippipe::simt {
namespace {

using Work = std::function<void()>;

class SimtRuntime;
struct Queue;

// A piece of work, or, without any, the wait for the first `ticket` pieces of another queue.
struct Item {
  Work work;
  std::function<bool()> is_ready = nullptr;  // null: at once
  std::shared_ptr<const Queue> other = nullptr;
  int64_t ticket = 0;
};

// A stream. All but `runtime` is guarded by the runtime's mutex.
struct Queue : std::enable_shared_from_this<Queue> {
  explicit Queue(SimtRuntime& its_runtime) : runtime(its_runtime) {}

  bool is_done() const { return done == queued; }
  bool is_wanted() const { return done < wanted; }

  SimtRuntime& runtime;
  std::deque<Item> items;
  int64_t queued = 0, done = 0;  // pieces so far
  int64_t wanted = 0;            // pieces that somebody waits for
  bool records = false;
  bool destroyed = false;
};

Queue* queue_of(Stream stream) { return static_cast<Queue*>(stream); }

// What a thread records of a stream, until it ends; also where that is by an exception.
class Recording {
 public:
  // `lock` guards the queue, and is unlocked from then on.
  Recording(std::unique_lock<std::mutex> lock, Queue& queue) : mutex_(*lock.mutex()), queue_(queue) {
    queue_.records = true;
    current = this;
  }
  ~Recording() {
    const std::lock_guard lock(mutex_);
    queue_.records = false;
    current = nullptr;
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  bool is_of(Stream stream) const { return &queue_ == stream; }
  void add(Work work) { works_.push_back(std::move(work)); }
  std::vector<Work> take() { return std::move(works_); }

  static thread_local Recording* current;  // of this thread; null: it records nothing

 private:
  std::mutex& mutex_;
  Queue& queue_;
  std::vector<Work> works_;
};
thread_local Recording* Recording::current = nullptr;

// The numbers of the runtimes whose devices this thread has made its own.
thread_local std::vector<int64_t> own_runtimes;
std::atomic<int64_t> runtimes_made = 0;

constexpr auto kWhileNothingIsReady = std::chrono::milliseconds(1);

class RecordedGraph final : public Graph {
 public:
  explicit RecordedGraph(std::vector<Work> works)
      : works_(std::make_shared<const std::vector<Work>>(std::move(works))) {}

  void replay(Stream stream) override {
    queue_work(stream, [works = works_] {
      for (const Work& work : *works) work();
    });
  }

 private:
  std::shared_ptr<const std::vector<Work>> works_;  // queued replays outlive the graph
};

class SimtRuntime final : public Runtime {
 public:
  explicit SimtRuntime(const SimtOptions& options)
      : memory_bytes_(options.memory_bytes),
        nccl_(options.nccl),
        pauses_(options.seed, {0}),
        turns_(options.seed, {1}),
        device_([this] { run_device(); }) {
    use_on_this_thread();
  }
  ~SimtRuntime() override {
    {
      std::unique_lock lock(mutex_);
      wait_for_all(lock);
      ends_ = true;
      for_device_.notify_all();
    }
    device_.join();
    SKP_CHECK(pieces_.empty(), "{} pieces of device memory were not released", pieces_.size());
    SKP_CHECK(streams_ == 0, "{} streams were not destroyed", streams_);
  }

  void use_on_this_thread() override {
    if (!is_own()) own_runtimes.push_back(number_);
    use_nccl_on_this_thread(nccl_);
  }

  // Waits as cudaFree does, so that nothing queued finds its memory gone.
  void release(Place place, void* memory, int64_t bytes) noexcept override {
    SKP_CHECK(is_own(), "release was called on a thread that did not call use_on_this_thread");
    SKP_CHECK(!is_device_thread(), "release was called on a thread of the device's");
    std::unique_lock lock(mutex_);
    wait_for_all(lock);
    if (place == Place::kHost) return host_.release(place, memory, bytes);
    const auto piece = pieces_.find(memory);
    SKP_CHECK(piece != pieces_.end(), "what is released was never allocated");
    SKP_CHECK(piece->second->bytes() == taken_bytes(bytes), "{} bytes are released as {}", piece->second->bytes(),
              bytes);
    taken_ -= piece->second->bytes();
    pieces_.erase(piece);
  }

  AvailableMemory available(Place place) override {
    const std::unique_lock lock = enter("available");
    if (place == Place::kHost) return host_.available(place);
    return {memory_bytes_ - taken_, "free on the simulated device"};
  }

  Stream make_stream() override {
    const std::unique_lock lock = enter("make_stream");
    ++streams_;
    return queues_.emplace_back(std::make_shared<Queue>(*this)).get();
  }
  // What is queued will still be done.
  void destroy_stream(Stream stream) noexcept override {
    if (stream == nullptr) return;
    SKP_CHECK(!is_device_thread());
    const std::lock_guard lock(mutex_);
    --streams_;
    queue_of(stream)->destroyed = true;
    forget_destroyed();
  }

  void copy(Stream stream, void* to, const void* from, int64_t bytes) override {
    queue("copy", stream, [target = backing_of(to, bytes), source = backing_of(from, bytes), bytes] {
      if (bytes > 0) std::memcpy(target, source, static_cast<size_t>(bytes));
    });
  }

  void wait_for(Stream stream, Stream other) override {
    std::unique_lock lock = enter("wait_for");
    // What is on the default stream is done, and what waits there waits at once.
    if (other == nullptr || other == stream) return;
    check_stream("wait_for", other);
    if (stream == nullptr) return wait_until_done(lock, *queue_of(other));
    check_stream("wait_for", stream);
    push(lock, *queue_of(stream),
         {.work = {}, .other = queue_of(other)->shared_from_this(), .ticket = queue_of(other)->queued});
  }

  void call(Stream stream, std::function<void()> notify) override {
    std::unique_lock lock = enter("call");
    if (stream == nullptr) {
      lock.unlock();
      return notify();
    }
    check_stream("call", stream);
    Queue& queue = *queue_of(stream);
    queue.wanted = queue.queued + 1;  // somebody may wait for the call
    push(lock, queue, {.work = std::move(notify)});
  }

  void finish(Stream stream) override {
    std::unique_lock lock = enter("finish");
    if (stream == nullptr) return;
    check_stream("finish", stream);
    wait_until_done(lock, *queue_of(stream));
  }

  bool finished(Stream stream) override {
    std::unique_lock lock = enter("finished");
    if (stream == nullptr) return true;
    check_stream("finished", stream);
    let_pass(lock, 1);
    throw_failure();
    return queue_of(stream)->is_done();
  }

  double seconds(Stream stream, const std::function<void()>& queue_work) override {
    finish(stream);
    const auto start = std::chrono::steady_clock::now();
    queue_work();
    finish(stream);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& work) override {
    std::unique_lock lock = enter("capture");
    if (stream == nullptr) throw DeviceError("the default stream can't record a graph");
    check_stream("capture", stream);
    Recording recording(std::move(lock), *queue_of(stream));
    work();
    return std::make_unique<RecordedGraph>(recording.take());
  }

  std::unique_ptr<CommunicatorLibrary> load_communicators() override { return nccl_ ? load_nccl(*this) : nullptr; }

  // Queues or records the work, or does it now if `stream` is null.
  void queue(const char* what, Stream stream, Work work) {
    if (auto* const recording = Recording::current; recording != nullptr && recording->is_of(stream))
      return recording->add(std::move(work));
    std::unique_lock lock = enter(what);
    if (stream == nullptr) {
      lock.unlock();
      return work();
    }
    check_stream(what, stream);
    push(lock, *queue_of(stream), {.work = std::move(work)});
  }

  // The same of work that can't be done, or recorded, before `is_ready`.
  void queue_when(const char* what, Stream stream, std::function<bool()> is_ready, Work work) {
    std::unique_lock lock = enter(what);
    check_stream(what, stream);
    push(lock, *queue_of(stream), {.work = std::move(work), .is_ready = std::move(is_ready)});
  }

 private:
  static int64_t taken_bytes(int64_t bytes) { return std::max<int64_t>(bytes, 1); }

  void* do_allocate(Place place, int64_t bytes) override {
    const std::unique_lock lock = enter("allocate");
    if (place == Place::kHost) return host_.allocate(place, bytes);
    const int64_t taken = taken_bytes(bytes), available = memory_bytes_ - taken_;
    if (taken > available)
      throw MemoryError("the simulated device refused {} bytes of its memory: {} of {} are free", bytes, available,
                        memory_bytes_);
    auto piece = std::make_unique<DevicePiece>(taken);
    void* const memory = piece->address();
    pieces_.emplace(memory, std::move(piece));
    taken_ += taken;
    return memory;
  }

  bool is_own() const { return std::ranges::find(own_runtimes, number_) != own_runtimes.end(); }
  bool is_device_thread() const { return std::this_thread::get_id() == device_.get_id(); }

  // Whether the calling thread may call `what` now.
  std::unique_lock<std::mutex> enter(const char* what) {
    if (is_device_thread()) throw InternalError("{} was called on a thread of the device's", what);
    if (!is_own()) throw InternalError("{} was called on a thread that did not call use_on_this_thread", what);
    if (Recording::current != nullptr)
      throw DeviceError("{} was called while a stream of this thread records a graph", what);
    std::unique_lock lock(mutex_);
    throw_failure();
    return lock;
  }
  void check_stream(const char* what, Stream stream) const {
    if (&queue_of(stream)->runtime != this) throw InternalError("{}: the stream is another device's", what);
    if (queue_of(stream)->records) throw DeviceError("{}: another thread records a graph on the stream", what);
  }
  void throw_failure() const {
    if (failure_) throw KernelError(*failure_);
  }

  // ------------------------------------------------------------------------------------------------- the program

  void push(std::unique_lock<std::mutex>& lock, Queue& queue, Item item) {
    queue.items.push_back(std::move(item));
    ++queue.queued;
    for_device_.notify_all();
    for_program_.notify_all();
    // Now and then the device is quick.
    constexpr uint64_t kSeldom = 4, kMost = 8;
    if (pauses_.below(kSeldom) == 0) let_pass(lock, 1 + static_cast<int64_t>(pauses_.below(kMost)));
  }

  // Waits until the device has done so many pieces of work, if it has them. Where calls are queued it is at work in any
  // case, and a call may wait for a lock that the thread holds which is here: then this waits for nothing.
  void let_pass(std::unique_lock<std::mutex>& lock, int64_t pieces) {
    unasked_ += pieces;
    for_device_.notify_all();
    for_program_.wait(lock, [&] { return unasked_ == 0 || is_wanted(); });
    unasked_ = 0;
  }

  void wait_until_done(std::unique_lock<std::mutex>& lock, Queue& queue) {
    const int64_t ticket = queue.wanted = queue.queued;
    for_device_.notify_all();
    for_program_.wait(lock, [&] { return queue.done >= ticket; });
    throw_failure();
  }

  void wait_for_all(std::unique_lock<std::mutex>& lock) {
    for (const auto& queue : queues_) queue->wanted = queue->queued;
    for_device_.notify_all();
    for_program_.wait(lock, [&] { return std::ranges::all_of(queues_, [](const auto& q) { return q->is_done(); }); });
  }

  bool is_wanted() const {
    return std::ranges::any_of(queues_, [](const auto& queue) { return queue->is_wanted(); });
  }

  // ------------------------------------------------------------------------------------------------- the device

  void run_device() {
    std::unique_lock lock(mutex_);
    for (;;) {
      for_device_.wait(lock, [&] { return ends_ || unasked_ > 0 || is_wanted(); });
      if (ends_) return;
      if (const std::shared_ptr<Queue> queue = choose_queue()) {
        do_piece(lock, *queue);
        if (unasked_ > 0) --unasked_;
      } else {
        unasked_ = 0;
        // What is asked for waits for something beyond the device, which tells nobody.
        if (is_wanted()) for_device_.wait_for(lock, kWhileNothingIsReady);
      }
      forget_destroyed();
      for_program_.notify_all();
    }
  }

  static bool is_ready(const Item& item) { return item.work && (!item.is_ready || item.is_ready()); }

  // One of those with work that is ready, by chance; null: there is none.
  std::shared_ptr<Queue> choose_queue() {
    while (pass_wait()) {
    }
    std::vector<std::shared_ptr<Queue>> ready;
    std::ranges::copy_if(queues_, std::back_inserter(ready),
                         [](const auto& queue) { return !queue->items.empty() && is_ready(queue->items.front()); });
    return ready.empty() ? nullptr : ready[turns_.below(ready.size())];
  }
  // Takes one wait that is over from its queue, if there is one.
  bool pass_wait() {
    for (const auto& queue : queues_) {
      if (queue->items.empty()) continue;
      const Item& first = queue->items.front();
      if (first.work || first.other->done < first.ticket) continue;
      queue->items.pop_front();
      ++queue->done;
      return true;
    }
    return false;
  }

  void do_piece(std::unique_lock<std::mutex>& lock, Queue& queue) {
    std::optional<Item> item = std::move(queue.items.front());
    queue.items.pop_front();
    lock.unlock();
    std::optional<std::string> failure;
    try {
      item->work();
    } catch (const std::exception& error) {
      failure = error.what();
    }
    item.reset();  // here, as what it holds may take locks of the program's
    lock.lock();
    ++queue.done;
    if (failure) fail(lock, *failure);
  }

  // Drops what is queued, before anybody hears of it; not under the lock, as what it holds may take the program's.
  void fail(std::unique_lock<std::mutex>& lock, const std::string& message) {
    for (std::vector<Item> dropped; !(dropped = take_all()).empty();) {
      lock.unlock();
      dropped.clear();
      lock.lock();
    }
    failure_ = message;
    for (const auto& queue : queues_) queue->done = queue->queued;
  }
  std::vector<Item> take_all() {
    std::vector<Item> all;
    for (const auto& queue : queues_) {
      std::ranges::move(queue->items, std::back_inserter(all));
      queue->items.clear();
    }
    return all;
  }

  void forget_destroyed() {
    std::erase_if(queues_, [](const auto& queue) { return queue->destroyed && queue->is_done(); });
  }

  const int64_t number_ = ++runtimes_made;
  const int64_t memory_bytes_;
  const std::shared_ptr<SimulatedNccl> nccl_;  // null: none
  HostRuntime host_;
  std::mutex mutex_;
  std::condition_variable for_device_, for_program_;
  std::vector<std::shared_ptr<Queue>> queues_;
  int64_t streams_ = 0;
  int64_t taken_ = 0;
  std::map<void*, std::unique_ptr<DevicePiece>> pieces_;
  std::optional<std::string> failure_;
  int64_t unasked_ = 0;  // pieces of work that the device may do though nobody waits
  bool ends_ = false;
  Random pauses_, turns_;
  std::thread device_;  // last, as it uses all the others
};

}  // namespace

std::unique_ptr<Runtime> make_simt_runtime(const SimtOptions& options) {
  return std::make_unique<SimtRuntime>(options);
}

void queue_work(Stream stream, std::function<void()> work) {
  if (stream == nullptr) return work();
  queue_of(stream)->runtime.queue("an operation", stream, std::move(work));
}

void queue_work_when(Stream stream, std::function<bool()> is_ready, std::function<void()> work) {
  queue_of(stream)->runtime.queue_when("an operation", stream, std::move(is_ready), std::move(work));
}

}  // namespace skippipe::simt
