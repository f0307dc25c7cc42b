#include "engine/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>

#include "base/error.h"

namespace skippipe {
namespace {

int64_t add_bytes(int64_t a, int64_t b) {
  int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) throw MemoryError("the sizes in memory add up to more than 2^63 bytes");
  return sum;
}

}  // namespace

const char* region_name(Region region) {
  switch (region) {
    case Region::kWeights:
      return "weights";
    case Region::kGradients:
      return "gradients";
    case Region::kOptimizer:
      return "optimizer";
    case Region::kActivations:
      return "activations";
    case Region::kWorkspace:
      return "workspace";
    case Region::kCommunication:
      return "communication";
    case Region::kCheckpoint:
      return "checkpoint";
  }
  throw InternalError("no region has the number {}", static_cast<int>(region));
}

int64_t aligned_bytes(int64_t bytes) {
  if (bytes < 0) throw MemoryError("found a size of {} bytes, expected none below zero", bytes);
  return add_bytes(bytes, kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

void MemoryPlan::add(Region region, std::string name, int64_t bytes, std::string note) {
  const int64_t aligned = aligned_bytes(bytes);
  const int64_t total = add_bytes(total_bytes_, aligned);
  for (const Block& block : blocks_)
    SKP_CHECK(block.region != region || block.name != name, "{} has a block '{}' already", region_name(region), name);
  const auto place = std::upper_bound(blocks_.begin(), blocks_.end(), region,
                                      [](Region left, const Block& right) { return left < right.region; });
  blocks_.insert(place, {region, std::move(name), aligned, std::move(note)});
  total_bytes_ = total;
}

int64_t MemoryPlan::bytes(Region region) const {
  int64_t sum = 0;
  for (const Block& block : blocks_)
    if (block.region == region) sum += block.bytes;
  return sum;
}

std::string MemoryPlan::table() const {
  size_t name_width = 5;
  for (const Block& block : blocks_) name_width = std::max(name_width, block.name.size());
  const auto line = [&](std::string_view region, std::string_view name, int64_t bytes, std::string_view note) {
    std::string text = fmt::format("{:<14} {:<{}} {:>12}  {}", region, name, name_width, human_bytes(bytes), note);
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string result;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const bool first = i == 0 || blocks_[i - 1].region != block.region;
    result += line(first ? region_name(block.region) : "", block.name, block.bytes, block.note);
  }
  return result + line("total", "", total_bytes_, fmt::format("{} bytes", total_bytes_));
}

void MemoryPlan::check_fits(int64_t limit_bytes, const std::string& device_name) const {
  if (total_bytes_ <= limit_bytes) return;
  std::string parts;
  for (int i = 0; i < kRegionCount; ++i) {
    const Region region = static_cast<Region>(i);
    if (bytes(region) > 0)
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", region_name(region), human_bytes(bytes(region)));
  }
  throw MemoryError("{}: the node needs {} ({}), but only {} are there", device_name, human_bytes(total_bytes_), parts,
                    human_bytes(limit_bytes));
}

Slab::Slab(const MemoryPlan& plan) : bytes_(plan.total_bytes()) {
  int64_t offset = 0;
  for (const MemoryPlan::Block& block : plan.blocks()) {
    entries_.push_back({block, offset, false});
    offset += block.bytes;
  }
  const size_t taken = static_cast<size_t>(std::max(bytes_, kBlockAlignment));  // an empty map is an error
  void* memory = mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw MemoryError("the host refused {} ({} bytes) for the slab", human_bytes(bytes_), bytes_);
  data_ = {static_cast<std::byte*>(memory), Unmap{taken}};
  ++device_allocations_;
  // Large pages spare the matrix products most of their misses in the page table; a wish that may be refused.
  madvise(memory, taken, MADV_HUGEPAGE);
  std::memset(memory, 0, taken);  // every page is there from now on
}

void Slab::Unmap::operator()(std::byte* data) const { munmap(data, bytes); }

std::span<std::byte> Slab::take(Region region, std::string_view name) {
  for (Entry& entry : entries_) {
    if (entry.block.region != region || entry.block.name != name) continue;
    SKP_CHECK(!entry.taken, "block '{}' of {} was taken already", name, region_name(region));
    entry.taken = true;
    return {data_.get() + entry.offset, static_cast<size_t>(entry.block.bytes)};
  }
  throw InternalError("the memory plan has no block '{}' in {}", name, region_name(region));
}

Tensor Arena::take(const Dims& shape, Dtype dtype) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(element_count(shape), dtype_bytes(dtype), &bytes))
    throw MemoryError("a tensor of {} needs more than 2^63 bytes", shape.to_string());
  const int64_t begin = used_bytes_;
  used_bytes_ = add_bytes(used_bytes_, aligned_bytes(bytes));
  if (measuring_) return {nullptr, shape, dtype};
  SKP_CHECK(used_bytes_ <= static_cast<int64_t>(block_.size()), "a block of {} bytes is too small for {}",
            block_.size(), used_bytes_);
  return {block_.data() + begin, shape, dtype};
}

}  // namespace skippipe
