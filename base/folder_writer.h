// Writes a folder of files so that a reader never sees half of it.
#pragma once

#include <filesystem>
#include <string>

#include "base/file.h"

namespace skippipe {

// Collects the files in a folder with a temporary name beside it; publish() syncs and renames. Without publish() the
// temporary folder is removed and `path` stays as it was. A link is followed. One thread. Every member throws
// FileError, which names `path` and not the temporary folder.
class FolderWriter {
 public:
  // Creates the temporary folder, and those above it that are missing.
  explicit FolderWriter(const std::filesystem::path& path);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  // Where to write the files; each must be synced by whoever writes it.
  OutputPath folder() const { return {temporary_, name_}; }
  // What `path` was before, if anything, is gone afterwards.
  void publish();

 private:
  std::filesystem::path name_;  // as the user gave it
  std::filesystem::path path_;
  std::filesystem::path temporary_;
};

}  // namespace skippipe
