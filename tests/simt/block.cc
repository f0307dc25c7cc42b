#include "tests/simt/block.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/format.h"

namespace skippipe::simt {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kUnitBytes = 2;
constexpr std::byte kPoison{0xff};  // NaN in f32 and bf16, -1 as an integer

thread_local Block* current_block = nullptr;

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
  Block block(at, body);
  current_block = &block;
  const struct Leave {
    ~Leave() { current_block = nullptr; }
  } leave;
  for (block.z_ = 0; block.z_ < at.grid.z; ++block.z_)
    for (block.y_ = 0; block.y_ < at.grid.y; ++block.y_)
      for (block.x_ = 0; block.x_ < at.grid.x; ++block.x_) block.run();
}

Block::Block(const cuda::Launch& at, const std::function<void()>& body)
    : launch_(at),
      body_(body),
      stacks_(kStackBytes),
      memory_(static_cast<size_t>(at.shared_bytes) + 128),
      order_(20250219) {
  void* begin = memory_.data();
  size_t space = memory_.size();
  shared_ = {static_cast<std::byte*>(std::align(128, static_cast<size_t>(at.shared_bytes), begin, space)),
             static_cast<size_t>(at.shared_bytes)};
  units_.resize(shared_.size / kUnitBytes + 1);
  reads_.resize(units_.size() * static_cast<size_t>(warps()));
}

void Block::run() {
  ++serial_;
  std::fill_n(shared_.begin, shared_.size, kPoison);
  barriers_ = {};
  warps_.assign(static_cast<size_t>(warps()), {});
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w].clock.assign(warps_.size(), 0);
    warps_[w].clock[w] = 1;
  }
  threads_.clear();
  threads_.resize(static_cast<size_t>(launch_.threads));
  for (Thread& thread : threads_)
    thread.fiber = Fiber(std::allocator_arg, stacks_, [this, &thread](Fiber&& scheduler) {
      scheduler_ = std::move(scheduler);
      try {
        body_();
      } catch (const std::exception&) {
        failure_ = std::current_exception();
      }
      thread.done = true;
      return std::move(scheduler_);
    });
  // Warps take turns in an order of chance; each runs until all its lanes wait.
  std::vector<int> order(warps_.size());
  std::iota(order.begin(), order.end(), 0);
  order_.shuffle(order);
  for (bool any = true; any;) {
    any = false;
    for (const int w : order)
      for (int lane = 0; lane < kWarp; ++lane) {
        const int t = w * kWarp + lane;
        const Thread& thread = threads_[static_cast<size_t>(t)];
        if (thread.done || thread.waits_for != nullptr) continue;
        any = true;
        run_thread(t);
      }
  }
  if (!std::ranges::all_of(threads_, &Thread::done)) fail_stuck();
}

void Block::run_thread(int thread) {
  thread_ = thread;
  Thread& running = threads_[static_cast<size_t>(thread)];
  running.fiber = std::move(running.fiber).resume();
  if (!failure_) return;
  threads_.clear();  // unwinds the others
  std::rethrow_exception(failure_);
}

void Block::wait(const char* what) {
  Thread& mine = threads_[static_cast<size_t>(thread_)];
  mine.waits_for = what;
  scheduler_ = std::move(scheduler_).resume();
}

void Block::fail(const std::string& message) const {
  throw KernelError(format("{}: block ({}, {}, {}), thread {}: {}", launch_.name, x_, y_, z_, thread_, message));
}

void Block::fail_stuck() const {
  std::string waiting;
  for (size_t t = 0; t < threads_.size() && waiting.size() < 200; ++t)
    if (!threads_[t].done) waiting += format("{}{} at {}", waiting.empty() ? "" : ", ", t, threads_[t].waits_for);
  const auto done = std::ranges::count_if(threads_, &Thread::done);
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
  if (index < 0 || index > 15 || count < 1 || count % kWarp != 0 || count > launch_.threads)
    fail(format("names barrier {} of {} threads", index, count));
  Barrier& barrier = barriers_[static_cast<size_t>(index)];
  if (barrier.arrived > 0 && barrier.count != count)
    fail(format("expects {} threads at barrier {}, others {}", count, index, barrier.count));
  barrier.count = count;
  barrier.threads.push_back(thread_);
  if (++barrier.arrived < count) return wait("a barrier");
  // All that any of these warps did is over for all of them.
  std::vector<uint32_t> over(warps_.size(), 0);
  for (const int thread : barrier.threads) {
    const Warp& group = warps_[static_cast<size_t>(thread / kWarp)];
    for (size_t w = 0; w < over.size(); ++w) over[w] = std::max(over[w], group.clock[w]);
  }
  for (const int thread : barrier.threads) {
    threads_[static_cast<size_t>(thread)].waits_for = nullptr;
    const auto w = static_cast<size_t>(thread / kWarp);
    if (warps_[w].clock[w] > over[w]) continue;  // another lane's turn was first
    warps_[w].clock = over;
    ++warps_[w].clock[w];
    ++warps_[w].sync;
  }
  barrier = {};
}

// ---------------------------------------------------------------------------------------------------- shared memory

Block::Stamp Block::stamp(bool atomic) const {
  const Warp& mine = warps_[static_cast<size_t>(warp())];
  return {mine.clock[static_cast<size_t>(warp())], mine.sync, static_cast<int16_t>(thread_), atomic};
}

bool Block::in_order(const Stamp& earlier, int earlier_warp) const {
  if (earlier.epoch == 0 || earlier.thread == thread_) return true;
  const Warp& mine = warps_[static_cast<size_t>(warp())];
  if (earlier_warp == warp()) return earlier.sync < mine.sync;
  return earlier.epoch <= mine.clock[static_cast<size_t>(earlier_warp)];
}

void Block::fail_race(size_t unit, const char* what, const Stamp& earlier, int earlier_warp) const {
  const std::string other =
      earlier.thread >= 0 ? format("thread {}", earlier.thread) : format("threads of warp {}", earlier_warp);
  fail(format("race: {} {} byte {} of shared memory with no barrier between", what, other, unit * kUnitBytes));
}

void Block::check_unit(size_t index, Access access) {
  Unit& unit = units_[index];
  Stamp* const reads = &reads_[index * warps_.size()];
  if (unit.block != serial_) {
    unit = Unit{};
    unit.block = serial_;
    std::fill_n(reads, warps_.size(), Stamp{});
  }
  if (unit.copy_under_way)
    fail(format("race: touches byte {} of shared memory, to which an asynchronous copy is under way",
                index * kUnitBytes));
  const bool both_atomic = access == Access::kAtomic && unit.written.atomic;
  if (!both_atomic && !in_order(unit.written, unit.written.thread / kWarp))
    fail_race(index, access == Access::kRead ? "reads what was written by" : "writes what was written by", unit.written,
              unit.written.thread / kWarp);
  if (access == Access::kRead) {
    Stamp& read = reads[warp()];
    const Stamp mine = stamp(false);
    const bool with_others = read.epoch == mine.epoch && read.sync == mine.sync && read.thread != mine.thread;
    read = mine;
    if (with_others) read.thread = -1;
    return;
  }
  for (size_t w = 0; w < warps_.size(); ++w) {
    if (!in_order(reads[w], static_cast<int>(w)))
      fail_race(index, "writes what was read by", reads[w], static_cast<int>(w));
    reads[w] = {};
  }
  unit.written = stamp(access == Access::kAtomic);
}

void Block::touch_shared(const void* address, int64_t bytes, Access access) {
  const auto* at = static_cast<const std::byte*>(address);
  const std::ptrdiff_t offset = at - shared_.begin;
  if (offset < 0 || offset + bytes > static_cast<std::ptrdiff_t>(shared_.size))
    fail(format("touches bytes {} to {} of {} bytes of shared memory", offset, offset + bytes, shared_.size));
  if (offset % bytes != 0) fail(format("touches {} bytes of shared memory at byte {}: not aligned", bytes, offset));
  for (auto unit = static_cast<size_t>(offset) / kUnitBytes; unit * kUnitBytes < static_cast<size_t>(offset + bytes);
       ++unit)
    check_unit(unit, access);
}

void Block::write_units(const void* address, bool copy_under_way) {
  const auto first = static_cast<size_t>(static_cast<const std::byte*>(address) - shared_.begin) / kUnitBytes;
  for (size_t unit = first; unit < first + 16 / kUnitBytes; ++unit) {
    units_[unit].written = stamp(false);
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

}  // namespace skippipe::simt
