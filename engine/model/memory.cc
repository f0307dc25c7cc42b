#include "engine/model/memory.h"

#include <algorithm>

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

Place region_place(Region region, Device device) {
  const bool outside = region == Region::kCommunication || region == Region::kCheckpoint;
  return device != Device::kCpu && outside ? Place::kHost : Place::kDevice;
}

int64_t aligned_bytes(int64_t bytes) {
  if (bytes < 0) throw MemoryError("found a size of {} bytes, expected none below zero", bytes);
  return add_bytes(bytes, kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

AvailableMemory without_processes(AvailableMemory there, int64_t processes) {
  const int64_t taken = std::min(there.bytes, processes * kProcessBytes);
  return {there.bytes - taken, fmt::format("{}, less {} for {}", there.bound, human_bytes(processes * kProcessBytes),
                                           processes == 1 ? "the process itself" : "the processes themselves")};
}

MemoryLimits MemoryLimits::of(Backend& backend) {
  Runtime& runtime = backend.runtime();
  const AvailableMemory host = without_processes(runtime.available(Place::kHost), 1);
  return {backend.device() == Device::kCpu ? host : runtime.available(Place::kDevice), host};
}

void require_memory(const std::string& who_needs, int64_t bytes, const AvailableMemory& there,
                    const std::string& of_it) {
  if (bytes > there.bytes)
    throw MemoryError("{} {}{}, but only {} are there ({})", who_needs, human_bytes(bytes), of_it,
                      human_bytes(there.bytes), there.bound);
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

int64_t MemoryPlan::bytes(Place place) const {
  int64_t sum = 0;
  for (const Block& block : blocks_)
    if (region_place(block.region, device_) == place) sum += block.bytes;
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
  const auto total = [&](const char* name, int64_t bytes) {
    result += line(name, "", bytes, fmt::format("{} bytes", bytes));
  };
  if (device_ == Device::kCpu) {
    total("total", total_bytes_);
  } else {
    total("on the GPU", bytes(Place::kDevice));
    total("on the host", bytes(Place::kHost));
  }
  return result;
}

std::string MemoryPlan::by_region(Place place) const {
  std::string parts;
  for (int i = 0; i < kRegionCount; ++i) {
    const Region region = static_cast<Region>(i);
    if (bytes(region) > 0 && region_place(region, device_) == place)
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", region_name(region), human_bytes(bytes(region)));
  }
  return parts;
}

void MemoryPlan::check_fits(const MemoryLimits& limits, const std::string& device_name) const {
  const auto check = [&](Place place, const AvailableMemory& there, const char* where) {
    require_memory(device_name + ": the node needs", bytes(place), there,
                   fmt::format("{} ({})", where, by_region(place)));
  };
  check(Place::kDevice, limits.device, "");
  check(Place::kHost, limits.host, " of pinned memory on the host");
}

Slab::Slab(const MemoryPlan& plan, Backend& backend) : bytes_(plan.total_bytes()), device_(backend.device()) {
  SKP_CHECK(plan.device() == device_, "a plan for {} on {}", device_name(plan.device()), device_name(device_));
  std::map<Place, int64_t> ends;
  for (const MemoryPlan::Block& block : plan.blocks()) {
    const Place place = region_place(block.region, device_);
    entries_.push_back({block, place, ends[place], false});
    ends[place] += block.bytes;
  }
  Runtime& runtime = backend.runtime();
  for (const auto& [place, bytes] : ends)
    memory_[place] = Memory(static_cast<std::byte*>(runtime.allocate(place, bytes)), {&runtime, place, bytes});
}

MemoryBlock Slab::take(Region region, std::string_view name) {
  for (Entry& entry : entries_) {
    if (entry.block.region != region || entry.block.name != name) continue;
    SKP_CHECK(!entry.taken, "block '{}' of {} was taken already", name, region_name(region));
    entry.taken = true;
    return {{memory_.at(entry.place).get() + entry.offset, static_cast<size_t>(entry.block.bytes)},
            entry.place == Place::kDevice ? device_ : Device::kCpu};
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
  SKP_CHECK(used_bytes_ <= static_cast<int64_t>(block_.bytes.size()), "a block of {} bytes is too small for {}",
            block_.bytes.size(), used_bytes_);
  return {block_.bytes.data() + begin, shape, dtype, block_.device};
}

}  // namespace skippipe
