#include "tools/verbs/plan_files.h"

#include <filesystem>

#include "base/error.h"

namespace skippipe {

std::string network_file_of(const Plan& plan, const std::string& file, const std::string& asked) {
  if (!asked.empty()) return asked;
  if (plan.network.empty()) throw UsageError("{} does not name its network, expected --network", file);
  return (std::filesystem::path(file).parent_path() / plan.network).string();
}

void require_folders_of(std::initializer_list<std::string> files) {
  for (const std::string& file : files) {
    const std::filesystem::path folder = std::filesystem::path(file).parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder))
      throw FileError("{}: {} is no folder", file, folder.string());
  }
}

void save_plan_beside(Plan plan, const std::string& network_file, const std::string& file) {
  if (file.empty()) return;
  const auto folder = std::filesystem::absolute(file).parent_path();
  plan.network = std::filesystem::absolute(network_file).lexically_relative(folder).string();
  save_plan(plan, file);
}

}  // namespace skippipe
