#include "engine/run/run_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "engine/model/model_config.h"
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

// A run file written from the values means the same run.
TEST(RunFile, ValuesAreTomlOfTheSameRun) {
  const TempFolder folder;
  write_files(folder);
  RunFile run = load_run_file(folder / "run.toml");
  run.output = folder / "quotes \" and \\ and 'single'\n";
  run.addresses = {"a:1", "b\t\":2"};
  run.learning_rate = 2.5e-4;
  run.clip_norm = 1;
  run.emulate_links = true;
  run.schedule = "wsd";
  std::string text;
  for (const auto& [name, value] : run_file_values(run)) text += name + " = " + value + "\n";
  folder.write("written.toml", text);
  const RunFile read = load_run_file(folder / "written.toml");
  EXPECT_EQ(run_file_values(read), run_file_values(run));
  EXPECT_EQ(read.output, run.output);
  EXPECT_EQ(read.addresses, run.addresses);
  EXPECT_EQ(read.learning_rate, run.learning_rate);
  EXPECT_EQ(read.clip_norm, run.clip_norm);
  EXPECT_TRUE(read.emulate_links);
  EXPECT_EQ(read.schedule, "wsd");
  EXPECT_THAT(run_file_values(run), testing::Contains(std::pair<std::string, std::string>("optimizer.beta1", "0.9")));
  EXPECT_THAT(run_file_values(run),
              testing::Contains(std::pair<std::string, std::string>("optimizer.clip_norm", "1.0")));
  EXPECT_EQ(run_file_values(run).front(), (std::pair<std::string, std::string>("run.seed", "1")));
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

TEST(RunFile, TheExampleIsOne) {
  const TempFolder folder;
  write_files(folder);
  for (const char* name : {"run.toml", "config.json"})
    folder.write(name, read_file(std::filesystem::path(SKIPPIPE_SOURCE_DIR "/examples") / name));
  const RunFile run = load_run_file(folder / "run.toml");
  const ModelConfig model = load_model_config(run.model_config);
  EXPECT_LE(run.tokens, model.max_positions);
}

TEST(RunFile, TheReadmeHasEveryField) {
  EXPECT_NE(read_file(SKIPPIPE_SOURCE_DIR "/README.md").find(run_file_reference()), std::string::npos)
      << "README.md should have:\n\n"
      << run_file_reference();
}

}  // namespace
}  // namespace skippipe
