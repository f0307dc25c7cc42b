#include "tests/simt/block.h"

#include <algorithm>
#include <boost/context/preallocated.hpp>
#include <cstring>
#include <numeric>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SKIPPIPE_SANITIZE_THREAD
#include <sanitizer/tsan_interface.h>
#endif

#include "base/format.h"
#include "tests/simt/hopper.h"

namespace skippipe::simt {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kUnitBytes = 2;
constexpr size_t kPageBytes = 4096;
constexpr size_t kSharedAlignment = 1024;
constexpr uint32_t kSeveralBlocks = UINT32_MAX;
constexpr std::byte kPoison{0xff};  // NaN in f32 and bf16, -1 as an integer

thread_local Block* current_block = nullptr;
thread_local uint64_t launches = 0;

// Around each switch of stacks, for the address sanitizer. `fake` is kept for who leaves, null when it is for good.
#ifdef __SANITIZE_ADDRESS__
void leave_stack(void** fake, const void* to, size_t size) { __sanitizer_start_switch_fiber(fake, to, size); }
void arrive_at_stack(void* fake, const void** from, size_t* size) { __sanitizer_finish_switch_fiber(fake, from, size); }
#else
void leave_stack(void**, const void*, size_t) {}
void arrive_at_stack(void*, const void**, size_t*) {}
#endif

// The thread sanitizer is told of each switch, too. This file itself is compiled without it (CMakeLists.txt), as it
// would count what a function did before a switch and after it for two.
#ifdef SKIPPIPE_SANITIZE_THREAD
// What it knows of the fibers of an OS thread; kept from launch to launch, as they are dear.
class Histories {
 public:
  Histories() = default;
  ~Histories() { std::ranges::for_each(fibers_, __tsan_destroy_fiber); }
  Histories(const Histories&) = delete;
  Histories& operator=(const Histories&) = delete;

  void enter(size_t thread) {
    while (fibers_.size() <= thread) fibers_.push_back(__tsan_create_fiber(0));
    outside_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fibers_[thread], 0);
  }
  void leave() { __tsan_switch_to_fiber(outside_, 0); }

 private:
  std::vector<void*> fibers_;
  void* outside_ = nullptr;
};
thread_local Histories histories;
#else
struct {
  void enter(size_t) {}
  void leave() {}
} histories;
#endif

}  // namespace

Block& Block::current() {
  if (current_block == nullptr) throw KernelError("device code was called outside of a kernel");
  return *current_block;
}

void Block::run_grid(const cuda::Launch& at, const std::function<void()>& body) {
  if (at.threads < 1 || at.threads > 1024 || at.threads % kWarp != 0)
    throw KernelError(format("{}: {} threads per block, expected a multiple of 32 up to 1024", at.name, at.threads));
  if (at.grid.x < 1 || at.grid.x > INT32_MAX || at.grid.y < 1 || at.grid.y > 65535 || at.grid.z < 1 ||
      at.grid.z > 65535)
    throw KernelError(format("{}: no grid: ({}, {}, {}) blocks", at.name, at.grid.x, at.grid.y, at.grid.z));
  const auto check_shared = [&](int64_t most) {
    if (at.shared_bytes < 0 || at.shared_bytes > most)
      throw KernelError(format("{}: {} bytes of shared memory, there are {}", at.name, at.shared_bytes, most));
  };
  check_shared(kMostHopperSharedBytes);
  Block block(at, body);
  current_block = &block;
  const struct Leave {
    ~Leave() { current_block = nullptr; }
  } leave;
  std::vector<int64_t> blocks(static_cast<size_t>(at.grid.x * at.grid.y * at.grid.z));
  std::iota(blocks.begin(), blocks.end(), 0);
  block.order_.shuffle(blocks);
  for (const int64_t index : blocks) {
    block.x_ = index % at.grid.x;
    block.y_ = static_cast<int>(index / at.grid.x % at.grid.y);
    block.z_ = static_cast<int>(index / at.grid.x / at.grid.y);
    block.run();
    if (block.hopper_ == nullptr) check_shared(kMostSharedBytes);
  }
}

Block::Block(const cuda::Launch& at, const std::function<void()>& body)
    : launch_(at),
      body_(body),
      stacks_(kStackBytes),
      memory_(static_cast<size_t>(at.shared_bytes) + kSharedAlignment),
      order_(20250219, {launches++}) {
  void* begin = memory_.data();
  size_t space = memory_.size();
  shared_ = {static_cast<std::byte*>(std::align(kSharedAlignment, static_cast<size_t>(at.shared_bytes), begin, space)),
             static_cast<size_t>(at.shared_bytes)};
  units_.resize(shared_.size / kUnitBytes + 1);
  reads_.resize(units_.size() * static_cast<size_t>(warps()));
}

Block::~Block() = default;

void Block::run() {
  ++serial_;
  hopper_.reset();
  std::fill_n(shared_.begin, shared_.size, kPoison);
  barriers_ = {};
  warps_.assign(static_cast<size_t>(warps()), {});
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w].clock.assign(warps_.size() + 1, 0);
    warps_[w].clock[w] = 1;
  }
  threads_.clear();
  threads_.resize(static_cast<size_t>(launch_.threads));
  for (Thread& thread : threads_) start(thread);
  // Warps take turns in an order of chance, and so do the lanes of each; all run until they wait.
  std::vector<int> order(warps_.size());
  std::iota(order.begin(), order.end(), 0);
  order_.shuffle(order);
  std::array<int, kWarp> lanes{};
  std::iota(lanes.begin(), lanes.end(), 0);
  order_.shuffle(lanes);
  for (bool any = true; any;) {
    any = false;
    for (const int w : order)
      for (const int lane : lanes) {
        const int t = w * kWarp + lane;
        const Thread& thread = threads_[static_cast<size_t>(t)];
        if (thread.done || thread.waits_for != nullptr) continue;
        any = true;
        run_thread(t);
      }
    // Copies that were begun may end any time; when nobody can go on, one must.
    if (hopper_ != nullptr && (!any || order_.below(4) == 0)) any = hopper_->end_copy() || any;
  }
  if (!std::ranges::all_of(threads_, &Thread::done)) fail_stuck();
}

void Block::start(Thread& thread) {
  const boost::context::stack_context stack = stacks_.allocate();
  thread.stack = {static_cast<std::byte*>(stack.sp) - stack.size, stack.size, nullptr};
  const boost::context::preallocated allocated(stack.sp, stack.size, stack);
  thread.fiber = Fiber(std::allocator_arg, allocated, stacks_, [this, &thread](Fiber&& scheduler) {
    arrive_at_stack(nullptr, &scheduler_stack_.bottom, &scheduler_stack_.size);
    scheduler_ = std::move(scheduler);
    try {
      if (!abandoned_) body_();
      if (hopper_ != nullptr && !abandoned_) hopper_->check_end_of_thread();
    } catch (const Abandoned&) {
    } catch (const std::exception&) {
      failure_ = std::current_exception();
    }
    thread.done = true;
    leave_stack(nullptr, scheduler_stack_.bottom, scheduler_stack_.size);
    histories.leave();
    return std::move(scheduler_);
  });
}

void Block::run_thread(int thread) {
  resume(thread);
  if (!failure_) return;
  abandon();
  std::rethrow_exception(failure_);
}

void Block::resume(int thread) {
  thread_ = thread;
  Thread& next = threads_[static_cast<size_t>(thread)];
  leave_stack(&scheduler_stack_.fake, next.stack.bottom, next.stack.size);
  histories.enter(static_cast<size_t>(thread));
  next.fiber = std::move(next.fiber).resume();
  arrive_at_stack(scheduler_stack_.fake, nullptr, nullptr);
}

void Block::wait(const char* what) {
  Thread& mine = threads_[static_cast<size_t>(thread_)];
  mine.waits_for = what;
  leave_stack(&mine.stack.fake, scheduler_stack_.bottom, scheduler_stack_.size);
  histories.leave();
  scheduler_ = std::move(scheduler_).resume();
  arrive_at_stack(mine.stack.fake, &scheduler_stack_.bottom, &scheduler_stack_.size);
  if (abandoned_) throw Abandoned();
}

// Ends all threads.
void Block::abandon() {
  abandoned_ = true;
  for (int t = 0; t < launch_.threads; ++t)
    if (!threads_[static_cast<size_t>(t)].done) resume(t);
}

void Block::fail(const std::string& message) const {
  throw KernelError(format("{}: block ({}, {}, {}), thread {}: {}", launch_.name, x_, y_, z_, thread_, message));
}

void Block::fail_stuck() {
  std::string waiting;
  for (size_t t = 0; t < threads_.size() && waiting.size() < 200; ++t)
    if (!threads_[t].done) waiting += format("{}{} at {}", waiting.empty() ? "" : ", ", t, threads_[t].waits_for);
  const auto done = std::ranges::count_if(threads_, &Thread::done);
  abandon();
  throw KernelError(format("{}: block ({}, {}, {}): {} of {} threads have ended, the others wait for ever: {}",
                           launch_.name, x_, y_, z_, done, threads_.size(), waiting));
}

// ---------------------------------------------------------------------------------------------------- meeting

void Block::meet(const char* kind, void* mine, const std::function<void(const std::array<void*, kWarp>&)>& body) {
  Warp& group = warps_[static_cast<size_t>(warp())];
  if (group.arrived > 0 && std::strcmp(group.kind, kind) != 0)
    fail(format("is at {} while other lanes of its warp are at {}", kind, group.kind));
  group.kind = kind;
  group.brought[static_cast<size_t>(thread_ % kWarp)] = mine;
  if (++group.arrived < kWarp) return wait(kind);
  body(group.brought);
  group.arrived = 0;
  for (int lane = 0; lane < kWarp; ++lane) threads_[static_cast<size_t>(warp() * kWarp + lane)].waits_for = nullptr;
}

void Block::warp_sync() {
  char nothing = 0;
  collective("warp_sync", nothing, [this](const auto&) { ++warps_[static_cast<size_t>(warp())].sync; });
}

void Block::barrier(int index, int count) {
  if (!arrive_at_barrier(index, count, true)) wait("a barrier");
}

void Block::barrier_arrive(int index, int count) {
  arrive_at_barrier(index, count, false);
  ++warps_[static_cast<size_t>(warp())]
        .clock[static_cast<size_t>(warp())];  // what comes now, the others do not know of
}

// Whether that was the last to arrive, and the others may go on.
bool Block::arrive_at_barrier(int index, int count, bool waits) {
  if (index < 0 || index > 15 || count < 1 || count % kWarp != 0 || count > launch_.threads)
    fail(format("names barrier {} of {} threads", index, count));
  Barrier& barrier = barriers_[static_cast<size_t>(index)];
  if (barrier.arrived > 0 && barrier.count != count)
    fail(format("expects {} threads at barrier {}, others {}", count, index, barrier.count));
  barrier.count = count;
  if (waits) barrier.threads.push_back(thread_);
  barrier.over.resize(warps_.size() + 1);
  barrier.lanes.resize(warps_.size());
  ++barrier.lanes[static_cast<size_t>(warp())];
  const Warp& mine = warps_[static_cast<size_t>(warp())];
  for (size_t w = 0; w < barrier.over.size(); ++w) barrier.over[w] = std::max(barrier.over[w], mine.clock[w]);
  if (++barrier.arrived < count) return false;
  // All that any of these warps did is over for all that wait.
  if (std::ranges::any_of(barrier.lanes, [](int arrived) { return arrived % kWarp != 0; }))
    fail(format("is at barrier {}, which only some lanes of a warp have reached", index));
  const Barrier passed = std::move(barrier);
  barrier = {};
  for (const int thread : passed.threads) {
    threads_[static_cast<size_t>(thread)].waits_for = nullptr;
    const auto w = static_cast<size_t>(thread / kWarp);
    auto& clock = warps_[w].clock;
    if (clock[w] > passed.over[w]) continue;  // another lane's turn was first
    for (size_t v = 0; v < clock.size(); ++v) clock[v] = std::max(clock[v], passed.over[v]);
    ++clock[w];
    ++warps_[w].sync;
  }
  return true;
}

// ---------------------------------------------------------------------------------------------------- shared memory

Block::Stamp Block::stamp() const {
  const Warp& mine = warps_[static_cast<size_t>(warp())];
  return {mine.clock[static_cast<size_t>(warp())], mine.sync, static_cast<int16_t>(thread_)};
}

bool Block::in_order(const Stamp& earlier, int earlier_warp) const {
  if (earlier.epoch == 0 || earlier.thread == thread_) return true;
  const Warp& mine = warps_[static_cast<size_t>(warp())];
  if (earlier_warp == warp()) return earlier.sync < mine.sync;
  return earlier.epoch <= mine.clock[static_cast<size_t>(earlier_warp)];
}

void Block::fail_race(size_t unit, const char* what, const Stamp& earlier, int earlier_warp) const {
  const std::string other = earlier.thread == launch_.threads ? "a bulk copy"
                            : earlier.thread >= 0             ? format("thread {}", earlier.thread)
                                                              : format("threads of warp {}", earlier_warp);
  fail(format("race: {} {} byte {} of shared memory with no barrier between", what, other, unit * kUnitBytes));
}

void Block::check_unit(size_t index, Access access) {
  Unit& unit = units_[index];
  const size_t first = index * warps_.size();
  if (access == Access::kAtomic) atomics_.resize(reads_.size());
  Stamp* const reads = &reads_[first];
  Stamp* const atomics = atomics_.empty() ? nullptr : &atomics_[first];
  if (unit.block != serial_) {
    unit = Unit{};
    unit.block = serial_;
    std::fill_n(reads, warps_.size(), Stamp{});
    if (atomics != nullptr) std::fill_n(atomics, warps_.size(), Stamp{});
  }
  if (unit.copy_under_way)
    fail(format("race: touches byte {} of shared memory, to which an asynchronous copy is under way",
                index * kUnitBytes));
  const char* const behind_write = access == Access::kRead ? "reads what was written by" : "writes what was written by";
  const auto check = [&](const Stamp& earlier, size_t earlier_warp, const char* what) {
    if (!in_order(earlier, static_cast<int>(earlier_warp)))
      fail_race(index, what, earlier, static_cast<int>(earlier_warp));
  };
  check(unit.written, static_cast<size_t>(unit.written.thread / kWarp), behind_write);
  if (access == Access::kRead && atomics == nullptr) return join(reads[warp()]);
  for (size_t w = 0; w < warps_.size(); ++w) {
    if (access != Access::kRead) check(reads[w], w, "writes what was read by");
    if (access != Access::kAtomic && atomics != nullptr) check(atomics[w], w, behind_write);
  }
  if (access == Access::kRead) return join(reads[warp()]);
  if (access == Access::kAtomic) return join(atomics[warp()]);
  std::fill_n(reads, warps_.size(), Stamp{});
  if (atomics != nullptr) std::fill_n(atomics, warps_.size(), Stamp{});
  unit.written = stamp();
  unit.async_fences = threads_[static_cast<size_t>(thread_)].async_fences;
}

void Block::join(Stamp& stamps) const {
  const Stamp mine = stamp();
  const bool with_others = stamps.epoch == mine.epoch && stamps.sync == mine.sync && stamps.thread != mine.thread;
  stamps = mine;
  if (with_others) stamps.thread = -1;
}

template <typename Body>
void Block::for_each_unit(const void* address, int64_t bytes, const Body& body) {
  const auto* at = static_cast<const std::byte*>(address);
  const std::ptrdiff_t offset = at - shared_.begin;
  if (offset < 0 || offset + bytes > static_cast<std::ptrdiff_t>(shared_.size))
    fail(format("touches bytes {} to {} of {} bytes of shared memory", offset, offset + bytes, shared_.size));
  if (offset % bytes != 0) fail(format("touches {} bytes of shared memory at byte {}: not aligned", bytes, offset));
  for (auto unit = static_cast<size_t>(offset) / kUnitBytes; unit * kUnitBytes < static_cast<size_t>(offset + bytes);
       ++unit)
    body(unit);
}

void Block::touch_shared(const void* address, int64_t bytes, Access access) {
  for_each_unit(address, bytes, [&](size_t unit) { check_unit(unit, access); });
}

// What a thread wrote must be behind its fence before others than threads touch it.
void Block::check_fenced(const Unit& unit) const {
  if (unit.block != serial_ || unit.copy_under_way || unit.written.epoch == 0 || unit.written.thread >= launch_.threads)
    return;
  if (threads_[static_cast<size_t>(unit.written.thread)].async_fences == unit.async_fences)
    fail(format("race: a copy or product touches what thread {} wrote to shared memory with no fence_for_async behind",
                unit.written.thread));
}

void Block::begin_async_write(const void* address) {
  for_each_unit(address, 16, [&](size_t unit) {
    check_fenced(units_[unit]);
    check_unit(unit, Access::kWrite);
    units_[unit].copy_under_way = true;
  });
}

void Block::end_async_write(const void* address, uint32_t serial) {
  for_each_unit(address, 16, [&](size_t unit) {
    units_[unit].written = {serial, 0, static_cast<int16_t>(launch_.threads)};
    units_[unit].copy_under_way = false;
  });
}

uint64_t Block::touch_shared_async(const void* address) {
  uint64_t writes = 0;
  for_each_unit(address, 16, [&](size_t unit) {
    check_fenced(units_[unit]);
    check_unit(unit, Access::kRead);
    const Stamp& written = units_[unit].written;
    writes = writes * 31 + (static_cast<uint64_t>(written.epoch) << 32 | static_cast<uint32_t>(written.sync)) +
             static_cast<uint16_t>(written.thread);
  });
  return writes;
}

void Block::write_units(const void* address, bool copy_under_way) {
  const auto first = static_cast<size_t>(static_cast<const std::byte*>(address) - shared_.begin) / kUnitBytes;
  for (size_t unit = first; unit < first + 16 / kUnitBytes; ++unit) {
    units_[unit].written = stamp();
    units_[unit].copy_under_way = copy_under_way;
  }
}

void Block::copy_async(void* to, const void* from) {
  touch_shared(to, 16, Access::kWrite);
  write_units(to, true);
  Copy copy{static_cast<std::byte*>(to), {}};
  if (from != nullptr) std::memcpy(copy.bytes.data(), from, copy.bytes.size());
  threads_[static_cast<size_t>(thread_)].copies.push_back(copy);
}

void Block::copy_async_commit() {
  Thread& mine = threads_[static_cast<size_t>(thread_)];
  mine.committed.push_back(std::move(mine.copies));
  mine.copies.clear();
}

void Block::copy_async_wait(int pending) {
  auto& committed = threads_[static_cast<size_t>(thread_)].committed;
  while (std::ssize(committed) > pending) {
    finish_copies(committed.front());
    committed.erase(committed.begin());
  }
}

void Block::finish_copies(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    write_units(copy.to, false);
  }
}

// ---------------------------------------------------------------------------------------------------- device memory

Block::GlobalUnit* Block::global_page(uintptr_t number) {
  if (last_units_ == nullptr || number != last_page_) {
    auto& page = pages_[number];
    if (page == nullptr) page = std::make_unique<GlobalUnit[]>(kPageBytes / kUnitBytes);
    last_page_ = number;
    last_units_ = page.get();
  }
  return last_units_;
}

void Block::check_global_order(Access access, const char* did, uint32_t block, const Stamp& earlier) const {
  if (block == 0 || (block == serial_ && in_order(earlier, earlier.thread / kWarp))) return;
  fail(format(
      "race: {} device memory that {} {}", access == Access::kRead ? "reads" : "writes",
      block == serial_ ? format("thread {}, with no barrier between,", earlier.thread) : "another block of the launch",
      did));
}

void Block::check_global_unit(GlobalUnit& unit, Access access) {
  const bool atomic = access == Access::kAtomic;
  if (!(atomic && unit.atomic)) check_global_order(access, "wrote", unit.writer, unit.written);
  if (access == Access::kRead) {
    unit.reader = unit.reader == 0 || unit.reader == serial_ ? serial_ : kSeveralBlocks;
    unit.read = stamp();
    return;
  }
  check_global_order(access, "read", unit.reader, unit.read);
  unit = {.written = stamp(), .read = {}, .writer = serial_, .atomic = atomic};
}

void Block::touch_global(const void* address, int64_t bytes, Access access) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = begin; at < begin + static_cast<uintptr_t>(bytes); at += kUnitBytes)
    check_global_unit(global_page(at / kPageBytes)[at % kPageBytes / kUnitBytes], access);
}

}  // namespace skippipe::simt
