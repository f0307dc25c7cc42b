// Logging through spdlog. No default logger: whoever logs is handed a logger, named after its node or tool.
#pragma once

#include <spdlog/logger.h>

#include <memory>
#include <string>

namespace skippipe {

using Logger = std::shared_ptr<spdlog::logger>;

// Logs to standard error, thread-safe, a line each: "12:00:01.234 node-3 warning: ...".
Logger make_logger(const std::string& name);
// Drops everything (tests, library use).
Logger make_null_logger();

}  // namespace skippipe
