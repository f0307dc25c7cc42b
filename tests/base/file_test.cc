#include "base/file.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "base/error.h"
#include "base/file_writer.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(ReadFile, ReadsWhatWasWritten) {
  const TempFolder folder;
  const std::string content("a\0b\xff\n", 5);
  write_file_atomically(folder / "f", content);
  EXPECT_EQ(read_file(folder / "f"), content);
  EXPECT_EQ(folder.files(), 1u);
}

TEST(ReadFile, RefusesWhatItCannotTrust) {
  const TempFolder folder;
  folder.write("big", "12345");
  SKP_EXPECT_ERROR(read_file(folder / "none"), FileError, "none: cannot open");
  SKP_EXPECT_ERROR(read_file(folder.path()), FileError, "not a regular file");
  SKP_EXPECT_ERROR(read_file("/dev/zero"), FileError, "not a regular file");
  SKP_EXPECT_ERROR(read_file(folder / "big", 4), FileError, "big: 5 bytes, expected at most 4");
  EXPECT_EQ(read_file(folder / "big", 5), "12345");
}

TEST(WriteFileAtomically, ReplacesAndLeavesTheOldOnFailure) {
  const TempFolder folder;
  folder.write("f", "old");
  write_file_atomically(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");

  // A folder is not replaced by a file; nothing is lost and nothing is left behind.
  std::filesystem::create_directory(folder / "taken");
  folder.write("taken/inside", "kept");
  SKP_EXPECT_ERROR(write_file_atomically(folder / "taken", "x"), FileError,
                   "taken: cannot be replaced: Is a directory");
  EXPECT_EQ(read_file(folder / "taken/inside"), "kept");
  EXPECT_EQ(folder.files(), 2u);
  SKP_EXPECT_ERROR(write_file_atomically(folder / "no/such/f", "x"), FileError, "no/such/f: cannot create: No such");
}

TEST(RequireWritable, FindsWhatCannotBeWrittenAndLeavesEverythingAsItIs) {
  const TempFolder folder;
  folder.write("f", "old");
  require_writable_file(folder / "f");
  require_writable_file(folder / "new");
  require_writable_folder(folder.path());
  require_writable_folder(folder / "to/be/made");
  EXPECT_EQ(read_file(folder / "f"), "old");
  SKP_EXPECT_ERROR(require_writable_file(folder / "no/f"), FileError, "no/f: cannot create: No such file");
  SKP_EXPECT_ERROR(require_writable_file(folder.path()), FileError, "cannot be replaced: Is a directory");
  SKP_EXPECT_ERROR(require_writable_folder(folder / "f"), FileError, "f is no folder");
  SKP_EXPECT_ERROR(require_writable_folder(folder / "f/below"), FileError, "f/below: cannot create: ");
  std::filesystem::create_symlink("gone", folder / "dangling");
  SKP_EXPECT_ERROR(require_writable_folder(folder / "dangling/below"), FileError, "dangling: a link to 'gone'");
  EXPECT_EQ(folder.files(), 2u);
}

TEST(WriteFileAtomically, FollowsLinksAndNamesThoseThatLeadNowhere) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "far");
  folder.write("far/f", "old");
  std::filesystem::create_symlink("far/f", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "far/f"), "new");

  std::filesystem::create_symlink("gone", folder / "dangling");
  SKP_EXPECT_ERROR(write_file_atomically(folder / "dangling", "x"), FileError,
                   "dangling: a link to 'gone', which is not there");
  SKP_EXPECT_ERROR(write_file_atomically(folder / "dangling/f", "x"), FileError,
                   "dangling: a link to 'gone', which is not there");
  SKP_EXPECT_ERROR(make_folder(folder / "dangling/sub"), FileError, "dangling: a link to 'gone', which is not there");
  SKP_EXPECT_ERROR(write_file_atomically("/dev/null", "x"), FileError,
                   "/dev/null: cannot be replaced: not a regular file");
}

TEST(FileWriter, PublishesAtTheEndOnly) {
  const TempFolder folder;
  folder.write("f", "old");
  FileWriter writer(folder / "f");
  writer.write(bytes_of("0123456789"));
  writer.overwrite(2, bytes_of("ab"));
  writer.write(bytes_of("X"));
  EXPECT_EQ(writer.bytes_written(), 11u);
  EXPECT_EQ(read_file(folder / "f"), "old");
  writer.publish();
  EXPECT_EQ(read_file(folder / "f"), "01ab456789X");
  EXPECT_EQ(folder.files(), 1u);
}

TEST(FileWriter, LeavesNothingUnlessPublished) {
  const TempFolder folder;
  folder.write("f", "old");
  {
    FileWriter writer(folder / "f");
    writer.write(bytes_of("new"));
    SKP_EXPECT_ERROR(writer.overwrite(2, bytes_of("ab")), InternalError, "2 bytes at 2 of 3");
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(folder.files(), 1u);
  SKP_EXPECT_ERROR(FileWriter(folder / "no/f"), FileError, "no/f: cannot create");
}

TEST(FileWriter, CallsTheFileByTheNameThatItWillHave) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempFolder folder;
  const OutputPath place = OutputPath(folder.path(), "out") / "f";
  EXPECT_EQ(place.place, folder / "f");
  std::filesystem::create_symlink("/dev/full", folder / ("f.tmp." + std::to_string(getpid())));
  FileWriter writer(place);
  writer.write(bytes_of("x"));
  try {
    writer.publish();
    ADD_FAILURE() << "published on a full disk";
  } catch (const FileError& error) {
    EXPECT_STREQ(error.what(), "out/f: cannot write: No space left on device");
  }
}

TEST(FileWriter, SaysWhenTheDiskIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempFolder folder;
  std::filesystem::create_symlink("/dev/full", folder / ("f.tmp." + std::to_string(getpid())));
  FileWriter writer(folder / "f");
  SKP_EXPECT_ERROR(
      {
        writer.write(bytes_of(std::string(1 << 20, 'x')));
        writer.publish();
      },
      FileError, "cannot write");
  EXPECT_FALSE(std::filesystem::exists(folder / "f"));
}

TEST(MappedFile, MapsMovesAndTakesEmptyFiles) {
  const TempFolder folder;
  MappedFile file(folder.write("f", "abc"));
  const auto* data = file.bytes().data();
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), data);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(data), moved.bytes().size()), "abc");
  moved = MappedFile(folder.write("empty", ""));
  EXPECT_EQ(moved.bytes().size(), 0u);
  SKP_EXPECT_ERROR(MappedFile(folder / "none"), FileError, "cannot open");
  SKP_EXPECT_ERROR(MappedFile(folder.path()), FileError, "not a regular file");
}

}  // namespace
}  // namespace skippipe
