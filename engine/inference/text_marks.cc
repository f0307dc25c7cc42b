#include "engine/inference/text_marks.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/json_reader.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxToken = std::numeric_limits<int32_t>::max();

// Calls read(reader of the document) if there is such a file.
template <typename Read>
void read_json(const fs::path& path, const Read& read) {
  if (!fs::exists(path)) return;
  const nlohmann::json document = load_json(path);
  read(JsonReader(document, path.string()));
}

// "<s>", or {"content": "<s>", ...}.
std::optional<std::string> token_content(const JsonReader& root, const char* key) {
  const auto field = root.find(key);
  if (!field) return std::nullopt;
  return field->value().is_object() ? field->at("content").as_string() : field->as_string();
}

class MarksReader {
 public:
  MarksReader(const ModelConfig& config, const Tokenizer& tokenizer) : config_(config), tokenizer_(tokenizer) {
    if (tokenizer.bos_id() >= 0) marks_.begin = tokenizer.bos_id();
    if (tokenizer.eos_id() >= 0) tokenizer_end_ = tokenizer.eos_id();
  }

  void read_tokenizer_files(const fs::path& folder) {
    read_json(folder / "tokenizer_config.json", [&](const JsonReader& root) { read_added_decoder(root); });
    read_json(folder / "tokenizer.json", [&](const JsonReader& root) { read_added_list(root); });
    read_json(folder / "added_tokens.json", [&](const JsonReader& root) { read_added_tokens(root); });
    read_json(folder / "tokenizer_config.json", [&](const JsonReader& root) {
      marks_.begins_text = root.get_bool("add_bos_token", false);
      if (const auto content = token_content(root, "bos_token")) marks_.begin = find(*content);
      if (const auto content = token_content(root, "eos_token")) tokenizer_end_ = find(*content);
    });
  }

  void read_ends(const fs::path& model) {
    read_json(model / "generation_config.json", [&](const JsonReader& root) {
      const auto field = root.find("eos_token_id");
      if (!field) return;
      const bool several = field->value().is_array();
      for (const JsonReader& item : several ? field->items() : std::vector<JsonReader>{*field})
        add_end(item.as_int(-1, kMaxToken), item.where());
    });
    if (marks_.ends.empty())
      for (const int64_t id : config_.eos_token_ids) add_end(id, "config.json: eos_token_id");
    if (marks_.ends.empty() && tokenizer_end_) marks_.ends.push_back(*tokenizer_end_);
    std::ranges::sort(marks_.ends);
    const auto repeated = std::ranges::unique(marks_.ends);
    marks_.ends.erase(repeated.begin(), repeated.end());
  }

  TextMarks take() { return std::move(marks_); }

 private:
  bool known(int64_t id, const std::string& where) {
    if (id < config_.vocabulary) return true;
    marks_.ignored.push_back(
        fmt::format("{}: {} is no token of the model, whose vocab_size is {}: ignored", where, id, config_.vocabulary));
    return false;
  }

  // Some files say none by -1.
  void add_end(int64_t id, const std::string& where) {
    if (id >= 0 && known(id, where)) marks_.ends.push_back(static_cast<int32_t>(id));
  }

  // The first file that tells of a token says what it shows as.
  void add_token(int64_t id, const std::string& content, bool special, const std::string& where) {
    if (id < tokenizer_.vocabulary_size() || ids_.contains(content)) return;
    ids_.emplace(content, id);
    if (known(id, where)) marks_.added.emplace(static_cast<int32_t>(id), special ? "" : content);
  }

  void read_added_decoder(const JsonReader& root) {
    const auto tokens = root.find("added_tokens_decoder");
    if (!tokens) return;
    for (const std::string& key : tokens->keys()) {
      const JsonReader token = tokens->at(key);
      int32_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0)
        token.fail("the number of a token as its name");
      add_token(id, token.at("content").as_string(), token.get_bool("special", false), token.where());
    }
  }

  void read_added_list(const JsonReader& root) {
    const auto tokens = root.find("added_tokens");
    if (!tokens) return;
    for (const JsonReader& token : tokens->items())
      add_token(token.at("id").as_int(0, kMaxToken), token.at("content").as_string(), token.get_bool("special", false),
                token.where());
  }

  void read_added_tokens(const JsonReader& root) {
    for (const std::string& content : root.keys())
      add_token(root.at(content).as_int(0, kMaxToken), content, false, root.at(content).where());
  }

  std::optional<int32_t> find(const std::string& content) const {
    if (const auto added = ids_.find(content); added != ids_.end())
      return added->second < config_.vocabulary ? std::optional(static_cast<int32_t>(added->second)) : std::nullopt;
    const int32_t id = tokenizer_.find(content);
    return id < 0 ? std::nullopt : std::optional(id);
  }

  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  TextMarks marks_;
  std::optional<int32_t> tokenizer_end_;
  std::map<std::string, int64_t> ids_;  // of tokens that are no pieces
};

}  // namespace

TextMarks read_text_marks(const fs::path& model, const ModelConfig& config, const Tokenizer& tokenizer,
                          const fs::path& tokenizer_files) {
  MarksReader reader(config, tokenizer);
  if (!tokenizer_files.empty()) reader.read_tokenizer_files(tokenizer_files);
  reader.read_ends(model);
  return reader.take();
}

}  // namespace skippipe
