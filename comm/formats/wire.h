// Little-endian fields of wire formats, at fixed offsets.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

namespace skippipe {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, and so must this machine be");

// The caller has checked that offset + sizeof(T) is within the bytes.
template <typename T>
void put_field(std::span<std::byte> bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <typename T>
T get_field(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

}  // namespace skippipe
