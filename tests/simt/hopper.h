// What tests/simt/include/kernels/cuda/hopper.h stands on: barriers that count bytes, bulk copies and products of
// warpgroups of the block under execution (block.h). Copies end in an order of chance, as late as when nobody can go on
// without them; products are computed when they are waited for, from what shared memory and registers hold then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tests/simt/block.h"

namespace skippipe::simt {

inline constexpr int kWarpgroup = 128;

class Hopper {
 public:
  // Of the block under execution.
  static Hopper& current();

  // mbarriers, by their place in shared memory.
  void init(const void* at, int arrivals);
  void publish();
  void arrive(const void* at, int64_t bytes);
  void wait(const void* at, int parity);

  // Copies that end later: `bytes` for a place in shared memory, a multiple of 16.
  struct Piece {
    std::byte* to;
    std::array<std::byte, 16> bytes;
  };
  // The whole of which tells a barrier so when it is there.
  void copy(std::vector<Piece> pieces, const void* barrier);

  void fence_for_async();

  // Products. Registers are named by where a thread holds them.
  struct Registers {
    void* at;
    size_t bytes;
  };
  struct Product {
    int columns;
    float* sums;
    uint64_t a, b;                // descriptors
    const uint32_t* a_registers;  // null: a is one
    bool add;
  };
  void fence(const std::vector<Registers>& all);
  void multiply(const Product& product);
  void commit();
  void wait_products(int pending, const std::vector<Registers>& ended);

  // For the block: one copy more has ended; whether any was under way. And what a thread must not leave behind.
  bool end_copy();
  void check_end_of_thread();

  // The byte in shared memory that lies at byte `at` before it is swizzled.
  static size_t swizzled(size_t at) { return at ^ (at >> 7 & 7) << 4; }

 private:
  friend class Block;
  explicit Hopper(Block& block);

  using Clock = std::vector<uint32_t>;
  struct MemoryBarrier {
    int initialized_by = 0;
    bool published = false;
    int arrivals = 0, missing = 0;
    int64_t bytes = 0;
    uint32_t phase = 0;
    Clock arrived, over;  // what the phase under way, and those that are over, make known
    std::vector<int> waiting;
  };
  struct Copy {
    std::vector<Piece> pieces;
    const void* barrier;
  };
  // Registers between a fence and the end of the last product that uses them. `bytes`: as they were at the fence; of
  // sums, what they come to so far.
  struct Fenced {
    std::byte* at;
    std::vector<std::byte> bytes;
    int products = 0;
    bool are_sums = false;
  };
  struct Pending {
    Product product;
    std::array<uint32_t, 4> a{};
    int group = -1;                     // -1: not committed
    std::optional<uint64_t> seen = {};  // by read_operands, for the first of a warp's lanes
  };
  struct Thread {
    std::vector<Fenced> fenced;
    std::vector<Pending> pending;
    int groups = 0;  // committed so far
    int begun = 0;   // products
  };
  struct Warpgroup {
    int arrived = 0, pending = 0;
  };

  MemoryBarrier& barrier(const void* at);
  void end_phase(MemoryBarrier& barrier);
  void acquire(const Clock& clock);
  Clock& my_clock();
  Thread& me();
  static Fenced* find(Thread& thread, const void* at, size_t bytes);
  void finish(int first_thread, int pending);
  static void end_use(Thread& thread, const void* at);
  void compute(int first_thread, const std::vector<Pending>& brought);
  // Returns what tells the writes that it found there from later ones.
  uint64_t read_operands(const Product& product);
  // Bytes of element (row, k) of 16 columns of rows, and of (k, column) of 16 rows.
  static size_t row_element(uint64_t descriptor, size_t row, size_t k);
  static size_t column_element(uint64_t descriptor, size_t k, size_t column);
  float shared_element(size_t at) const;

  Block& block_;
  std::map<const void*, MemoryBarrier> barriers_;
  std::vector<Copy> copies_;
  uint32_t copies_ended_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warpgroup> warpgroups_;
  std::vector<int> begun_;  // products, by the first lane of each warp
};

}  // namespace skippipe::simt
