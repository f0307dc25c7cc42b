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

void rename_folder(const fs::path& from, const fs::path& to, const fs::path& name) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw FileError("{}: cannot be replaced: {}", name.string(), error.message());
}

}  // namespace

FolderWriter::FolderWriter(const fs::path& path)
    : name_(path), path_(follow_links(without_trailing_slash(path))), temporary_(hidden_beside(path_, "tmp")) {
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (error) throw FileError("{}: cannot create: {}", name_.string(), error.message());
  make_folder(folder());
}

FolderWriter::~FolderWriter() {
  if (temporary_.empty()) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void FolderWriter::publish() {
  sync_folder(folder());
  const fs::path old = hidden_beside(path_, "old");
  const bool replaces = fs::exists(path_);
  if (replaces) rename_folder(path_, old, name_);
  try {
    rename_folder(temporary_, path_, name_);
  } catch (const FileError&) {
    std::error_code ignored;
    if (replaces) fs::rename(old, path_, ignored);
    throw;
  }
  temporary_.clear();
  sync_folder(path_.parent_path());
  std::error_code error;
  if (replaces) fs::remove_all(old, error);
  if (error)
    throw FileError("{}: what it replaced is still there as {}: {}", name_.string(), old.string(), error.message());
}

}  // namespace skippipe
