#include "base/folder_writer.h"

#include <unistd.h>

#include <system_error>

#include "base/error.h"
#include "base/file.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

fs::path without_trailing_slash(const fs::path& path) {
  const fs::path absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

fs::path hidden_beside(const fs::path& path, const char* what) {
  return path.parent_path() / fmt::format(".{}.{}.{}", path.filename().string(), what, getpid());
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw FileError("{}: cannot rename from {}: {}", to.string(), from.string(), error.message());
}

}  // namespace

FolderWriter::FolderWriter(const fs::path& path)
    : path_(without_trailing_slash(path)), temporary_(hidden_beside(path_, "tmp")) {
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (!error) fs::create_directories(temporary_, error);
  if (error) throw FileError("{}: cannot create: {}", path_.string(), error.message());
}

FolderWriter::~FolderWriter() {
  if (temporary_.empty()) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void FolderWriter::publish() {
  sync_folder(temporary_);
  const fs::path old = hidden_beside(path_, "old");
  const bool replaces = fs::exists(path_);
  if (replaces) rename_folder(path_, old);
  try {
    rename_folder(temporary_, path_);
  } catch (const FileError&) {
    std::error_code ignored;
    if (replaces) fs::rename(old, path_, ignored);
    throw;
  }
  temporary_.clear();
  sync_folder(path_.parent_path());
  std::error_code error;
  if (replaces) fs::remove_all(old, error);
  if (error) throw FileError("{}: cannot remove what was replaced: {}", old.string(), error.message());
}

}  // namespace skippipe
