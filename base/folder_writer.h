// Writes a folder of files so that a reader never sees half of it.
#pragma once

#include <filesystem>

namespace skippipe {

// Collects the files in a folder with a temporary name beside it; publish() syncs and renames. Without publish() the
// temporary folder is removed and `path` stays as it was. One thread. Every member throws FileError.
class FolderWriter {
 public:
  // Creates the temporary folder, and those above it that are missing.
  explicit FolderWriter(const std::filesystem::path& path);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  // Where to write the files; each must be synced by whoever writes it.
  const std::filesystem::path& folder() const { return temporary_; }
  // What `path` was before, if anything, is gone afterwards.
  void publish();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
};

}  // namespace skippipe
