#include "tools/verbs/plan_files.h"

#include <filesystem>

#include "base/error.h"
#include "base/file_writer.h"

namespace skippipe {

std::string network_file_of(const Plan& plan, const std::string& file, const std::string& asked) {
  if (!asked.empty()) return asked;
  if (plan.network.empty()) throw UsageError("{} does not name its network, expected --network", file);
  return (std::filesystem::path(file).parent_path() / plan.network).string();
}

void require_writable(std::initializer_list<std::string> files) {
  for (const std::string& file : files)
    if (!file.empty()) require_writable_file(file);
}

void save_plan_beside(Plan plan, const std::string& network_file, const std::string& file) {
  if (file.empty()) return;
  const auto folder = std::filesystem::absolute(file).parent_path();
  plan.network = std::filesystem::absolute(network_file).lexically_relative(folder).string();
  save_plan(plan, file);
}

}  // namespace skippipe
