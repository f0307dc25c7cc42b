#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/file_writer.h"

namespace skippipe {
namespace {

class Descriptor {
 public:
  Descriptor(const OutputPath& path, int flags) : fd_(open(path.place.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) throw FileError("{}: cannot open: {}", path.name.string(), std::strerror(errno));
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

// A link that leads nowhere, in the path or above it; empty: none.
std::filesystem::path dangling_link(const std::filesystem::path& path) {
  std::error_code error;
  for (std::filesystem::path part = path; !part.empty(); part = part.parent_path()) {
    if (std::filesystem::is_symlink(part, error) && !std::filesystem::exists(part, error)) return part;
    if (part == part.parent_path()) break;
  }
  return {};
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

[[noreturn]] void refuse_dangling(const std::filesystem::path& link) {
  std::error_code ignored;
  throw FileError("{}: a link to '{}', which is not there", link.string(),
                  std::filesystem::read_symlink(link, ignored).string());
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

void sync_folder(const OutputPath& folder) {
  const Descriptor file(folder, O_RDONLY | O_DIRECTORY);
  if (fsync(file.get()) != 0) throw FileError("{}: cannot sync: {}", folder.name.string(), std::strerror(errno));
}

std::filesystem::path follow_links(const std::filesystem::path& path) {
  if (const auto link = dangling_link(path); !link.empty()) refuse_dangling(link);
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  const std::filesystem::path target = std::filesystem::canonical(path, error);
  if (error) throw FileError("{}: cannot follow the link: {}", path.string(), error.message());
  return target;
}

void make_folder(const OutputPath& folder) {
  if (const auto link = dangling_link(folder.place); !link.empty()) refuse_dangling(link);
  std::error_code error;
  std::filesystem::create_directories(folder.place, error);
  if (error) throw FileError("{}: cannot create: {}", folder.name.string(), error.message());
}

void write_file_atomically(const OutputPath& path, std::string_view content) {
  FileWriter writer(path);
  writer.write(std::as_bytes(std::span(content)));
  writer.publish();
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
