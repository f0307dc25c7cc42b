// Memory that the host can't touch: the program knows an address where nobody may read or write, and what runs "on the
// device" finds the bytes at another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace skippipe::simt {

// A piece of device memory, zeroed. It begins at a multiple of 256 bytes and of no more, as a device promises no more.
class DevicePiece {
 public:
  // Throws MemoryError if the host has not so much.
  explicit DevicePiece(int64_t bytes);
  ~DevicePiece();
  DevicePiece(const DevicePiece&) = delete;
  DevicePiece& operator=(const DevicePiece&) = delete;

  std::byte* address() const;
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  // The program's addresses lie in the first half of the mapping, which is forbidden, the bytes in the second.
  size_t half_;
  std::byte* mapping_ = nullptr;
};

// Where the device finds the bytes from `address` on; an address that is no device memory's stands for itself. Throws
// KernelError if they do not lie in one piece. Any thread may ask.
//
// The pieces are the process's, not a runtime's, because a kernel's argument (Global) is made from an address alone.
const void* backing_of(const void* address, int64_t bytes);
inline void* backing_of(void* address, int64_t bytes) {
  return const_cast<void*>(backing_of(static_cast<const void*>(address), bytes));
}
template <typename T>
T* backing_of(T* data, int64_t count) {
  using Void = std::conditional_t<std::is_const_v<T>, const void, void>;
  return static_cast<T*>(backing_of(static_cast<Void*>(data), count * static_cast<int64_t>(sizeof(T))));
}

}  // namespace skippipe::simt
