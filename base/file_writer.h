// Writes a large file piece by piece so that a reader never sees half of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/file.h"

namespace skippipe {

// Collects the file under a temporary name in the same folder; publish() syncs and renames. Without publish() the
// temporary is removed and `path` stays as it was. A link is followed. One thread. Every member throws FileError, which
// names `path` and never the temporary.
class FileWriter {
 public:
  // Throws also where there is something at the path that is no regular file.
  explicit FileWriter(const OutputPath& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(std::span<const std::byte> bytes);
  // Overwrites bytes already written (a header whose fields are known at the end) and returns to the end.
  void overwrite(uint64_t offset, std::span<const std::byte> bytes);
  uint64_t bytes_written() const { return bytes_written_; }
  void publish();

 private:
  [[noreturn]] void fail(const char* what) const;  // of errno

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::string name_;
  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty: published
  std::unique_ptr<std::FILE, Close> file_;
  uint64_t bytes_written_ = 0;
};

// Before work that may take long: throws FileError unless a file can be written at the path, which stays as it is.
void require_writable_file(const OutputPath& path);
// The same for files in a folder that is there or will be made.
void require_writable_folder(const std::filesystem::path& folder);

}  // namespace skippipe
