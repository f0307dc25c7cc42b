// What a file is that is not what was expected.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"

namespace skippipe {

// So many bytes tell.
inline constexpr size_t kFileKindBytes = 512;

// In words, what a file's first bytes say that it is, if that is a kind that skippipe does not read: "a Git LFS
// pointer, not the file itself (`git lfs pull` fetches it)". Empty for anything else.
std::string foreign_file_kind(std::string_view first_bytes);

// An HTML page is text, too: an error page that was taken for a download, or what somebody wants to read.
bool is_html(std::string_view first_bytes);

// Throws FileError if the bytes are of such a kind, "NAME: not EXPECTED: found ..."; name stands for the file.
void refuse_foreign_file(std::string_view first_bytes, const std::string& name, std::string_view expected);

// What read() returns. Where it throws an Error and the file's bytes are of a kind that it could never read, throws a
// FileError that says so instead. For formats whose sound files can begin with any bytes.
template <typename Read>
auto naming_foreign_files(std::string_view bytes, const std::string& name, std::string_view expected, Read read)
    -> decltype(read()) {
  try {
    return read();
  } catch (const Error&) {
    refuse_foreign_file(bytes, name, expected);
    throw;
  }
}

}  // namespace skippipe
