#include "base/folder_writer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

TEST(FolderWriter, NothingIsSeenBeforePublish) {
  const TempFolder folder;
  const auto path = folder / "a/b/out/";
  {
    FolderWriter writer(path);
    write_file_atomically(writer.folder() / "f", "new");
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_EQ(writer.folder().place.parent_path(), folder / "a/b");
    writer.publish();
  }
  EXPECT_EQ(read_file(path / "f"), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "a/b"), {}), 1);
}

TEST(FolderWriter, NothingStaysWithoutPublish) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "out");
  folder.write("out/f", "old");
  {
    FolderWriter writer(folder / "out");
    write_file_atomically(writer.folder() / "f", "new");
    EXPECT_EQ(folder.files(), 2u);
  }
  EXPECT_EQ(folder.files(), 1u);
  EXPECT_EQ(read_file(folder / "out/f"), "old");
}

TEST(FolderWriter, ReplacesWhatWasThere) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "out");
  folder.write("out/old", "old");
  FolderWriter writer(folder / "out");
  write_file_atomically(writer.folder() / "f", "new");
  writer.publish();
  EXPECT_FALSE(std::filesystem::exists(folder / "out/old"));
  EXPECT_EQ(read_file(folder / "out/f"), "new");
  EXPECT_EQ(folder.files(), 1u);
}

TEST(FolderWriter, ErrorsNameTheFolder) {
  const TempFolder folder;
  folder.write("file", "");
  SKP_EXPECT_ERROR(FolderWriter(folder / "file/out"), FileError, "file/out: cannot create: Not a directory");
  std::filesystem::create_symlink("gone", folder / "dangling");
  SKP_EXPECT_ERROR(FolderWriter(folder / "dangling/"), FileError, "dangling: a link to 'gone', which is not there");
  FolderWriter writer(folder / "out");
  SKP_EXPECT_ERROR(write_file_atomically(writer.folder() / "no/f", ""), FileError,
                   (folder / "out/no/f").string() + ": cannot create");
}

TEST(FolderWriter, FollowsALink) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "far");
  std::filesystem::create_symlink("far", folder / "link");
  FolderWriter writer(folder / "link");
  write_file_atomically(writer.folder() / "f", "new");
  writer.publish();
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "far/f"), "new");
}

}  // namespace
}  // namespace skippipe
