#include "tests/simt/hopper.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/format.h"

namespace skippipe::simt {
namespace {

constexpr size_t kRows = 64;  // of a product
constexpr size_t kSumLength = 16;
constexpr size_t kPanelBytes = 128;  // of a row

// Fields of a descriptor, in bytes.
size_t field(uint64_t descriptor, int shift) { return (descriptor >> shift & 0x3fff) << 4; }

float half_of(uint32_t packed, size_t which) {
  return std::bit_cast<float>(which == 0 ? packed << 16 : packed & 0xffff0000u);
}

}  // namespace

Hopper::Hopper(Block& block)
    : block_(block),
      threads_(static_cast<size_t>(block.launch().threads)),
      warpgroups_(static_cast<size_t>(block.launch().threads / kWarpgroup)),
      begun_(static_cast<size_t>(block.launch().threads / kWarp)) {}

Hopper& Hopper::current() {
  Block& block = Block::current();
  if (block.hopper_ == nullptr) block.hopper_.reset(new Hopper(block));
  return *block.hopper_;
}

Hopper::Thread& Hopper::me() { return threads_[static_cast<size_t>(block_.thread_)]; }
Hopper::Clock& Hopper::my_clock() { return block_.warps_[static_cast<size_t>(block_.warp())].clock; }

// ---------------------------------------------------------------------------------------------------- barriers

void Hopper::init(const void* at, int arrivals) {
  block_.touch_shared(at, 8, Block::Access::kWrite);
  if (arrivals < 1 || arrivals >= 1 << 20) block_.fail(format("makes a barrier for {} arrivals", arrivals));
  const Clock none(my_clock().size(), 0);
  barriers_[at] = {.initialized_by = block_.thread_,
                   .arrivals = arrivals,
                   .missing = arrivals,
                   .arrived = none,
                   .over = none,
                   .waiting = {}};
}

void Hopper::publish() {
  for (auto& [at, barrier] : barriers_) barrier.published |= barrier.initialized_by == block_.thread_;
}

Hopper::MemoryBarrier& Hopper::barrier(const void* at) {
  block_.touch_shared(at, 8, Block::Access::kRead);
  const auto found = barriers_.find(at);
  if (found == barriers_.end()) block_.fail("uses a barrier that nobody has initialized");
  return found->second;
}

void Hopper::arrive(const void* at, int64_t bytes) {
  MemoryBarrier& b = barrier(at);
  if (b.missing == 0) block_.fail(format("is the arrival after the {} that a phase of the barrier has", b.arrivals));
  b.bytes += bytes;
  Clock& mine = my_clock();
  for (size_t w = 0; w < mine.size(); ++w) b.arrived[w] = std::max(b.arrived[w], mine[w]);
  ++mine[static_cast<size_t>(block_.warp())];  // what comes now, those that wait do not know of
  --b.missing;
  end_phase(b);
}

void Hopper::end_phase(MemoryBarrier& b) {
  if (b.missing > 0 || b.bytes != 0) return;
  for (size_t w = 0; w < b.over.size(); ++w) b.over[w] = std::max(b.over[w], b.arrived[w]);
  b.missing = b.arrivals;
  ++b.phase;
  for (const int thread : b.waiting) block_.threads_[static_cast<size_t>(thread)].waits_for = nullptr;
  b.waiting.clear();
}

void Hopper::wait(const void* at, int parity) {
  if (parity != 0 && parity != 1) block_.fail(format("waits for the phase of parity {}", parity));
  MemoryBarrier& b = barrier(at);
  while (static_cast<int>(b.phase & 1) == parity) {
    b.waiting.push_back(block_.thread_);
    block_.wait("a barrier in shared memory");
  }
  acquire(b.over);
}

void Hopper::acquire(const Clock& clock) {
  Clock& mine = my_clock();
  for (size_t w = 0; w < mine.size(); ++w) mine[w] = std::max(mine[w], clock[w]);
}

// ---------------------------------------------------------------------------------------------------- copies

void Hopper::fence_for_async() { ++block_.threads_[static_cast<size_t>(block_.thread_)].async_fences; }

void Hopper::copy(std::vector<Piece> pieces, const void* at) {
  const MemoryBarrier& b = barrier(at);
  if (!b.published) block_.fail("hands a copy a barrier that was not published");
  for (const Piece& piece : pieces) block_.begin_async_write(piece.to);
  copies_.push_back({std::move(pieces), at});
}

bool Hopper::end_copy() {
  if (copies_.empty()) return false;
  const auto which = copies_.begin() + static_cast<std::ptrdiff_t>(block_.order_.below(copies_.size()));
  const Copy copy = std::move(*which);
  copies_.erase(which);
  ++copies_ended_;
  for (const Piece& piece : copy.pieces) {
    std::memcpy(piece.to, piece.bytes.data(), piece.bytes.size());
    block_.end_async_write(piece.to, copies_ended_);
  }
  MemoryBarrier& b = barriers_.at(copy.barrier);
  b.arrived.back() = copies_ended_;
  b.bytes -= static_cast<int64_t>(copy.pieces.size() * 16);
  end_phase(b);
  return true;
}

// ---------------------------------------------------------------------------------------------------- products

Hopper::Fenced* Hopper::find(Thread& thread, const void* at, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(at);
  for (Fenced& fenced : thread.fenced)
    if (first >= fenced.at && first + bytes <= fenced.at + fenced.bytes.size()) return &fenced;
  return nullptr;
}

void Hopper::fence(const std::vector<Registers>& all) {
  Thread& mine = me();
  for (const Registers& registers : all) {
    auto* const at = static_cast<std::byte*>(registers.at);
    if (Fenced* const known = find(mine, at, registers.bytes); known != nullptr && known->products > 0) continue;
    std::erase_if(mine.fenced, [&](const Fenced& old) {
      return old.products == 0 && old.at < at + registers.bytes && at < old.at + old.bytes.size();
    });
    mine.fenced.push_back({at, {at, at + registers.bytes}});
  }
}

void Hopper::multiply(const Product& product) {
  Thread& mine = me();
  Pending pending{.product = product};
  const auto use = [&](const void* registers, size_t bytes) {
    Fenced* const fenced = find(mine, registers, bytes);
    if (fenced == nullptr) block_.fail("multiplies with registers that no fence has named since they were last used");
    const auto* at = static_cast<const std::byte*>(registers);
    if (fenced->products == 0 && std::memcmp(at, &fenced->bytes[static_cast<size_t>(at - fenced->at)], bytes) != 0)
      block_.fail("multiplies with registers that were written after the fence");
    return fenced;
  };
  if (product.a_registers != nullptr) {
    ++use(product.a_registers, sizeof(pending.a))->products;
    std::memcpy(pending.a.data(), product.a_registers, sizeof(pending.a));
  }
  const size_t bytes = static_cast<size_t>(product.columns) / 2 * sizeof(float);
  Fenced* const sums = use(product.sums, bytes);
  if (sums->bytes.size() != bytes) block_.fail("multiplies into a part of the registers that the fence named");
  ++sums->products;
  sums->are_sums = true;
  std::fill_n(product.sums, product.columns / 2, std::numeric_limits<float>::quiet_NaN());  // until they are waited for
  mine.pending.push_back(pending);
  // By the first of the warp's lanes, before what another does next makes more known to the warp.
  int& begun = begun_[static_cast<size_t>(block_.warp())];
  if (++mine.begun <= begun) return;
  begun = mine.begun;
  mine.pending.back().seen = read_operands(product);
}

void Hopper::commit() {
  Thread& mine = me();
  for (Pending& pending : mine.pending)
    if (pending.group < 0) pending.group = mine.groups;
  ++mine.groups;
}

void Hopper::wait_products(int pending, const std::vector<Registers>& ended) {
  const int first_thread = block_.thread_ / kWarpgroup * kWarpgroup;
  if (first_thread + kWarpgroup > block_.launch().threads) block_.fail("is in no whole warpgroup");
  Warpgroup& group = warpgroups_[static_cast<size_t>(block_.thread_ / kWarpgroup)];
  if (group.arrived > 0 && group.pending != pending)
    block_.fail(format("waits until {} groups of products are under way, others of its warpgroup until {}", pending,
                       group.pending));
  group.pending = pending;
  if (++group.arrived < kWarpgroup) {
    block_.wait("the products of its warpgroup");
  } else {
    group.arrived = 0;
    finish(first_thread, pending);
    for (int t = first_thread; t < first_thread + kWarpgroup; ++t)
      block_.threads_[static_cast<size_t>(t)].waits_for = nullptr;
  }
  for (const Registers& registers : ended)
    for (const Fenced& fenced : me().fenced)
      if (fenced.products > 0 && fenced.at == registers.at)
        block_.fail("waits for registers that a product under way may use");
}

// The oldest product of each of a warpgroup's threads at a time, which must be the same.
void Hopper::finish(int first_thread, int pending) {
  const auto threads = threads_.begin() + first_thread;
  const auto ends = [&](const Thread& thread) {
    return !thread.pending.empty() && thread.pending.front().group >= 0 &&
           thread.pending.front().group < thread.groups - pending;
  };
  while (ends(threads[0])) {
    std::vector<Pending> brought;
    for (int t = 0; t < kWarpgroup; ++t) {
      if (!ends(threads[t])) block_.fail("waits for other products than the rest of its warpgroup");
      brought.push_back(threads[t].pending.front());
      threads[t].pending.erase(threads[t].pending.begin());
    }
    compute(first_thread, brought);
    for (int t = 0; t < kWarpgroup; ++t) {
      const Product& product = brought[static_cast<size_t>(t)].product;
      if (product.a_registers != nullptr) end_use(threads[t], product.a_registers);
      end_use(threads[t], product.sums);
    }
  }
  for (int t = 0; t < kWarpgroup; ++t)
    if (ends(threads[t])) block_.fail("waits for other products than the rest of its warpgroup");
}

void Hopper::end_use(Thread& thread, const void* at) {
  Fenced* const fenced = find(thread, at, sizeof(float));
  if (--fenced->products > 0) return;
  if (fenced->are_sums) std::memcpy(fenced->at, fenced->bytes.data(), fenced->bytes.size());
  thread.fenced.erase(thread.fenced.begin() + (fenced - thread.fenced.data()));
}

void Hopper::compute(int first_thread, const std::vector<Pending>& brought) {
  const Product& product = brought[0].product;
  const auto columns = static_cast<size_t>(product.columns);
  for (const Pending& other : brought)
    if (other.product.columns != product.columns || other.product.b != product.b || other.product.add != product.add ||
        (other.product.a_registers == nullptr) != (product.a_registers == nullptr) ||
        (product.a_registers == nullptr && other.product.a != product.a))
      block_.fail("multiplies other operands than the rest of its warpgroup");
  // All its warps read now, at the latest.
  const int asking = block_.thread_;
  for (int warp = 0; warp < kWarpgroup / kWarp; ++warp) {
    block_.thread_ = first_thread + warp * kWarp;
    const uint64_t seen = read_operands(product);
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto& before = brought[static_cast<size_t>(warp * kWarp + lane)].seen;
      if (before.has_value() && *before != seen)
        block_.fail("race: a tile was written while a product under way read it");
    }
  }
  block_.thread_ = asking;

  std::vector<float> a(kRows * kSumLength), b(kSumLength * columns), sums(kRows * columns, 0.0f);
  for (size_t t = 0; t < brought.size(); ++t) {
    const Pending& mine = brought[t];
    const size_t row = t / kWarp * 16 + t % kWarp / 4, k = 2 * (t % 4);
    if (mine.product.a_registers == nullptr) continue;
    if (std::memcmp(mine.product.a_registers, mine.a.data(), sizeof(mine.a)) != 0)
      block_.fail("has written registers that a product under way reads");
    for (size_t i = 0; i < 4; ++i)
      for (size_t h = 0; h < 2; ++h) a[(row + i % 2 * 8) * kSumLength + k + i / 2 * 8 + h] = half_of(mine.a[i], h);
  }
  if (product.a_registers == nullptr)
    for (size_t i = 0; i < a.size(); ++i) a[i] = shared_element(row_element(product.a, i / kSumLength, i % kSumLength));
  for (size_t k = 0; k < kSumLength; ++k)
    for (size_t column = 0; column < columns; ++column)
      b[k * columns + column] = shared_element(product.a_registers == nullptr ? row_element(product.b, column, k)
                                                                              : column_element(product.b, k, column));
  for (size_t row = 0; row < kRows; ++row)
    for (size_t k = 0; k < kSumLength; ++k)
      for (size_t column = 0; column < columns; ++column)
        sums[row * columns + column] += a[row * kSumLength + k] * b[k * columns + column];

  for (size_t t = 0; t < brought.size(); ++t) {
    Fenced* const fenced =
        find(threads_[static_cast<size_t>(first_thread) + t], brought[t].product.sums, columns / 2 * sizeof(float));
    for (size_t i = 0; i < columns / 2; ++i) {
      const size_t row = t / kWarp * 16 + t % kWarp / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * (t % 4) + i % 2;
      float sum = 0;
      std::byte* const place = &fenced->bytes[i * sizeof(float)];
      if (product.add) std::memcpy(&sum, place, sizeof(sum));
      sum += sums[row * columns + column];
      std::memcpy(place, &sum, sizeof(sum));
    }
  }
}

// What the thread's warp reads of shared memory: its 16 rows of a, and all of b.
uint64_t Hopper::read_operands(const Product& product) {
  uint64_t seen = 0;
  const auto read = [&](size_t at) { seen = seen * 31 + block_.touch_shared_async(block_.shared() + at); };
  const auto columns = static_cast<size_t>(product.columns);
  const size_t first_row = static_cast<size_t>(block_.warp()) % (kWarpgroup / kWarp) * 16;
  constexpr size_t kChunk = 8;
  const auto read_rows = [&](uint64_t descriptor, size_t first, size_t count) {
    for (size_t row = first; row < first + count; ++row)
      for (size_t k = 0; k < kSumLength; k += kChunk) read(row_element(descriptor, row, k));
  };
  if (product.a_registers == nullptr) {
    read_rows(product.a, first_row, 16);
    read_rows(product.b, 0, columns);
  } else {
    for (size_t k = 0; k < kSumLength; ++k)
      for (size_t column = 0; column < columns; column += kChunk) read(column_element(product.b, k, column));
  }
  return seen;
}

size_t Hopper::row_element(uint64_t descriptor, size_t row, size_t k) {
  return swizzled(field(descriptor, 0) + row / 8 * field(descriptor, 32) + row % 8 * kPanelBytes +
                  k * sizeof(uint16_t));
}

size_t Hopper::column_element(uint64_t descriptor, size_t k, size_t column) {
  constexpr size_t kColumns = kPanelBytes / sizeof(uint16_t);
  return swizzled(field(descriptor, 0) + column / kColumns * field(descriptor, 16) + k / 8 * field(descriptor, 32) +
                  k % 8 * kPanelBytes + column % kColumns * sizeof(uint16_t));
}

float Hopper::shared_element(size_t at) const {
  uint16_t bits = 0;
  std::memcpy(&bits, block_.shared_.data() + at, sizeof(bits));
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

void Hopper::check_end_of_thread() {
  if (!me().pending.empty()) block_.fail("ends while its products are under way");
}

}  // namespace skippipe::simt
