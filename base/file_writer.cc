#include "base/file_writer.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

// A name in the same folder that no other thread or process gets.
fs::path temporary_beside(const fs::path& path) {
  fs::path temporary = path;
  temporary += ".tmp." + std::to_string(gettid());
  return temporary;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

}  // namespace

FileWriter::FileWriter(const OutputPath& path)
    : name_(path.name.string()), path_(follow_links(path.place)), temporary_(temporary_beside(path_)) {
  std::error_code ignored;
  const fs::file_status there = fs::status(path_, ignored);
  if (fs::is_directory(there)) throw FileError("{}: cannot be replaced: {}", name_, std::strerror(EISDIR));
  if (fs::exists(there) && !fs::is_regular_file(there))
    throw FileError("{}: cannot be replaced: not a regular file", name_);
  file_.reset(std::fopen(temporary_.c_str(), "wbe"));
  if (!file_) fail("cannot create");
}

FileWriter::~FileWriter() {
  if (temporary_.empty()) return;
  file_.reset();
  std::error_code ignored;
  fs::remove(temporary_, ignored);
}

void FileWriter::fail(const char* what) const { throw FileError("{}: {}: {}", name_, what, std::strerror(errno)); }

void FileWriter::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) fail("cannot write");
  bytes_written_ += bytes.size();
}

void FileWriter::overwrite(uint64_t offset, std::span<const std::byte> bytes) {
  SKP_CHECK(offset <= bytes_written_ && bytes.size() <= bytes_written_ - offset, "{} bytes at {} of {}", bytes.size(),
            offset, bytes_written_);
  const bool done = fseeko(file_.get(), static_cast<off_t>(offset), SEEK_SET) == 0 &&
                    std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size() &&
                    fseeko(file_.get(), 0, SEEK_END) == 0;
  if (!done) fail("cannot write");
}

void FileWriter::publish() {
  SKP_CHECK(file_ != nullptr, "{} was published before", name_);
  if (std::fflush(file_.get()) != 0) fail("cannot write");  // the last buffer
  if (fsync(fileno(file_.get())) != 0) fail("cannot sync");
  if (std::fclose(file_.release()) != 0) fail("cannot write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be replaced");
  temporary_.clear();
  sync_folder({folder_of(path_), name_});
}

void require_writable_file(const OutputPath& path) { const FileWriter writer(path); }

void require_writable_folder(const fs::path& folder) {
  std::error_code ignored;
  fs::path there = fs::absolute(folder);
  while (!fs::exists(there, ignored) && there != there.parent_path()) {
    if (fs::is_symlink(there, ignored)) follow_links(there);  // it leads nowhere, which is told
    there = there.parent_path();
  }
  if (!fs::is_directory(there, ignored))
    throw FileError("{}: cannot create: {} is no folder", folder.string(), there.string());
  require_writable_file({there / "any", folder});
}

}  // namespace skippipe
