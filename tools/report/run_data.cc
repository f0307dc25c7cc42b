#include "tools/report/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"
#include "engine/trace_file.h"

namespace skippipe {
namespace {

constexpr double kLargest = 1e300;
constexpr int64_t kMaxIterations = 100'000'000;

IterationFigures read_figures(const JsonReader& json) {
  return {json.at("loss").as_double(-kLargest, kLargest), json.at("gradient_norm").as_double(0, kLargest),
          json.at("seconds").as_double(0, kLargest), json.at("tokens").as_double(0, kLargest),
          json.at("busy_share").as_double(0, kLargest)};
}

// A run that was resumed may have done iterations again: the last line counts. A run that was killed may have left half
// a line.
void read_metrics(const std::filesystem::path& path, RunData& data) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_file(path, uint64_t{1} << 30);
  std::map<int64_t, IterationFigures> figures;
  size_t line_number = 1;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1, ++line_number) {
    const std::string where = fmt::format("{}: line {}", path.string(), line_number);
    const nlohmann::json document = parse_json(std::string_view(text).substr(begin, end - begin), where);
    const JsonReader json(document, where);
    figures[json.at("iteration").as_int(0, kMaxIterations)] = read_figures(json);
  }
  if (figures.empty()) return;
  data.first_iteration = static_cast<uint32_t>(figures.begin()->first);
  for (const auto& [iteration, line] : figures) {
    if (iteration != int64_t{data.first_iteration} + static_cast<int64_t>(data.iterations.size()))
      throw FileError("{}: found iteration {}, expected {}", path.string(), iteration,
                      data.first_iteration + data.iterations.size());
    data.iterations.push_back(line);
  }
}

std::optional<Evaluation> read_evaluation(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const nlohmann::json document = load_json(path);
  const JsonReader root(document, path.string());
  if (root.at("format").as_string() != "skippipe-evaluation") root.at("format").fail("\"skippipe-evaluation\"");
  Evaluation evaluation;
  evaluation.predicted_tokens = root.at("predicted_tokens").as_int(0);
  for (const JsonReader& json : root.at("results").items()) {
    Evaluation::Group group{json.at("label").as_string(), json.at("perplexity").as_double(0, kLargest), {}};
    for (const JsonReader& choice : json.at("choices").items())
      group.choices.push_back(choice.at("perplexity").as_double(0, kLargest));
    evaluation.groups.push_back(std::move(group));
  }
  return evaluation;
}

void read_trace_of(RunData& data) {
  const std::optional<Trace> trace = merge_traces(data.folder);
  if (!trace) {
    data.no_trace = "This run was not traced: launch it with --trace.";
  } else if (trace->run_id != data.description.run_id) {
    data.no_trace = "The trace in this folder is of another run.";
  } else {
    data.traced = read_iterations(*trace, data.description.plan);
    if (!data.traced) data.no_trace = "The trace has no iteration from beginning to end.";
  }
}

template <typename Value>
double mean(const RunData& data, Value value) {
  const size_t first = data.first_iteration == 0 && data.iterations.size() > 1 ? 1 : 0;
  double sum = 0;
  for (size_t i = first; i < data.iterations.size(); ++i) sum += value(data.iterations[i]);
  return data.iterations.empty() ? 0 : sum / static_cast<double>(data.iterations.size() - first);
}

}  // namespace

double RunData::iteration_s() const {
  return mean(*this, [](const IterationFigures& i) { return i.seconds; });
}

double RunData::tokens_per_s() const {
  const double tokens = mean(*this, [](const IterationFigures& i) { return i.tokens; });
  return iteration_s() > 0 ? tokens / iteration_s() : 0;
}

double RunData::busy_share() const {
  const double busy_s = mean(*this, [](const IterationFigures& i) { return i.busy_share * i.seconds; });
  return iteration_s() > 0 ? busy_s / iteration_s() : 0;
}

double RunData::last_loss() const {
  if (iterations.empty()) return 0;
  const size_t count = std::clamp<size_t>(iterations.size() / 10, 1, 50);
  double sum = 0;
  for (size_t i = iterations.size() - count; i < iterations.size(); ++i) sum += iterations[i].loss;
  return sum / static_cast<double>(count);
}

RunData load_run_data(const std::filesystem::path& folder) {
  if (!std::filesystem::exists(folder / "run.json"))
    throw FileError("{}: no run.json there, expected the output folder of a run", folder.string());
  RunData data;
  data.folder = folder;
  data.name = (folder / "").parent_path().filename().string();
  data.description = load_run_description(folder);
  read_metrics(folder / "metrics.jsonl", data);
  data.planned = planned_iteration(data.description.plan, data.description.network);
  read_trace_of(data);
  data.evaluation = read_evaluation(folder / "evaluation.json");
  return data;
}

}  // namespace skippipe
