#include "tokenizer/segmenter.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <ranges>
#include <utility>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

using Kind = SentencePieceModel::Kind;

constexpr size_t kKnownAnswers = 1 << 18;
constexpr float kNoMerge = std::numeric_limits<float>::quiet_NaN();

uint32_t count_characters(std::string_view text) {
  return static_cast<uint32_t>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

bool may_be_cut_out(Kind kind) { return kind == Kind::kNormal || kind == Kind::kUserDefined; }

std::vector<std::pair<std::string, int32_t>> reversed_pieces(const SentencePieceModel& model) {
  std::vector<std::pair<std::string, int32_t>> entries;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, kind] = model.pieces[id];
    if (may_be_cut_out(kind)) entries.emplace_back(std::string(text.rbegin(), text.rend()), static_cast<int32_t>(id));
  }
  return entries;
}

// The last character of a text that is not empty.
std::string_view last_character(std::string_view text) {
  size_t begin = text.size() - 1;
  while ((text[begin] & 0xc0) == 0x80) --begin;
  return text.substr(begin);
}

int32_t code_point(std::string_view character) {
  const auto lead = static_cast<uint8_t>(character[0]);
  int32_t result = character.size() == 1 ? lead : lead & (0x7f >> character.size());
  for (const char c : character.substr(1)) result = result << 6 | (c & 0x3f);
  return result;
}

std::string utf8_of(int32_t code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  std::string result;
  int32_t limit = 0x40;  // of what the lead byte can hold besides the bytes behind it
  for (; code_point >= limit; limit >>= 1, code_point >>= 6)
    result.insert(result.begin(), static_cast<char>(0x80 | (code_point & 0x3f)));
  return result.insert(result.begin(), static_cast<char>(-2 * limit | code_point)), result;
}

}  // namespace

Segmenter::Segmenter(ChooseLast choose_last, size_t longest_piece_characters, size_t part)
    : choose_last_(std::move(choose_last)),
      longest_piece_(longest_piece_characters),
      part_(std::max<size_t>(part, 1)),
      starts_(1),
      next_look_(part_) {}

void Segmenter::add_character(std::string_view character, const Sink& sink) {
  text_ += character;
  starts_.push_back(choose_last_(text_, starts_));
  if (undecided_characters() < next_look_) return;
  hand_out(decided_characters(), sink);
  next_look_ = std::max(part_, 2 * undecided_characters());
}

void Segmenter::finish(const Sink& sink) {
  hand_out(undecided_characters(), sink);
  starts_.assign(1, {});
  next_look_ = part_;
}

// Where the ways to all places at which a later piece may begin come together.
size_t Segmenter::decided_characters() const {
  if (starts_.size() <= longest_piece_) return 0;
  std::vector<bool> on_a_way(starts_.size(), false);
  std::fill(on_a_way.end() - static_cast<std::ptrdiff_t>(longest_piece_), on_a_way.end(), true);
  size_t ways = longest_piece_;
  size_t place = starts_.size() - 1;
  for (; ways > 1 || !on_a_way[place]; --place) {
    if (!on_a_way[place]) continue;
    const size_t before = place - starts_[place].characters;
    if (on_a_way[before]) --ways;
    on_a_way[before] = true;
  }
  return place;
}

void Segmenter::hand_out(size_t characters, const Sink& sink) {
  std::vector<int32_t> ids;
  std::vector<uint32_t> lengths;
  for (size_t end = characters; end > 0; end -= lengths.back()) {
    ids.push_back(starts_[end].id);
    lengths.push_back(starts_[end].characters);
  }
  std::string_view rest = text_;
  while (!ids.empty()) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < lengths.back(); ++i) bytes += first_character_bytes(rest.substr(bytes));
    sink(rest.substr(0, bytes), ids.back());
    rest.remove_prefix(bytes);
    ids.pop_back();
    lengths.pop_back();
  }
  text_.erase(0, text_.size() - rest.size());
  starts_.erase(starts_.begin(), starts_.begin() + static_cast<std::ptrdiff_t>(characters));
}

PieceEndings::PieceEndings(const SentencePieceModel& model) : reversed_(reversed_pieces(model)) {
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    characters_.push_back(count_characters(piece.text));
    if (may_be_cut_out(piece.kind)) longest_ = std::max(longest_, characters_.back());
  }
}

std::span<const PieceEndings::Ending> PieceEndings::find(std::string_view text) {
  found_.clear();
  uint32_t node = ByteTrie::kRoot;
  for (const char c : std::views::reverse(text)) {
    node = reversed_.next(node, c);
    if (node == ByteTrie::kNowhere) break;
    const int32_t id = reversed_.value(node);
    if (id != ByteTrie::kNoValue) found_.push_back({id, characters_[static_cast<size_t>(id)]});
  }
  return found_;
}

// A user-defined piece scores so high that it is chosen. The types are SentencePiece's: they decide how sums round.
UnigramChoice::UnigramChoice(const SentencePieceModel& model) : endings_(model) {
  float lowest = FLT_MAX;
  float highest = FLT_MIN;
  for (const auto& piece : model.pieces) {
    if (piece.kind != Kind::kNormal) continue;
    lowest = std::min(lowest, piece.score);
    highest = std::max(highest, piece.score);
  }
  for (const auto& piece : model.pieces)
    scores_.push_back(piece.kind == Kind::kUserDefined ? static_cast<float>(piece.text.size()) * highest - 0.1
                                                       : static_cast<double>(piece.score));
  unknown_score_ = lowest - 10.0f;
}

LastPiece UnigramChoice::operator()(std::string_view text, std::span<const LastPiece> starts) {
  LastPiece best;
  const auto consider = [&](int32_t id, uint32_t characters, auto score) {
    if (best.characters == 0 || score > best.score) best = {id, characters, static_cast<float>(score)};
  };
  const auto score_before = [&](uint32_t characters) { return starts[starts.size() - characters].score; };
  const auto endings = endings_.find(text);
  for (const auto& [id, characters] : std::views::reverse(endings))
    consider(id, characters, scores_[static_cast<size_t>(id)] + score_before(characters));
  if (endings.empty() || endings.front().characters > 1)
    consider(static_cast<int32_t>(scores_.size()) + code_point(last_character(text)), 1,
             unknown_score_ + score_before(1));
  return best;
}

BytePairChoice::BytePairChoice(const SentencePieceModel& model)
    : model_(model), endings_(model), known_(kKnownAnswers, ~uint64_t{0}) {
  for (const auto& piece : model.pieces)
    if (may_be_cut_out(piece.kind)) scores_[piece.text] = piece.score;
}

LastPiece BytePairChoice::operator()(std::string_view text, std::span<const LastPiece> starts) {
  const auto fits_here = [&](int32_t id, uint32_t characters) {
    return fits(starts[starts.size() - characters].id, id);
  };
  const auto endings = endings_.find(text);
  for (const auto& [id, characters] : std::views::reverse(endings))
    if (fits_here(id, characters)) return {id, characters};
  const int32_t unknown = static_cast<int32_t>(model_.pieces.size()) + code_point(last_character(text));
  SKP_CHECK((endings.empty() || endings.front().characters > 1) && fits_here(unknown, 1),
            "no piece fits the end of a text");
  return {unknown, 1};
}

bool BytePairChoice::fits(int32_t left, int32_t right) {
  const uint64_t question = static_cast<uint64_t>(left + 1) << 32 | static_cast<uint64_t>(right);
  uint64_t& known = known_[question * 0x9e3779b97f4a7c15 >> 46];
  static_assert(kKnownAnswers == size_t{1} << (64 - 46));
  if (known >> 1 != question)
    known = question << 1 | uint64_t{merges_apart(left < 0 ? "" : text_of(left), text_of(right))};
  return (known & 1) != 0;
}

std::string BytePairChoice::text_of(int32_t id) const {
  const auto place = static_cast<size_t>(id);
  return place < model_.pieces.size() ? model_.pieces[place].text
                                      : utf8_of(static_cast<int32_t>(place - model_.pieces.size()));
}

float BytePairChoice::merged_score(const char* begin, const char* end) const {
  const auto found = scores_.find({begin, static_cast<size_t>(end - begin)});
  return found == scores_.end() ? kNoMerge : found->second;
}

// Whether the cut of left + right is those two; left may be empty.
bool BytePairChoice::merges_apart(const std::string& left, const std::string& right) {
  const std::string text = left + right;
  const char* const middle = text.data() + left.size();
  borders_.clear();
  for (std::string_view rest = text; !rest.empty(); rest.remove_prefix(first_character_bytes(rest)))
    borders_.push_back(rest.data());
  borders_.push_back(text.data() + text.size());
  merges_.clear();  // of the symbols before and behind a border
  for (size_t i = 0; i < borders_.size(); ++i)
    merges_.push_back(i == 0 || i + 1 == borders_.size() ? kNoMerge : merged_score(borders_[i - 1], borders_[i + 1]));
  while (true) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < borders_.size(); ++i)
      if (!std::isnan(merges_[i]) && (best == 0 || merges_[i] > merges_[best])) best = i;
    if (best == 0) break;
    if (borders_[best] == middle) return false;
    borders_.erase(borders_.begin() + static_cast<std::ptrdiff_t>(best));
    merges_.erase(merges_.begin() + static_cast<std::ptrdiff_t>(best));
    if (best > 1) merges_[best - 1] = merged_score(borders_[best - 2], borders_[best]);
    if (best + 1 < borders_.size()) merges_[best] = merged_score(borders_[best - 1], borders_[best + 1]);
  }
  return borders_.size() == (left.empty() ? 2u : 3u);
}

}  // namespace skippipe
