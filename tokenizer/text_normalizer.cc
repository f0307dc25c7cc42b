#include "tokenizer/text_normalizer.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";
constexpr size_t kMaxRuleBytes = 4096;  // on either side: more is a table that goes round in circles, or a trap

// The fields of a double array's unit.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value_of(uint32_t unit) { return unit & 0x7fffffff; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000ff; }
uint32_t offset_of(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

}  // namespace

CharacterMap::CharacterMap(std::string_view table, std::string name) : name_(std::move(name)) {
  if (table.empty()) return;
  uint32_t bytes = 0;
  if (table.size() <= sizeof bytes) fail();
  std::memcpy(&bytes, table.data(), sizeof bytes);
  table.remove_prefix(sizeof bytes);
  if (bytes == 0 || bytes >= table.size() || table.back() != '\0') fail();
  units_ = table.substr(0, bytes);
  replacements_ = table.substr(bytes);
}

void CharacterMap::fail() const { throw FileError("{}: its table of normalized characters is broken", name_); }

uint32_t CharacterMap::unit(size_t index) const {
  uint32_t result = 0;
  if (index >= units_.size() / sizeof result) fail();
  std::memcpy(&result, units_.data() + index * sizeof result, sizeof result);
  return result;
}

std::string_view CharacterMap::replacement(size_t offset) const {
  if (offset >= replacements_.size()) fail();
  const std::string_view rest = replacements_.substr(offset, kMaxRuleBytes);
  const size_t end = rest.find('\0');
  if (end == std::string_view::npos || valid_utf8_prefix(rest.substr(0, end)) != end) fail();
  return rest.substr(0, end);
}

CharacterMap::Match CharacterMap::longest(std::string_view text) const {
  Match match;
  if (units_.empty()) return match;
  std::optional<uint32_t> found;
  size_t node = offset_of(unit(0));
  size_t i = 0;
  for (; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    const uint32_t here = unit(node);
    if (label_of(here) != byte) break;
    if (i == kMaxRuleBytes) fail();
    node ^= offset_of(here);
    if (!has_leaf(here)) continue;
    match.bytes = i + 1;
    found = value_of(unit(node));
  }
  match.may_grow = i == text.size();
  if (!found) return match;
  match.replacement = replacement(*found);
  if (utf8_boundary(text.substr(0, match.bytes)) != match.bytes) fail();
  return match;
}

TextNormalizer::TextNormalizer(const SentencePieceModel& model, const ByteTrie& user_defined, const std::string& name)
    : model_(model),
      user_defined_(user_defined),
      characters_(model.character_map, name),
      space_(model.escapes_spaces ? kSpaceMark : " "),
      is_plain_(model.character_map.empty() && user_defined.empty() && !model.removes_extra_spaces) {}

std::optional<TextNormalizer::Step> TextNormalizer::next_step(std::string_view text, bool ends) const {
  const ByteTrie::Match symbol = user_defined_.longest(text);
  if (symbol.may_grow && !ends) return std::nullopt;
  if (symbol.bytes > 0) return Step{symbol.bytes, text.substr(0, symbol.bytes)};
  const CharacterMap::Match rule = characters_.longest(text);
  if (rule.may_grow && !ends) return std::nullopt;
  if (rule.bytes > 0) return Step{rule.bytes, rule.replacement};
  const size_t bytes = first_character_bytes(text);
  return Step{bytes, text.substr(0, bytes)};
}

void TextNormalizer::append_space(std::string& normalized) {
  if (model_.removes_extra_spaces)
    ++held_spaces_;
  else
    normalized += space_;
}

// At a text's end the spaces of the model's way to write them go: those that the text itself wrote so go, too.
void TextNormalizer::append(std::string_view replacement, std::string& normalized) {
  spelled_.clear();
  for (const char c : replacement)
    if (c == ' ')
      spelled_ += space_;
    else
      spelled_ += c;
  std::string_view text = spelled_;
  size_t spaces = 0;
  for (; model_.removes_extra_spaces && text.ends_with(space_); ++spaces) text.remove_suffix(space_.size());
  if (!text.empty()) {
    for (; held_spaces_ > 0; --held_spaces_) normalized += space_;
    normalized += text;
  }
  held_spaces_ += spaces;
}

void TextNormalizer::take_steps(bool ends, std::string& normalized) {
  std::string_view text = rest_;
  while (!text.empty()) {
    const std::optional<Step> step = next_step(text, ends);
    if (!step) break;
    text.remove_prefix(step->bytes);
    std::string_view replacement = step->replacement;
    if (!started_) {
      if (model_.removes_extra_spaces && replacement == " ") continue;
      started_ = true;
      behind_space_ = model_.removes_extra_spaces;
      if (model_.adds_space && !model_.space_is_suffix) append_space(normalized);
    }
    while (behind_space_ && replacement.starts_with(' ')) replacement.remove_prefix(1);
    if (replacement.empty()) continue;
    append(replacement, normalized);
    behind_space_ = model_.removes_extra_spaces && replacement.ends_with(' ');
  }
  rest_.erase(0, rest_.size() - text.size());
}

void TextNormalizer::add(std::string_view text, std::string& normalized) {
  if (is_plain_ && started_) return append(text, normalized);
  rest_ += text;
  take_steps(false, normalized);
}

void TextNormalizer::finish(std::string& normalized) {
  take_steps(true, normalized);
  if (started_ && model_.adds_space && model_.space_is_suffix) normalized += space_;
  started_ = false;
  behind_space_ = false;
  held_spaces_ = 0;
}

}  // namespace skippipe
