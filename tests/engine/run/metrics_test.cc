#include "engine/run/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

// After two iterations of two samples each.
constexpr SamplerShape kResumed = {
    .batch = 4, .sequence = 8, .microbatches = 3, .first_iteration = 2, .first_sample = 4};

IterationReport report_of(uint32_t iteration) {
  IterationReport report;
  report.iteration = iteration;
  report.loss = 2.5;
  report.seconds = 0.25;
  report.tokens = 512;
  return report;
}

// Of whole lines; throws where one is not JSON.
std::vector<uint32_t> iterations_in(const std::filesystem::path& path) {
  std::vector<uint32_t> iterations;
  std::istringstream text(read_file(path));
  for (std::string line; std::getline(text, line);) iterations.push_back(nlohmann::json::parse(line)["iteration"]);
  return iterations;
}

TEST(Metrics, KeepTheLinesBeforeTheFirstIteration) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "metrics.jsonl";
  {
    MetricsWriter writer(path, {}, make_null_logger());
    for (const uint32_t iteration : {0u, 1u, 2u}) writer.write(report_of(iteration));
  }
  folder.write("metrics.jsonl", read_file(path) + "{\"iteration\": 3, \"lo");  // killed in the middle of a line
  MetricsWriter(path, kResumed, make_null_logger()).write(report_of(2));
  EXPECT_THAT(iterations_in(path), ::testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(read_file(path), ::testing::EndsWith("\"samples\":16}\n"));
  MetricsWriter(path, {}, make_null_logger()).write(report_of(0));
  EXPECT_THAT(iterations_in(path), ::testing::ElementsAre(0));
}

TEST(Metrics, HaveTheLossesOfAValidation) {
  const TempFolder folder;
  MetricsWriter writer(folder / "metrics.jsonl", {}, make_null_logger());
  IterationReport report = report_of(0);
  writer.write(report);
  report.validation = {.loss = 3.5, .path_loss = {}, .seconds = 0.5};
  writer.write(report);
  report.validation->path_loss = 4.25;
  writer.write(report);
  std::istringstream text(read_file(folder / "metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_FALSE(lines[0].contains("validation_loss") || lines[0].contains("validation_seconds"));
  EXPECT_EQ(lines[1]["validation_loss"], 3.5);
  EXPECT_EQ(lines[1]["validation_seconds"], 0.5);
  EXPECT_FALSE(lines[1].contains("validation_path_loss"));
  EXPECT_EQ(lines[2]["validation_path_loss"], 4.25);
}

// What a disk that is full for a while does.
TEST(Metrics, ALineThatDoesNotFitLeavesNothing) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "metrics.jsonl";
  MetricsWriter writer(path, {}, make_null_logger());
  writer.write(report_of(0));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = std::filesystem::file_size(path) + 20;
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  writer.write(report_of(1));
  writer.write(report_of(2));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  writer.write(report_of(3));
  EXPECT_THAT(iterations_in(path), ::testing::ElementsAre(0, 3));
}

}  // namespace
}  // namespace skippipe
