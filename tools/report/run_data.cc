#include "tools/report/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/json_reader.h"
#include "engine/trace/trace_file.h"

namespace skippipe {
namespace {

constexpr double kLargest = 1e300;
constexpr int64_t kMaxIterations = 100'000'000;

std::optional<double> read_loss(const JsonReader& json, const char* field) {
  const auto found = json.find(field);
  return found ? std::optional(found->as_double(-kLargest, kLargest)) : std::nullopt;
}

std::vector<double> read_busy_seconds(const JsonReader& json) {
  std::vector<double> busy_s;
  if (const auto nodes = json.find("busy_s"))
    for (const JsonReader& node : nodes->items()) busy_s.push_back(node.as_double(0, kLargest));
  return busy_s;
}

IterationFigures read_figures(const JsonReader& json) {
  const auto seconds = json.find("validation_seconds");
  return {static_cast<uint32_t>(json.at("iteration").as_int(0, kMaxIterations)) + 1,
          json.at("loss").as_double(-kLargest, kLargest),
          json.at("gradient_norm").as_double(0, kLargest),
          json.at("seconds").as_double(0, kLargest),
          json.at("tokens").as_double(0, kLargest),
          json.at("busy_share").as_double(0, kLargest),
          read_busy_seconds(json),
          read_loss(json, "validation_loss"),
          read_loss(json, "validation_path_loss"),
          seconds ? seconds->as_double(0, kLargest) : 0};
}

// A run that was resumed may have done iterations again: the last line counts. A run that was killed may have left half
// a line, another one lost some.
void read_metrics(const std::filesystem::path& path, RunData& data) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_file(path, uint64_t{1} << 30);
  std::map<uint32_t, IterationFigures> figures;
  size_t line_number = 1;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1, ++line_number) {
    const std::string where = fmt::format("{}: line {}", path.string(), line_number);
    const nlohmann::json document = parse_json(std::string_view(text).substr(begin, end - begin), where);
    const JsonReader json(document, where);
    const IterationFigures line = read_figures(json);
    figures[line.iteration] = line;
  }
  for (const auto& [iteration, line] : figures) data.iterations.push_back(line);
}

std::optional<Evaluation> read_evaluation(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const nlohmann::json document = load_json(path);
  const JsonReader root(document, path.string());
  if (root.at("format").as_string() != "skippipe-evaluation") root.at("format").fail("\"skippipe-evaluation\"");
  Evaluation evaluation;
  evaluation.predicted_tokens = root.at("predicted_tokens").as_int(0);
  if (const auto iteration = root.find("iteration"))
    evaluation.iteration = static_cast<uint32_t>(iteration->as_int(0, kMaxIterations));
  for (const JsonReader& json : root.at("results").items()) {
    Evaluation::Group group{json.at("label").as_string(), json.at("perplexity").as_double(0, kLargest), {}};
    for (const JsonReader& choice : json.at("choices").items())
      group.choices.push_back(choice.at("perplexity").as_double(0, kLargest));
    evaluation.groups.push_back(std::move(group));
  }
  return evaluation;
}

void read_trace_of(RunData& data) {
  data.trace = merge_traces(data.folder, data.description.run_id);
  if (!data.trace) {
    data.no_trace = "There is no trace of this run: it was launched without --trace, or killed.";
  } else {
    data.traced = read_iterations(*data.trace, data.description.plan);
    if (!data.traced) data.no_trace = "The trace has no iteration from beginning to end.";
  }
}

template <typename Value>
double mean(const RunData& data, Value value) {
  const size_t first = data.iterations.size() > 1 && data.iterations.front().iteration == 1 ? 1 : 0;
  double sum = 0;
  for (size_t i = first; i < data.iterations.size(); ++i) sum += value(data.iterations[i]);
  return data.iterations.empty() ? 0 : sum / static_cast<double>(data.iterations.size() - first);
}

}  // namespace

uint32_t RunData::lost_iterations() const {
  if (iterations.empty()) return 0;
  return iterations_done() + 1 - iterations.front().iteration - static_cast<uint32_t>(iterations.size());
}

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

const IterationFigures* RunData::last_validation() const {
  for (auto figures = iterations.rbegin(); figures != iterations.rend(); ++figures)
    if (figures->validation_loss) return &*figures;
  return nullptr;
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
