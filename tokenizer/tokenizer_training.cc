#include "tokenizer/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "base/random.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

constexpr int32_t kSmallestVocabulary = 260;  // 256 bytes, 3 special pieces, the space
constexpr size_t kMaxSentenceBytes = 4096;    // SentencePiece skips longer ones

// Hands the text to SentencePiece in sentences: lines, or parts of long ones.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(TextReader& text, const TokenizerTraining& settings, const std::function<void(uint64_t)>& progress)
      : text_(text), seed_(settings.seed), progress_(progress) {
    if (text.total_bytes() > settings.max_bytes)
      share_ = static_cast<double>(settings.max_bytes) / static_cast<double>(text.total_bytes());
    Next();
  }

  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    do {
      if (!cut_sentence()) {
        done_ = true;
        return;
      }
    } while (Random(seed_, {number_++}).uniform() >= share_);
  }

 private:
  bool cut_sentence() {
    while (rest_.empty()) {
      if (!text_.next(piece_)) return false;
      rest_ = piece_.text;
      if (progress_) progress_(text_.bytes_read());
    }
    const size_t line = std::min(rest_.find('\n'), rest_.size());
    size_t size = std::min(line, kMaxSentenceBytes);
    if (size < line) size = utf8_boundary(rest_.substr(0, size));
    sentence_ = rest_.substr(0, size);
    rest_.remove_prefix(size == line && line < rest_.size() ? size + 1 : size);
    return true;
  }

  TextReader& text_;
  uint64_t seed_;
  const std::function<void(uint64_t)>& progress_;
  double share_ = 1;
  uint64_t number_ = 0;
  TextPiece piece_;
  std::string_view rest_;
  std::string sentence_;
  bool done_ = false;
};

// The digits behind a marker in the message; empty if there are none.
std::string number_behind(const std::string& message, std::string_view marker) {
  const size_t found = message.find(marker);
  if (found == std::string::npos) return "";
  const size_t begin = found + marker.size();
  return message.substr(begin, message.find_first_not_of("0123456789", begin) - begin);
}

// SentencePiece says in prose how large a vocabulary the text allows.
[[noreturn]] void report_failure(const std::string& message, int32_t vocabulary) {
  const std::string most = number_behind(message, "value <= ");
  if (!most.empty())
    throw ConfigError("tokenizer: the text fills a vocabulary of at most {}, found --vocabulary {}", most, vocabulary);
  const std::string least = number_behind(message, fmt::format("required_chars. {} vs ", vocabulary));
  if (!least.empty())
    throw ConfigError("tokenizer: the text needs a vocabulary of at least {}, found --vocabulary {}", least,
                      vocabulary);
  throw ConfigError("tokenizer: cannot learn a vocabulary of {}: {}", vocabulary, message);
}

}  // namespace

std::string train_tokenizer(TextReader& text, const TokenizerTraining& settings,
                            const std::function<void(uint64_t bytes_read)>& progress) {
  if (settings.vocabulary < kSmallestVocabulary)
    throw ConfigError("tokenizer: a vocabulary of {}, expected at least {}", settings.vocabulary, kSmallestVocabulary);
  Sentences sentences(text, settings, progress);
  if (sentences.done()) throw ConfigError("tokenizer: the files hold no text to learn from");
  // The model records these settings, so they must not depend on the machine.
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(settings.vocabulary)},
      {"num_threads", "8"},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"max_sentence_length", std::to_string(2 * kMaxSentenceBytes)},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &model);
  if (!status.ok()) report_failure(status.ToString(), settings.vocabulary);
  return model;
}

}  // namespace skippipe
