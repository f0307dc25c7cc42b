#include "engine/run/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace skippipe {

namespace {

// The lines of earlier iterations, as they are; the last one may have been cut short.
std::string lines_before(const std::filesystem::path& path, uint32_t first_iteration) {
  std::string kept;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    if (!parsed.is_object()) continue;
    const auto iteration = parsed.find("iteration");
    if (iteration == parsed.end() || !iteration->is_number_unsigned()) continue;
    if (iteration->get<uint64_t>() < first_iteration) kept += line + "\n";
  }
  return kept;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, const SamplerShape& data, Logger logger)
    : path_(path), data_(data), logger_(std::move(logger)) {
  write_file_atomically(path, lines_before(path, data.first_iteration));
  file_.reset(std::fopen(path.c_str(), "ae"));
  if (!file_) throw FileError("{}: cannot open for writing: {}", path.string(), std::strerror(errno));
  std::setvbuf(file_.get(), nullptr, _IONBF, 0);
  bytes_ = std::filesystem::file_size(path);
}

void MetricsWriter::write(const IterationReport& report) {
  nlohmann::ordered_json line = {{"iteration", report.iteration},
                                 {"iterations_done", report.iteration + 1},
                                 {"loss", report.loss},
                                 {"gradient_norm", report.gradient_norm},
                                 {"learning_rate", report.learning_rate},
                                 {"seconds", report.seconds},
                                 {"tokens", report.tokens},
                                 {"tokens_per_s", static_cast<double>(report.tokens) / report.seconds},
                                 {"busy_share", report.busy_share},
                                 {"busy_s", report.node_busy_s},
                                 {"samples", data_.samples_before(report.iteration + 1)}};
  if (report.validation) {
    line["validation_loss"] = report.validation->loss;
    if (report.validation->path_loss) line["validation_path_loss"] = *report.validation->path_loss;
    line["validation_seconds"] = report.validation->seconds;
  }
  const std::string text = line.dump() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size()) {
    bytes_ += text.size();
    return;
  }
  if (!std::exchange(told_, true)) logger_->warn("{}: cannot write: {}", path_.string(), std::strerror(errno));
  std::clearerr(file_.get());
  // A part of the line would spoil the next one.
  if (ftruncate(fileno(file_.get()), static_cast<off_t>(bytes_)) != 0)
    logger_->warn("{}: cannot shorten: {}", path_.string(), std::strerror(errno));
}

}  // namespace skippipe
