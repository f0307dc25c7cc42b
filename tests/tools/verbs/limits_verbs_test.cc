// What the environment of a process limits: threads and memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/run_fixture.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class LimitsVerbsTest : public RunFixture {
 protected:
  static ProgramResult launch(const Sections& sections, const std::string& environment = "") {
    std::filesystem::remove_all(output_folder());
    return run_skippipe("launch " + write_run(sections), "/dev/null", environment);
  }
  static std::vector<double> losses() {
    std::vector<double> values;
    for (const nlohmann::json& line : metrics()) values.push_back(line.at("loss"));
    return values;
  }
  static int count(const std::string& text, const std::string& part) {
    int found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  }
  static void expect_refused_line(const ProgramResult& result, const std::string& part) {
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(part));
    EXPECT_EQ(count(result.output, "\n"), 1) << result.output;
  }
};

TEST_F(LimitsVerbsTest, FewerThreadsThanAskedComputeTheSame) {
  Sections sections;
  sections.network = "";
  sections.compute = "threads = 3";
  const ProgramResult asked = launch(sections);
  ASSERT_EQ(asked.exit_code, 0) << asked.output;
  EXPECT_THAT(asked.output, Not(HasSubstr("note: ")));
  const std::vector<double> expected = losses();
  ASSERT_EQ(expected.size(), 3u);
  for (const auto& [environment, given] :
       std::vector<std::pair<std::string, std::string>>{{"OMP_THREAD_LIMIT=2", "2, as OMP_THREAD_LIMIT is 2"},
                                                        {"OMP_MAX_ACTIVE_LEVELS=0", "1, as OMP_MAX_ACTIVE_LEVELS is 0"},
                                                        {"OMP_DYNAMIC=true OMP_NUM_THREADS=1", ""}}) {
    SCOPED_TRACE(environment);
    const ProgramResult fewer = launch(sections, environment);
    ASSERT_EQ(fewer.exit_code, 0) << fewer.output;
    EXPECT_EQ(count(fewer.output, "note: "), given.empty() ? 0 : 1) << fewer.output;
    EXPECT_THAT(fewer.output, HasSubstr(given.empty() ? "" : "note: compute.threads = 3: computing with " + given));
    const std::vector<double> found = losses();
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4 * expected[i]) << i;
  }
}

// Each says so once, however many nodes there are.
TEST_F(LimitsVerbsTest, EveryVerbThatComputesSaysThatThreadsAreMissing) {
  const std::string probe = " --config " + path("config.json") + " --tokens 32 --threads 2";
  for (const std::string& verb :
       {"probe --repetitions 1" + probe, "probe --repetitions 1 --stream-seconds 0.01 --local 2" + probe,
        "bench --steps 1 --samples 1" + probe}) {
    const ProgramResult result = run_skippipe(verb, "/dev/null", "OMP_THREAD_LIMIT=1");
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_EQ(count(result.output, "note: --threads = 2: computing with 1, as OMP_THREAD_LIMIT is 1\n"), 1)
        << result.output;
  }
}

// OpenMP says how long its threads spin each time that it is loaded; the last time counts.
TEST_F(LimitsVerbsTest, ThreadsThatWaitSleepUnlessTheUserSaysOtherwise) {
  const std::string shown = "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT OMP_DISPLAY_ENV=verbose ";
  const std::string spins = "GOMP_SPINCOUNT = '";
  for (const auto& [users, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "0'"}, {"OMP_WAIT_POLICY=active ", "30000000000'"}, {"GOMP_SPINCOUNT=77 ", "77'"}}) {
    const ProgramResult result = run_skippipe("--version", "/dev/null", shown + users);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    const size_t last = result.output.rfind(spins);
    ASSERT_NE(last, std::string::npos) << result.output;
    EXPECT_TRUE(result.output.substr(last + spins.size()).starts_with(expected)) << result.output;
    EXPECT_EQ(count(result.output, spins), users.empty() ? 2 : 1) << "starts again only to set what is not set";
  }
  const ProgramResult nodes = launch({}, shown);
  EXPECT_EQ(nodes.exit_code, 0) << nodes.output;
  EXPECT_EQ(count(nodes.output, spins + "0'"), 1 + 4) << nodes.output;
  EXPECT_EQ(count(nodes.output, spins), 1 + 1 + 4) << "nodes need not start again";
  const ProgramResult piped = run_skippipe("tokenizer --vocabulary 400 --out " + path("piped.model") + " /dev/stdin",
                                           "", "cat '" SKIPPIPE_SOURCE_DIR "/LICENSE' | " + shown);
  EXPECT_EQ(piped.exit_code, 0) << piped.output;
  EXPECT_EQ(read_file(path("piped.model")), read_file(path("tok.model"))) << "standard input is kept";
}

TEST_F(LimitsVerbsTest, SlowBf16IsToldOnceBeforeTheRun) {
  Sections sections;
  sections.network = "";
  sections.compute = "dtype = \"bf16\"";
  must_run(
      "plan --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --dtype bf16 --model " +
      path("config.json") + " --network " + path("network.json") + " --out " + path("bf16-plan.json"));
  sections.plan = "file = \"bf16-plan.json\"\nnetwork = \"network.json\"";
  const ProgramResult result = launch(sections);
  if (result.output.find("does not compute in") != std::string::npos) GTEST_SKIP() << "no bf16 on this processor";
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const std::string told = "note: bf16 products ran at ";
  EXPECT_LE(count(result.output, told), 1) << result.output;  // none where they are faster
  EXPECT_THAT(result.output.substr(result.output.find("device: ")), Not(HasSubstr(told)));
}

// Sanitizers take terabytes of addresses for themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

TEST_F(LimitsVerbsTest, ThreadsThatTheSystemDoesNotMakeAreRefused) {
  Sections sections;
  sections.network = "";
  sections.compute = "threads = 3000";
  const ProgramResult result = launch(sections, "ulimit -s 8192; ulimit -v 8000000;");
  expect_refused_line(result, "compute.threads = 3000: the system made only ");
  EXPECT_THAT(result.output, HasSubstr("of 3000 threads: Resource temporarily unavailable (what limits them: "));
}

TEST_F(LimitsVerbsTest, TheLimitOfAProcessIsNamedWhereMemoryIsShort) {
  const std::string limit = "ulimit -v 3000000;",
                    named = "are there (ulimit -v = 3000000 KiB, less 24.00 MiB for the process itself)";
  const std::string shape = " --config " + path("config.json") + " --samples 60000 --tokens 64";
  expect_refused_line(run_skippipe("probe" + shape, "/dev/null", limit), "(75 % of ulimit -v = 3000000 KiB)");
  const ProgramResult bench = run_skippipe("bench" + shape, "/dev/null", limit);
  EXPECT_EQ(bench.exit_code, 1);
  EXPECT_THAT(bench.output, HasSubstr(named));
  must_run("plan --method full --stages 2 --microbatches 2 --samples 60000 --tokens 32 --evaluations 50 --model " +
           path("config.json") + " --network " + path("network.json") + " --out " + path("large-plan.json"));
  Sections sections;
  sections.network = "";
  sections.data = "train = \"tokens/train.tokens\"\nsamples = 60000\ntokens = 32";
  sections.plan = "file = \"large-plan.json\"\nnetwork = \"network.json\"";
  expect_refused_line(launch(sections, limit), named);
  sections.compute = "memory_limit_mb = 1000000000";  // the process's own limit is lower
  expect_refused_line(launch(sections, limit), named);

  sections = {};
  ASSERT_EQ(launch(sections).exit_code, 0);
  const std::string eval =
      "eval --model " + output_folder() + " --data " + path("tokens/train.tokens") + " --tokens 64 --batch 60000";
  expect_refused_line(run_skippipe(eval, "/dev/null", limit), named);
}

#endif

}  // namespace
}  // namespace skippipe
