#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file_kind.h"

namespace skippipe {
namespace {

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags, mode_t mode = 0)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) throw FileError("{}: cannot open: {}", path.string(), std::strerror(errno));
  }
  ~Descriptor() { close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

uint64_t regular_file_size(const Descriptor& file, const std::filesystem::path& path) {
  struct stat info {};
  if (fstat(file.get(), &info) != 0) throw FileError("{}: cannot stat: {}", path.string(), std::strerror(errno));
  if (!S_ISREG(info.st_mode)) throw FileError("{}: not a regular file", path.string());
  return static_cast<uint64_t>(info.st_size);
}

std::string read_bytes(const Descriptor& file, uint64_t size, const std::filesystem::path& path) {
  std::string content(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file.get(), content.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw FileError("{}: cannot read: {}", path.string(), std::strerror(errno));
    if (n == 0) throw FileError("{}: ended after {} of {} bytes", path.string(), done, size);
    done += static_cast<size_t>(n);
  }
  return content;
}

void sync_descriptor(const Descriptor& file, const std::filesystem::path& path) {
  if (fsync(file.get()) != 0) throw FileError("{}: cannot sync: {}", path.string(), std::strerror(errno));
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

std::string read_file(const std::filesystem::path& path, uint64_t max_bytes) {
  const Descriptor file(path, O_RDONLY);
  const uint64_t size = regular_file_size(file, path);
  if (size <= max_bytes) return read_bytes(file, size, path);
  refuse_foreign_file(read_bytes(file, std::min<uint64_t>(size, kFileKindBytes), path), path.string(),
                      format("a file of at most {} bytes", max_bytes));
  throw FileError("{}: {} bytes, expected at most {}", path.string(), size, max_bytes);
}

void sync_folder(const std::filesystem::path& folder) {
  sync_descriptor(Descriptor(folder, O_RDONLY | O_DIRECTORY), folder);
}

std::filesystem::path temporary_path(const std::filesystem::path& path) {
  std::filesystem::path temporary = path;
  temporary += ".tmp." + std::to_string(gettid());
  return temporary;
}

void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& path) {
  sync_descriptor(Descriptor(temporary, O_RDONLY), temporary);
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    throw FileError("{}: cannot rename from {}: {}", path.string(), temporary.string(), std::strerror(errno));
  sync_folder(folder_of(path));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  const std::filesystem::path temporary = temporary_path(path);
  try {
    {
      const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
      size_t done = 0;
      while (done < content.size()) {
        const ssize_t n = write(file.get(), content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw FileError("{}: cannot write: {}", temporary.string(), std::strerror(errno));
        done += static_cast<size_t>(n);
      }
    }
    publish_file(temporary, path);
  } catch (const FileError&) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  size_ = regular_file_size(file, path);
  if (size_ == 0) return;
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) throw FileError("{}: cannot map {} bytes: {}", path.string(), size_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(mapped);
}

void MappedFile::release(std::span<const std::byte> part) const {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data()) & ~(page - 1);
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // advice: it may fail
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace skippipe
