// Device memory: every byte is planned and printed before the start, taken once, and handed out in blocks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace skippipe {

enum class Region : uint8_t { kWeights, kGradients, kOptimizer, kActivations, kWorkspace, kCommunication, kCheckpoint };
inline constexpr int kRegionCount = 7;
const char* region_name(Region region);  // "weights"

// Every block begins at a multiple of this many bytes (a cache line, and what vector loads like).
inline constexpr int64_t kBlockAlignment = 64;
// The next multiple of kBlockAlignment. Throws MemoryError if bytes is negative or too large.
int64_t aligned_bytes(int64_t bytes);

// "1.50 GiB"
std::string human_bytes(int64_t bytes);

// Which blocks the slab of a node will have. Blocks lie in the order of their regions, and in a region in the order in
// which they were added.
class MemoryPlan {
 public:
  struct Block {
    Region region;
    std::string name;  // unique in its region
    int64_t bytes;     // a multiple of kBlockAlignment
    std::string note;  // how the size comes about, for the table: "4 slots of 1.20 MiB"
  };

  // Throws MemoryError on a negative size or an overflow of the total.
  void add(Region region, std::string name, int64_t bytes, std::string note = "");

  const std::vector<Block>& blocks() const { return blocks_; }  // in the slab's order
  int64_t bytes(Region region) const;
  int64_t total_bytes() const { return total_bytes_; }

  // The table that a start and `--dry-run` print: a line for each block and the total.
  std::string table() const;
  // Throws MemoryError, with the numbers, if the total exceeds limit_bytes.
  void check_fits(int64_t limit_bytes, const std::string& device_name) const;

 private:
  std::vector<Block> blocks_;
  int64_t total_bytes_ = 0;
};

// The one allocation of a node on its device, zeroed. Owns the memory; tensors point into it. Immoveable; blocks may be
// used from any thread, whoever is handed one says how.
class Slab {
 public:
  // Throws MemoryError if the device refuses.
  explicit Slab(const MemoryPlan& plan);
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // The block that the plan added under this name; once each: a block belongs to whoever took it. Throws InternalError
  // if there is none or it was taken.
  std::span<std::byte> take(Region region, std::string_view name);

  int64_t bytes() const { return bytes_; }
  Device device() const { return Device::kCpu; }
  // What was taken from the device so far: one allocation of bytes() for the life of a node.
  int device_allocations() const { return device_allocations_; }

 private:
  struct Entry {
    MemoryPlan::Block block;
    int64_t offset;
    bool taken;
  };
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* data) const;
  };

  std::vector<Entry> entries_;
  int64_t bytes_ = 0;
  int device_allocations_ = 0;
  std::unique_ptr<std::byte, Unmap> data_;
};

// Carves tensors out of one block, each at a multiple of kBlockAlignment. Without a block it only measures: the same
// code plans the memory and lays it out, so the two can't differ.
class Arena {
 public:
  Arena() = default;  // measures; its tensors are empty
  explicit Arena(std::span<std::byte> block) : block_(block), measuring_(false) {}

  // Throws ShapeError or MemoryError on an overflow, InternalError if the block is too small.
  Tensor take(const Dims& shape, Dtype dtype);
  int64_t used_bytes() const { return used_bytes_; }

 private:
  std::span<std::byte> block_;
  int64_t used_bytes_ = 0;
  bool measuring_ = true;
};

}  // namespace skippipe
