// A node's memory: every byte is planned and printed before the start, taken once, and handed out in blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/number_text.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace skippipe {

enum class Region : uint8_t { kWeights, kGradients, kOptimizer, kActivations, kWorkspace, kCommunication, kCheckpoint };
inline constexpr int kRegionCount = 7;
const char* region_name(Region region);  // "weights"

// Every block begins at a multiple of this many bytes: what libraries for GPUs like best, so that which kernel they
// choose, and with it the last bit, does not depend on where a tensor lies.
inline constexpr int64_t kBlockAlignment = 256;
// The next multiple of kBlockAlignment. Throws MemoryError if bytes is negative or too large.
int64_t aligned_bytes(int64_t bytes);

// Where a device has a region: a GPU leaves what the network and files take to pinned memory of the host.
Place region_place(Region region, Device device);

// What a process takes of the host beside its slab: buffers of libraries and of the network, stacks, page tables. Of
// the nodes that were measured up to 9 MB.
inline constexpr int64_t kProcessBytes = int64_t{24} << 20;
// What is there for the slabs of so many processes that compute on the host.
AvailableMemory without_processes(AvailableMemory there, int64_t processes);

// What a node may take. On the CPU everything is the device's.
struct MemoryLimits {
  AvailableMemory device;
  AvailableMemory host;

  // What this process can still take for its slab.
  static MemoryLimits of(Backend& backend);
};

// Throws MemoryError unless so much is there: "a: the node needs 3.00 GiB, but only 2.00 GiB are there (...)", with
// `who_needs` up to the verb.
void require_memory(const std::string& who_needs, int64_t bytes, const AvailableMemory& there,
                    const std::string& of_it = "");

// Which blocks the slab of a node will have. Blocks lie in the order of their regions, and in a region in the order in
// which they were added.
class MemoryPlan {
 public:
  explicit MemoryPlan(Device device = Device::kCpu) : device_(device) {}

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
  int64_t bytes(Place place) const;
  int64_t total_bytes() const { return total_bytes_; }
  Device device() const { return device_; }

  // The table that a start and `--dry-run` print: a line for each block and the totals.
  std::string table() const;
  // Throws MemoryError, with the numbers, if there is not so much.
  void check_fits(const MemoryLimits& limits, const std::string& device_name) const;

 private:
  std::string by_region(Place place) const;

  Device device_;
  std::vector<Block> blocks_;
  int64_t total_bytes_ = 0;
};

// Memory of a device, or of the host.
struct MemoryBlock {
  std::span<std::byte> bytes;
  Device device = Device::kCpu;
};

// The one allocation of a node in each place that its plan has, zeroed. Owns the memory; tensors point into it.
// Immoveable; blocks may be used from any thread, whoever is handed one says how.
class Slab {
 public:
  // Throws MemoryError if there is not so much. The backend outlives the slab; its device is the plan's.
  Slab(const MemoryPlan& plan, Backend& backend);
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // The block that the plan added under this name; once each: a block belongs to whoever took it. Throws InternalError
  // if there is none or it was taken.
  MemoryBlock take(Region region, std::string_view name);

  int64_t bytes() const { return bytes_; }  // in all places
  Device device() const { return device_; }

 private:
  struct Entry {
    MemoryPlan::Block block;
    Place place;
    int64_t offset;
    bool taken;
  };
  struct Release {
    Runtime* runtime;
    Place place;
    int64_t bytes;
    void operator()(std::byte* data) const { runtime->release(place, data, bytes); }
  };
  using Memory = std::unique_ptr<std::byte, Release>;

  std::vector<Entry> entries_;
  int64_t bytes_ = 0;
  Device device_;
  std::map<Place, Memory> memory_;
};

// Carves tensors out of one block, each at a multiple of kBlockAlignment. Without a block it only measures: the same
// code plans the memory and lays it out, so the two can't differ.
class Arena {
 public:
  Arena() = default;  // measures; its tensors are empty
  explicit Arena(const MemoryBlock& block) : block_(block), measuring_(false) {}

  // Throws ShapeError or MemoryError on an overflow, InternalError if the block is too small.
  Tensor take(const Dims& shape, Dtype dtype);
  int64_t used_bytes() const { return used_bytes_; }

 private:
  MemoryBlock block_;
  int64_t used_bytes_ = 0;
  bool measuring_ = true;
};

}  // namespace skippipe
