#include "base/error.h"

#include <string_view>

namespace skippipe::internal {

void throw_check_failure(const char* condition, const char* file, int line, const std::string& message) {
  std::string_view name(file);
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) name.remove_prefix(slash + 1);
  throw InternalError("{}:{}: {} does not hold{}{}", name, line, condition, message.empty() ? "" : ": ", message);
}

}  // namespace skippipe::internal
