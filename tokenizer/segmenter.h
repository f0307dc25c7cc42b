// The pieces of a normalized text that comes character by character, as SentencePiece cuts the whole of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/byte_trie.h"
#include "tokenizer/sentencepiece_model.h"

namespace skippipe {

// The last piece of the best cut of a text's start.
struct LastPiece {
  int32_t id = -1;          // what is no piece is a character by itself: the vocabulary's size + its code point
  uint32_t characters = 0;  // 0: the start is empty
  float score = 0;          // of the whole start, where the model sums scores
};

// Cuts a text. For each of its characters the last piece of the best cut up to there follows from those before, so the
// cuts are a tree whose root is the text's start: what is on the way to all places where a piece may yet begin is
// decided. One thread.
class Segmenter {
 public:
  // Finds the last piece of the best cut of a text: a function of the text and of the last pieces for each of its
  // shorter starts, from the empty one.
  using ChooseLast = std::function<LastPiece(std::string_view text, std::span<const LastPiece> starts)>;
  using Sink = std::function<void(std::string_view text, int32_t id)>;

  // Decides after `part` characters at the latest where it can.
  Segmenter(ChooseLast choose_last, size_t longest_piece_characters, size_t part);

  void add_character(std::string_view character, const Sink& sink);
  // The end: what is added next begins another text.
  void finish(const Sink& sink);
  // That were added and did not come out.
  size_t undecided_characters() const { return starts_.size() - 1; }

 private:
  size_t decided_characters() const;
  void hand_out(size_t characters, const Sink& sink);

  ChooseLast choose_last_;
  size_t longest_piece_, part_;
  std::string text_;               // undecided
  std::vector<LastPiece> starts_;  // for each start of it, from the empty one
  size_t next_look_;               // when so many are undecided
};

// Pieces that end where a text ends.
class PieceEndings {
 public:
  explicit PieceEndings(const SentencePieceModel& model);

  struct Ending {
    int32_t id;
    uint32_t characters;
  };
  // The shortest first. Stays until the next call.
  std::span<const Ending> find(std::string_view text);
  size_t longest_piece_characters() const { return longest_; }

 private:
  std::vector<uint32_t> characters_;  // of each piece
  uint32_t longest_ = 1;
  ByteTrie reversed_;
  std::vector<Ending> found_;
};

// The cut of the highest sum of scores (Kudo 2018, arXiv:1804.10959), in SentencePiece's arithmetic: single-precision
// sums from the text's start, so that rounding decides as it does there, however long the text is.
class UnigramChoice {
 public:
  explicit UnigramChoice(const SentencePieceModel& model);
  LastPiece operator()(std::string_view text, std::span<const LastPiece> starts);
  size_t longest_piece_characters() const { return endings_.longest_piece_characters(); }

 private:
  PieceEndings endings_;
  std::vector<double> scores_;
  float unknown_score_;
};

// Byte-pair encoding: of all pairs of neighbours that make a piece, the one of the highest score is merged first, of
// equals the leftmost. A cut is the one of the whole text if and only if each of its pairs of neighbours is the cut of
// that pair's text alone: up to a first merge across the border of two of them, what is merged within them is what
// would be merged if they were alone, in that order, and then that merge would come there, too. So the cut of a start
// ends with the one piece that is the cut of its own text and fits the last piece of the start before it.
// (With van Antwerpen and Neubeck's algorithm, https://github.com/github/rust-gems, crates/bpe.)
class BytePairChoice {
 public:
  explicit BytePairChoice(const SentencePieceModel& model);
  LastPiece operator()(std::string_view text, std::span<const LastPiece> starts);
  size_t longest_piece_characters() const { return endings_.longest_piece_characters(); }

 private:
  bool fits(int32_t left, int32_t right);
  bool merges_apart(const std::string& left, const std::string& right);
  std::string text_of(int32_t id) const;
  float merged_score(const char* begin, const char* end) const;

  const SentencePieceModel& model_;
  PieceEndings endings_;
  std::unordered_map<std::string_view, float> scores_;
  std::vector<uint64_t> known_;  // answers of fits, each in the place of its hash
  std::vector<const char*> borders_;
  std::vector<float> merges_;
};

}  // namespace skippipe
