#include "engine/run_file.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

constexpr char kSmallest[] = R"(
[run]
output = "out"
[model]
config = "config.json"
[data]
train = "train.tokens"
[plan]
file = "plan.json"
network = "network.json"
)";

void write_files(const TempFolder& folder) {
  for (const char* name : {"config.json", "network.json", "plan.json"}) folder.write(name, "{}");
  folder.write("run.toml", kSmallest);
}

TEST(RunFile, ReadsPathsFromItsOwnFolderAndFillsInDefaults) {
  const TempFolder folder;
  write_files(folder);
  const RunFile run = load_run_file(folder / "run.toml");
  EXPECT_EQ(run.plan, folder / "plan.json");
  EXPECT_EQ(run.output, folder / "out");
  EXPECT_EQ(run.learning_rate, RunFile().learning_rate);
  EXPECT_TRUE(run.addresses.empty());
}

// Nodes whose files differ must refuse each other.
TEST(RunFile, TheRunIdDependsOnAllThatNodesMustAgreeOn) {
  const TempFolder folder;
  write_files(folder);
  const uint64_t id = load_run_file(folder / "run.toml").run_id;
  EXPECT_EQ(load_run_file(folder / "run.toml").run_id, id);
  for (const char* name : {"config.json", "network.json", "plan.json"}) {
    folder.write(name, "{ }");
    EXPECT_NE(load_run_file(folder / "run.toml").run_id, id) << name;
    folder.write(name, "{}");
  }
  folder.write("run.toml", std::string(kSmallest) + "# another\n");
  EXPECT_NE(load_run_file(folder / "run.toml").run_id, id);
}

TEST(RunFile, TheReadmeHasEveryField) {
  EXPECT_NE(read_file(SKIPPIPE_SOURCE_DIR "/README.md").find(run_file_reference()), std::string::npos)
      << "README.md should have:\n\n"
      << run_file_reference();
}

}  // namespace
}  // namespace skippipe
