#include "tokenizer/merge_encoder.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>
#include <tuple>

#include "base/format.h"

namespace skippipe {
namespace {

using nlohmann::json;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t character_bytes(std::string_view text) {
  size_t size = 1;
  while (size < text.size() && (static_cast<uint8_t>(text[size]) & 0xc0) == 0x80) ++size;
  return size;
}

void replace_all(std::string& text, const std::string& pattern, const std::string& content) {
  for (size_t at = 0; (at = text.find(pattern, at)) != std::string::npos; at += content.size())
    text.replace(at, pattern.size(), content);
}

}  // namespace

MergeEncoder::MergeEncoder(const json& document) {
  const json& model = document.at("model");
  for (const auto& [piece, id] : model.at("vocab").items()) vocabulary_.emplace(piece, id.get<int32_t>());
  for (const json& line : model.at("merges")) {
    const auto& text = line.get_ref<const std::string&>();
    const std::string left = text.substr(0, text.find(' ')), right = text.substr(left.size() + 1);
    merges_.emplace(pair_key(vocabulary_.at(left), vocabulary_.at(right)),
                    Merge{merges_.size(), vocabulary_.at(left + right)});
  }
  for (const json& token : document.at("added_tokens")) {
    const auto& content = token.at("content").get_ref<const std::string&>();
    added_[content.front()].emplace_back(content, token.at("id").get<int32_t>());
  }
  for (const json& normalizer : document.at("normalizer").at("normalizers")) {
    const bool prepends = normalizer.at("type") == "Prepend";
    if (prepends)
      normalizers_.push_back({true, "", normalizer.at("prepend")});
    else
      normalizers_.push_back({false, normalizer.at("pattern").at("String"), normalizer.at("content")});
  }
  if (!model.at("unk_token").is_null()) unknown_ = vocabulary_.at(model.at("unk_token").get<std::string>());
  byte_fallback_ = model.at("byte_fallback");
}

std::vector<int32_t> MergeEncoder::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  size_t begin = 0, at = 0;
  const auto append_text_before = [&](size_t end) {
    if (end > begin) append_merged(symbols_of(normalize(text.substr(begin, end - begin))), ids);
  };
  while (at < text.size()) {
    const auto [size, id] = added_token_at(text.substr(at));
    if (size == 0) {
      ++at;
      continue;
    }
    append_text_before(at);
    ids.push_back(id);
    begin = at += size;
  }
  append_text_before(text.size());
  return ids;
}

std::pair<size_t, int32_t> MergeEncoder::added_token_at(std::string_view text) const {
  std::pair<size_t, int32_t> longest = {0, 0};
  if (const auto candidates = added_.find(text.front()); candidates != added_.end())
    for (const auto& [content, id] : candidates->second)
      if (content.size() > longest.first && text.starts_with(content)) longest = {content.size(), id};
  return longest;
}

std::string MergeEncoder::normalize(std::string_view text) const {
  std::string result(text);
  for (const Normalizer& normalizer : normalizers_) {
    if (normalizer.prepends)
      result.insert(0, normalizer.content);
    else
      replace_all(result, normalizer.pattern, normalizer.content);
  }
  return result;
}

std::vector<int32_t> MergeEncoder::symbols_of(std::string_view text) const {
  std::vector<int32_t> symbols;
  bool after_unknown = false;
  while (!text.empty()) {
    const std::string character(text.substr(0, character_bytes(text)));
    text.remove_prefix(character.size());
    const auto found = vocabulary_.find(character);
    if (found != vocabulary_.end()) {
      symbols.push_back(found->second);
    } else if (byte_fallback_) {
      for (const char byte : character)
        symbols.push_back(vocabulary_.at(format("<0x{:02X}>", static_cast<uint8_t>(byte))));
    } else if (!after_unknown && unknown_ >= 0) {
      symbols.push_back(unknown_);  // one for all that follow one another
    }
    after_unknown = found == vocabulary_.end() && !byte_fallback_;
  }
  return symbols;
}

const MergeEncoder::Merge* MergeEncoder::merge_of(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void MergeEncoder::append_merged(const std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const {
  constexpr int32_t kGone = -1;
  const size_t size = symbols.size();
  std::vector<int32_t> left = symbols;  // what begins at each place
  std::vector<size_t> next(size), previous(size);
  using Candidate = std::tuple<size_t, size_t, int32_t>;  // rank, place, result
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](size_t place) {
    if (next[place] == size) return;
    if (const Merge* merge = merge_of(left[place], left[next[place]]))
      candidates.emplace(merge->rank, place, merge->result);
  };
  for (size_t i = 0; i < size; ++i) {
    next[i] = i + 1;
    previous[i] = i == 0 ? size : i - 1;
  }
  for (size_t i = 0; i < size; ++i) offer(i);
  while (!candidates.empty()) {
    const auto [rank, place, result] = candidates.top();
    candidates.pop();
    if (left[place] == kGone || next[place] == size) continue;
    const size_t right = next[place];
    const Merge* merge = merge_of(left[place], left[right]);
    if (merge == nullptr || merge->result != result) continue;  // overtaken
    left[place] = result;
    left[right] = kGone;
    next[place] = next[right];
    if (next[place] != size) previous[next[place]] = place;
    if (previous[place] != size) offer(previous[place]);
    offer(place);
  }
  for (const int32_t symbol : left)
    if (symbol != kGone) ids.push_back(symbol);
}

}  // namespace skippipe
