#include "engine/metrics.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace skippipe {

MetricsWriter::MetricsWriter(const std::filesystem::path& path) : path_(path), file_(std::fopen(path.c_str(), "we")) {
  if (!file_) throw FileError("{}: cannot open for writing: {}", path.string(), std::strerror(errno));
}

void MetricsWriter::write(const IterationReport& report) {
  const nlohmann::ordered_json line = {{"iteration", report.iteration},
                                       {"loss", report.loss},
                                       {"gradient_norm", report.gradient_norm},
                                       {"learning_rate", report.learning_rate},
                                       {"seconds", report.seconds},
                                       {"tokens", report.tokens},
                                       {"tokens_per_s", static_cast<double>(report.tokens) / report.seconds},
                                       {"busy_share", report.busy_share}};
  const std::string text = line.dump() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
    throw FileError("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

}  // namespace skippipe
