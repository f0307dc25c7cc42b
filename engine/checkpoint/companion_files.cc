#include "engine/checkpoint/companion_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_kind.h"
#include "base/json_reader.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxFileBytes = 256 << 20;
constexpr std::array<std::string_view, 10> kNames = {
    kSentencePieceFile, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",       "merges.txt",     "chat_template.jinja",   "chat_template.json",      kGenerationConfigFile};

// "NAME.jinja" of "additional_chat_templates/NAME.jinja".
bool is_template_name(std::string_view name) {
  return name.ends_with(".jinja") && !name.starts_with('.') && name.find('/') == std::string_view::npos;
}

CompanionFile read_companion(const fs::path& path) {
  std::string content = read_file(path, kMaxFileBytes);
  if (!content.empty()) refuse_foreign_file(content, path.string(), "a file of a tokenizer or of settings");
  // Read twice only where it is wrong: a large tokenizer.json takes much memory as a document.
  if (path.extension() == ".json" && !nlohmann::json::accept(content)) parse_json(content, path.string());
  return {std::move(content), path};
}

}  // namespace

bool is_companion(std::string_view name) {
  if (std::ranges::find(kNames, name) != kNames.end()) return true;
  const std::string_view folder = kChatTemplatesFolder;
  return name.size() > folder.size() && name.starts_with(folder) && name[folder.size()] == '/' &&
         is_template_name(name.substr(folder.size() + 1));
}

CompanionFiles read_companions(const fs::path& folder) {
  CompanionFiles files;
  for (const std::string_view name : kNames)
    if (fs::exists(folder / name)) files.emplace(name, read_companion(folder / name));
  std::error_code error;
  for (fs::directory_iterator entry(folder / kChatTemplatesFolder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (is_template_name(name) && entry->is_regular_file())
      files.emplace(fmt::format("{}/{}", kChatTemplatesFolder, name), read_companion(entry->path()));
  }
  return files;
}

void write_companions(const OutputPath& folder, const CompanionFiles& files) {
  for (const auto& [name, file] : files) {
    if (const fs::path subfolder = fs::path(name).parent_path(); !subfolder.empty()) make_folder(folder / subfolder);
    write_file_atomically(folder / name, file.content);
  }
}

std::vector<std::string> companion_names(const CompanionFiles& files) {
  std::vector<std::string> names;
  for (const auto& [name, file] : files) names.push_back(name);
  return names;
}

bool has_tokenizer(const CompanionFiles& files) {
  return files.contains(kSentencePieceFile) || files.contains("tokenizer.json") || files.contains("vocab.json");
}

bool describes_tokens(const CompanionFiles& files) {
  return std::ranges::any_of(std::array{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "vocab.json"},
                             [&](const char* name) { return files.contains(name); });
}

CompanionFiles with_tokenizer(const CompanionFiles& files, const fs::path& tokenizer) {
  CompanionFiles result;
  if (fs::is_directory(tokenizer)) {
    result = read_companions(tokenizer);
    if (!has_tokenizer(result))
      throw FileError("{}: no tokenizer there, expected a {} or tokenizer.json", tokenizer.string(),
                      kSentencePieceFile);
  } else if (!tokenizer.empty()) {
    result.emplace(kSentencePieceFile, read_companion(tokenizer));
  }
  if (const auto settings = files.find(kGenerationConfigFile); settings != files.end()) result.insert(*settings);
  return result;
}

}  // namespace skippipe
