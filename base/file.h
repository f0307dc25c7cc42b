// Files: reading whole ones, mapping large ones, and writing so that a reader never sees half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace skippipe {

// The whole file. Throws FileError if it can't be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes = 64ull << 20);

// Writes under a temporary name in the same folder, syncs, renames. Throws FileError; then path is as it was.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

// What was created, renamed or removed in the folder survives a crash afterwards. Throws FileError.
void sync_folder(const std::filesystem::path& folder);

// A name in the same folder that no other thread or process gets.
std::filesystem::path temporary_path(const std::filesystem::path& path);

// Syncs the file, then renames it and syncs the folder. Throws FileError.
void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

// A read-only memory map. Throws FileError. Moveable; bytes() stays valid until destruction.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Gives the memory of whole pages in a part of bytes() back; reading it again reads the file again.
  void release(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace skippipe
