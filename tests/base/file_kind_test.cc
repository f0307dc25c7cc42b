#include "base/file_kind.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/json_reader.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using std::string_view_literals::operator""sv;

TEST(ForeignFileKind, KnowsWhatPeopleMistakeForOthers) {
  const std::string tar = std::string(257, 'x') + "ustar";
  for (const auto& [bytes, kind] :
       {std::pair{"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n"sv, "a Git LFS pointer"},
        {"/annex/objects/SHA256E-s4--1.bin\n"sv, "a git-annex pointer"},
        {"\x1f\x8b\x08\0"sv, "gzip"},
        {"\x28\xb5\x2f\xfd\x24"sv, "zstd"},
        {"PK\3\4\x14"sv, "a zip archive"},
        {"\x80\2}q"sv, "a Python pickle"},
        {"%PDF-1.7"sv, "a PDF document"},
        {"<!doctype HTML><title>"sv, "an HTML page"},
        {"\xef\xbb\xbf\r\n <HTML lang=en>"sv, "an HTML page"},
        {"GGUF\3\0\0\0"sv, "a GGUF model"},
        {"\xff\xfe{\0"sv, "UTF-16"},
        {std::string_view(tar), "a tar archive"},
        {""sv, "nothing"}})
    EXPECT_NE(foreign_file_kind(bytes).find(kind), std::string::npos) << kind;
  EXPECT_NE(foreign_file_kind(std::string(600, '\0')).find("zeros"), std::string::npos);
}

TEST(ForeignFileKind, LeavesOthersAlone) {
  for (const auto bytes : {"{\"text\": 1}"sv, "version 2"sv, "PKs"sv, "<htm"sv, "\n\x0e\n\5<unk>"sv, "skptokn\n"sv,
                           "\0\0\0\0"sv, "html"sv, "\x80"sv, " "sv})
    EXPECT_EQ(foreign_file_kind(bytes), "") << bytes;
}

TEST(ForeignFileKind, IsNamedWhereReadingFails) {
  const auto fails = [] { throw FileError("odd"); };
  SKP_EXPECT_ERROR(naming_foreign_files("%PDF-", "f", "JSON", fails), FileError, "f: not JSON: found a PDF document");
  SKP_EXPECT_ERROR(naming_foreign_files("x", "f", "JSON", fails), FileError, "odd");
  EXPECT_EQ(naming_foreign_files("%PDF-", "f", "JSON", [] { return 3; }), 3);
  SKP_EXPECT_ERROR(parse_json("<html>", "f"), FileError, "f: not valid JSON: found an HTML page");
  SKP_EXPECT_ERROR(parse_json("", "f"), FileError, "f: not valid JSON: found nothing");
  const TempFolder folder;
  SKP_EXPECT_ERROR(read_file(folder.write("f", "PK\3\4 and more"), 5), FileError,
                   "f: not a file of at most 5 bytes: found a zip archive");
}

}  // namespace
}  // namespace skippipe
