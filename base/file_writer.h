// Writes a large file piece by piece so that a reader never sees half of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>

namespace skippipe {

// Collects the file under a temporary name in the same folder; publish() syncs and renames. Without publish() the
// temporary is removed and `path` stays as it was. One thread. Every member throws FileError.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(std::span<const std::byte> bytes);
  // Overwrites bytes already written (a header whose fields are known at the end) and returns to the end.
  void overwrite(uint64_t offset, std::span<const std::byte> bytes);
  uint64_t bytes_written() const { return bytes_written_; }
  void publish();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::unique_ptr<std::FILE, Close> file_;
  uint64_t bytes_written_ = 0;
};

}  // namespace skippipe
