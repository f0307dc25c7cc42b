// Executes the threads of a kernel's blocks on the CPU, one fiber per thread (Boost.Context), block after block, in
// another order of blocks, warps and lanes at every launch. It watches what they do: every access to memory goes
// through a detector of races, every collective must be reached by all lanes of a warp, and nobody may wait for what
// can't come.
#pragma once

#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/cuda/launch.h"

namespace skippipe::simt {

// A kernel did what no kernel may do. The message names kernel, block and thread. (On a GPU the device would fail.)
class KernelError : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

using cuda::kWarp;

// Per block, and where it uses what hopper.h has.
inline constexpr int64_t kMostSharedBytes = 163 * 1024;
inline constexpr int64_t kMostHopperSharedBytes = 227 * 1024;

class Hopper;

// The block under execution and the thread whose turn it is. One OS thread executes one launch at a time.
class Block {
 public:
  // Runs `body` once by every thread of every block. Throws KernelError.
  static void run_grid(const cuda::Launch& at, const std::function<void()>& body);
  // Of the thread that asks. Only within run_grid.
  static Block& current();
  ~Block();

  const cuda::Launch& launch() const { return launch_; }
  int64_t x() const { return x_; }
  int y() const { return y_; }
  int z() const { return z_; }
  int thread() const { return thread_; }
  std::byte* shared() { return shared_.data(); }

  // Waits for `count` threads, a multiple of 32, at barrier 0 to 15.
  void barrier(int index, int count);
  void warp_sync();
  // Waits for the other lanes of the warp, which must come with the same `kind`; then body(lanes), called once, sees
  // what each of them brought.
  template <typename Operand, typename Body>
  void collective(const char* kind, Operand& mine, const Body& body) {
    meet(kind, &mine, [&body](const std::array<void*, kWarp>& brought) {
      std::array<Operand*, kWarp> lanes;
      for (size_t i = 0; i < kWarp; ++i) lanes[i] = static_cast<Operand*>(brought[i]);
      body(lanes);
    });
  }

  enum class Access { kRead, kWrite, kAtomic };
  // Of bytes in shared memory: in bounds, aligned to their number, and in order with what other threads did to them.
  void touch_shared(const void* address, int64_t bytes, Access access);
  // Of bytes in device memory: in order with what other threads did to them, and other blocks of the launch did not.
  void touch_global(const void* address, int64_t bytes, Access access);
  // 16 bytes; from null: zeros.
  void copy_async(void* to, const void* from);
  void copy_async_commit();
  void copy_async_wait(int pending);

  // Arrives at barrier 1 to 15 without waiting there.
  void barrier_arrive(int index, int count);
  // 16 bytes of shared memory, as bulk copies write and products read them: beside the threads' own accesses, which
  // they are in order with only behind a fence_for_async. A write ends when it is said to, as the block's so-manieth.
  void begin_async_write(const void* address);
  void end_async_write(const void* address, uint32_t serial);
  // Returns what tells who wrote that from who writes it next.
  uint64_t touch_shared_async(const void* address);

  [[noreturn]] void fail(const std::string& message) const;

 private:
  friend class Hopper;
  using Fiber = boost::context::fiber;
  // What the address sanitizer wants to know of a stack when it is switched to; `fake` is its own.
  struct Stack {
    const void* bottom = nullptr;
    size_t size = 0;
    void* fake = nullptr;
  };
  struct Abandoned {};  // thrown in threads that wait when another has failed
  struct Copy {
    std::byte* to;
    std::array<std::byte, 16> bytes;
  };
  struct Thread {
    Fiber fiber;
    Stack stack;
    bool done = false;
    const char* waits_for = nullptr;           // null: may run
    std::vector<std::vector<Copy>> committed;  // oldest first
    std::vector<Copy> copies;                  // since the last commit
    uint32_t async_fences = 0;
  };
  // What happened before what, between warps: clock[v] is the latest epoch of warp v that is over for this one; its own
  // epoch goes up with every barrier, and `sync` with every warp_sync, too. Behind the warps stands what makes bulk
  // copies, with an epoch for each.
  struct Warp {
    std::vector<uint32_t> clock;
    uint32_t sync = 1;
    const char* kind = nullptr;  // of the collective under way
    int arrived = 0;
    std::array<void*, kWarp> brought{};
  };
  struct Barrier {
    int arrived = 0, count = 0;
    std::vector<int> threads;    // that wait
    std::vector<int> lanes;      // that arrived, of each warp
    std::vector<uint32_t> over;  // what is over for all who arrived
  };
  struct Stamp {
    uint32_t epoch = 0, sync = 0;  // epoch 0: never
    int16_t thread = -1;           // -1: several of the warp
  };
  // Two bytes of shared memory.
  struct Unit {
    uint32_t block = 0;  // whose stamps these are
    Stamp written;       // last
    bool copy_under_way = false;
    uint32_t async_fences = 0;  // of the thread that wrote, until then
  };
  // Two bytes of device memory. Of reads by the block under execution it knows the last alone, so that a write that
  // races with another is seen in some orders of execution only.
  struct GlobalUnit {
    Stamp written, read;
    uint32_t writer = 0, reader = 0;  // blocks; 0: none
    bool atomic = false;              // the write
  };

  Block(const cuda::Launch& at, const std::function<void()>& body);

  void run();
  void start(Thread& thread);
  void run_thread(int thread);
  void resume(int thread);
  void abandon();
  [[noreturn]] void fail_stuck();
  void wait(const char* what);
  bool arrive_at_barrier(int index, int count, bool waits);
  void meet(const char* kind, void* mine, const std::function<void(const std::array<void*, kWarp>&)>& body);

  int warp() const { return thread_ / kWarp; }
  int warps() const { return launch_.threads / kWarp; }
  Stamp stamp() const;
  bool in_order(const Stamp& earlier, int earlier_warp) const;
  void check_unit(size_t index, Access access);
  void join(Stamp& stamps) const;
  [[noreturn]] void fail_race(size_t unit, const char* what, const Stamp& earlier, int earlier_warp) const;
  void check_global_unit(GlobalUnit& unit, Access access);
  void check_global_order(Access access, const char* did, uint32_t block, const Stamp& earlier) const;
  GlobalUnit* global_page(uintptr_t number);
  void write_units(const void* address, bool copy_under_way);
  void check_fenced(const Unit& unit) const;
  template <typename Body>
  void for_each_unit(const void* address, int64_t bytes, const Body& body);
  void finish_copies(const std::vector<Copy>& copies);

  const cuda::Launch& launch_;
  const std::function<void()>& body_;
  int64_t x_ = 0;
  int y_ = 0, z_ = 0;
  uint32_t serial_ = 0;  // of blocks
  int thread_ = 0;
  boost::context::pooled_fixedsize_stack stacks_;
  Fiber scheduler_;
  Stack scheduler_stack_;
  std::exception_ptr failure_;
  bool abandoned_ = false;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, 16> barriers_;
  std::vector<std::byte> memory_;
  struct Span {
    std::byte* begin = nullptr;
    size_t size = 0;
    std::byte* data() const { return begin; }
  } shared_;
  std::vector<Unit> units_;
  std::vector<Stamp> reads_;    // [unit][warp], since the unit's last write
  std::vector<Stamp> atomics_;  // the same; empty until the first
  std::unordered_map<uintptr_t, std::unique_ptr<GlobalUnit[]>> pages_;
  uintptr_t last_page_ = 0;
  GlobalUnit* last_units_ = nullptr;
  Random order_;
  std::unique_ptr<Hopper> hopper_;  // null until the block uses it
};

}  // namespace skippipe::simt
