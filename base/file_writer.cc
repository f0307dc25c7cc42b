#include "base/file_writer.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace skippipe {

FileWriter::FileWriter(std::filesystem::path path) : path_(std::move(path)), temporary_(temporary_path(path_)) {
  file_.reset(std::fopen(temporary_.c_str(), "wbe"));
  if (!file_) throw FileError("{}: cannot create: {}", path_.string(), std::strerror(errno));
}

FileWriter::~FileWriter() {
  if (temporary_.empty()) return;
  file_.reset();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size())
    throw FileError("{}: cannot write: {}", path_.string(), std::strerror(errno));
  bytes_written_ += bytes.size();
}

void FileWriter::overwrite(uint64_t offset, std::span<const std::byte> bytes) {
  SKP_CHECK(offset <= bytes_written_ && bytes.size() <= bytes_written_ - offset, "{} bytes at {} of {}", bytes.size(),
            offset, bytes_written_);
  const bool done = fseeko(file_.get(), static_cast<off_t>(offset), SEEK_SET) == 0 &&
                    std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size() &&
                    fseeko(file_.get(), 0, SEEK_END) == 0;
  if (!done) throw FileError("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

void FileWriter::publish() {
  SKP_CHECK(file_ != nullptr, "{} was published before", path_.string());
  if (std::fclose(file_.release()) != 0)  // writes the last buffer
    throw FileError("{}: cannot write: {}", path_.string(), std::strerror(errno));
  publish_file(temporary_, path_);
  temporary_.clear();
}

}  // namespace skippipe
