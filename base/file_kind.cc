#include "base/file_kind.h"

#include <algorithm>

namespace skippipe {
namespace {

using std::string_view_literals::operator""sv;

struct Beginning {
  std::string_view bytes;
  const char* kind;
};
constexpr Beginning kBeginnings[] = {
    {"version https://git-lfs.github.com/spec/"sv,
     "a Git LFS pointer, not the file itself (`git lfs pull` fetches it)"},
    {"/annex/objects/"sv, "a git-annex pointer, not the file itself (`git annex get` fetches it)"},
    {"\x1f\x8b"sv, "a file compressed by gzip"},
    {"\x28\xb5\x2f\xfd"sv, "a file compressed by zstd"},
    {"\xfd"
     "7zXZ\0"sv,
     "a file compressed by xz"},
    {"BZh91AY&SY"sv, "a file compressed by bzip2"},
    {"7z\xbc\xaf\x27\x1c"sv, "a 7z archive"},
    {"PK\3\4"sv, "a zip archive (PyTorch's .bin and .pt files are such)"},
    {"\x80\2"sv, "a Python pickle"},
    {"\x80\3"sv, "a Python pickle"},
    {"\x80\4"sv, "a Python pickle"},
    {"\x80\5"sv, "a Python pickle"},
    {"%PDF-"sv, "a PDF document"},
    {"GGUF\2\0"sv, "a GGUF model"},
    {"GGUF\3\0"sv, "a GGUF model"},
    {"PAR1\x15"sv, "a Parquet file"},
    {"\x89HDF\r\n"sv, "an HDF5 file"},
    {"\x93NUMPY"sv, "a NumPy array"},
    {"\xff\xfe"sv, "text in UTF-16"},
    {"\xfe\xff"sv, "text in UTF-16"},
};
constexpr size_t kTarMagicOffset = 257;

bool begins_like(std::string_view text, std::string_view lower_case) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return text.size() >= lower_case.size() &&
         std::ranges::equal(text.substr(0, lower_case.size()), lower_case, {}, lower);
}

}  // namespace

bool is_html(std::string_view first_bytes) {
  if (first_bytes.starts_with("\xef\xbb\xbf")) first_bytes.remove_prefix(3);
  first_bytes.remove_prefix(std::min(first_bytes.find_first_not_of(" \t\r\n"), first_bytes.size()));
  return begins_like(first_bytes, "<!doctype html") || begins_like(first_bytes, "<html");
}

std::string foreign_file_kind(std::string_view first_bytes) {
  first_bytes = first_bytes.substr(0, kFileKindBytes);
  if (first_bytes.empty()) return "nothing (0 bytes)";
  for (const auto& [bytes, kind] : kBeginnings)
    if (first_bytes.starts_with(bytes)) return kind;
  if (first_bytes.size() > kTarMagicOffset && first_bytes.substr(kTarMagicOffset).starts_with("ustar"))
    return "a tar archive";
  if (is_html(first_bytes)) return "an HTML page, perhaps about an error of a download";
  if (first_bytes.size() >= 64 && first_bytes.find_first_not_of('\0') == std::string_view::npos)
    return "zeros, as of a file that was not written to its end";
  return "";
}

void refuse_foreign_file(std::string_view first_bytes, const std::string& name, std::string_view expected) {
  const std::string kind = foreign_file_kind(first_bytes);
  if (!kind.empty()) throw FileError("{}: not {}: found {}", name, expected, kind);
}

}  // namespace skippipe
