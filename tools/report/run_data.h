// What a run left in its output folder, as far as a report shows it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/run/run_description.h"
#include "tools/report/iteration_picture.h"

namespace skippipe {

// A line of metrics.jsonl.
struct IterationFigures {
  uint32_t iteration = 0;  // counts from 1: optimizer steps done
  double loss = 0;
  double gradient_norm = 0;
  double seconds = 0;
  double tokens = 0;
  double busy_share = 0;
  std::vector<double> busy_s = {};  // by node; empty in older runs
  // Of a validation after it, where there was one: through all stages, along the plan's paths, and what it took.
  std::optional<double> validation_loss = {}, validation_path_loss = {};
  double validation_seconds = 0;
};

struct Evaluation {
  struct Group {
    std::string label;  // "2 of 6 left out at random"
    double perplexity = 0;
    std::vector<double> choices;  // perplexities whose mean that is
  };
  int64_t predicted_tokens = 0;
  std::optional<uint32_t> iteration;  // optimizer steps of the checkpoint
  std::vector<Group> groups;
};

struct RunData {
  std::string name;
  size_t place = 1;  // in the report, from 1
  std::filesystem::path folder;
  RunDescription description;
  std::vector<IterationFigures> iterations;  // in order; those whose lines were lost are not there
  IterationPicture planned;
  std::optional<Trace> trace;  // merged from the parts that are there
  std::optional<TracedIterations> traced;
  std::string no_trace;  // why there is none
  std::optional<Evaluation> evaluation;

  uint32_t iterations_done() const { return iterations.empty() ? 0 : iterations.back().iteration; }
  // Lines that are missing, such as those of a time when the disk was full.
  uint32_t lost_iterations() const;
  // Mean seconds per iteration; the first starts cold and is not counted, unless it is the only one. 0 without metrics.
  double iteration_s() const;
  double tokens_per_s() const;
  double busy_share() const;
  // Figures of the last iteration with a validation; null without any.
  const IterationFigures* last_validation() const;
  // Mean of the last iterations, a tenth of them but no more than 50.
  double last_loss() const;
};

// Throws FileError: no run's output folder, or a file that is wrong.
RunData load_run_data(const std::filesystem::path& folder);

}  // namespace skippipe
