// Files: reading whole ones, mapping large ones, and writing so that a reader never sees half of one.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace skippipe {

// The whole file. Throws FileError if it can't be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes = 64ull << 20);

// Where something is written, and what messages call it meanwhile: by the name that it will have, which is what the
// user knows. A plain path is both.
struct OutputPath {
  template <std::convertible_to<std::filesystem::path> Path>
  OutputPath(const Path& path) : place(path), name(place) {}  // NOLINT(google-explicit-constructor): a path is one
  OutputPath(std::filesystem::path where, std::filesystem::path called)
      : place(std::move(where)), name(std::move(called)) {}
  friend OutputPath operator/(const OutputPath& folder, const std::filesystem::path& file) {
    return {folder.place / file, folder.name / file};
  }

  std::filesystem::path place;
  std::filesystem::path name;
};

// Writes under a temporary name in the same folder, syncs, renames. Throws FileError; then path is as it was.
void write_file_atomically(const OutputPath& path, std::string_view content);

// What `path` leads to through symbolic links: what is written there lands where the user's link points. Throws
// FileError naming the link if it leads nowhere.
std::filesystem::path follow_links(const std::filesystem::path& path);

// Creates the folder, and those above it that are missing. Throws FileError.
void make_folder(const OutputPath& folder);

// What was created, renamed or removed in the folder survives a crash afterwards. Throws FileError.
void sync_folder(const OutputPath& folder);

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
