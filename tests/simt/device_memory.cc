#include "tests/simt/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <shared_mutex>

#include "base/error.h"
#include "tests/simt/block.h"

namespace skippipe::simt {
namespace {

constexpr int64_t kAlignment = 256;

// Device addresses and what stands behind them.
class AddressMap {
 public:
  void add(const std::byte* address, int64_t bytes, const std::byte* backing) {
    const std::lock_guard lock(mutex_);
    pieces_[address] = {bytes, backing};
  }
  void remove(const std::byte* address) {
    const std::lock_guard lock(mutex_);
    pieces_.erase(address);
  }
  const void* find(const std::byte* address, int64_t bytes) const {
    const std::shared_lock lock(mutex_);
    auto piece = pieces_.upper_bound(address);
    if (piece == pieces_.begin()) return address;
    const auto& [begin, found] = *--piece;
    const int64_t offset = address - begin;
    if (offset >= found.bytes) return address;
    if (offset + bytes > found.bytes)
      throw KernelError(
          format("bytes {} to {} of a piece of device memory of {} bytes", offset, offset + bytes, found.bytes));
    return found.backing + offset;
  }

 private:
  struct Piece {
    int64_t bytes;
    const std::byte* backing;
  };
  mutable std::shared_mutex mutex_;
  std::map<const std::byte*, Piece> pieces_;
};

AddressMap& address_map() {
  static AddressMap map;
  return map;
}

// Such that the piece, which begins kAlignment behind the half's begin, fits.
size_t half_bytes(int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  return static_cast<size_t>((bytes + kAlignment + page - 1) / page * page);
}

}  // namespace

DevicePiece::DevicePiece(int64_t bytes) : bytes_(bytes), half_(half_bytes(bytes)) {
  void* const memory = mmap(nullptr, 2 * half_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw MemoryError("the host refused {} bytes to stand for a device's", bytes);
  mapping_ = static_cast<std::byte*>(memory);
  if (mprotect(mapping_ + half_, half_, PROT_READ | PROT_WRITE) != 0) {
    munmap(mapping_, 2 * half_);
    throw MemoryError("the host refused {} bytes to stand for a device's", bytes);
  }
  address_map().add(address(), bytes_, address() + half_);
}

DevicePiece::~DevicePiece() {
  address_map().remove(address());
  munmap(mapping_, 2 * half_);
}

std::byte* DevicePiece::address() const { return mapping_ + kAlignment; }

const void* backing_of(const void* address, int64_t bytes) {
  return address_map().find(static_cast<const std::byte*>(address), bytes);
}

}  // namespace skippipe::simt
