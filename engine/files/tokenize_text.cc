#include "engine/files/tokenize_text.h"

#include <optional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "tokenizer/document_encoder.h"

namespace skippipe {
namespace {

int32_t special_id(int32_t id, const char* name) {
  if (id < 0) throw ConfigError("the tokenizer has no {} token", name);
  return id;
}

void check_split(uint64_t train, uint64_t validation, const TokenizeOptions& options) {
  if (train == 0 && validation == 0) throw ConfigError("tokenize: the files hold no text");
  if (train == 0 || (options.validation_share > 0 && validation == 0))
    throw ConfigError(
        "tokenize: {} documents for training and {} for validation, expected some of each: split the text into more "
        "documents (--document-lines, --document-separator), or change --validation-share ({}) or --seed ({})",
        train, validation, options.validation_share, options.seed);
}

// Tokens of documents that come in pieces: SentencePiece gets short ones whole.
class PieceEncoder {
 public:
  explicit PieceEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The piece that `text` handed out.
  void encode(const TextPiece& piece, const TextReader& text, std::vector<int32_t>& ids) {
    const bool is_whole = !within_document_ && piece.ends_document;
    within_document_ = !piece.ends_document;
    if (is_whole && piece.text.size() <= kMaxShortBytes) return tokenizer_.encode(piece.text, ids);
    try {
      if (!encoder_) encoder_.emplace(tokenizer_);
      encoder_->add(piece.text, ids);
      if (piece.ends_document) encoder_->finish(ids);
    } catch (const FileError& error) {
      throw FileError("{}: the document that begins here: {}", text.document(), error.what());
    }
  }

 private:
  static constexpr size_t kMaxShortBytes = 2 * TextReader::kPieceBytes;

  const Tokenizer& tokenizer_;
  std::optional<DocumentEncoder> encoder_;
  bool within_document_ = false;
};

}  // namespace

TokenizedText tokenize_text(const std::filesystem::path& folder, const Tokenizer& tokenizer, TextReader& text,
                            const TokenizeOptions& options, const std::function<void(uint64_t bytes_read)>& progress) {
  const int32_t eos = special_id(tokenizer.eos_id(), "EOS");
  const int32_t bos = options.bos ? special_id(tokenizer.bos_id(), "BOS") : 0;
  const auto vocabulary = static_cast<uint32_t>(tokenizer.vocabulary_size());
  make_folder(folder);
  TokenShardWriter train(folder / kTrainShard, vocabulary, tokenizer.fingerprint());
  TokenShardWriter validation(folder / kValidationShard, vocabulary, tokenizer.fingerprint());

  PieceEncoder encoder(tokenizer);
  std::vector<int32_t> ids;
  TextPiece piece;
  uint64_t document = 0;
  bool at_document_start = true;
  while (text.next(piece)) {
    ids.clear();
    if (at_document_start && options.bos) ids.push_back(bos);
    encoder.encode(piece, text, ids);
    if (piece.ends_document) ids.push_back(eos);
    TokenShardWriter& shard =
        Random(options.seed, {document}).uniform() < options.validation_share ? validation : train;
    shard.append(ids);
    if (piece.ends_document) {
      shard.end_document();
      ++document;
    }
    at_document_start = piece.ends_document;
    if (progress) progress(text.bytes_read());
  }
  check_split(train.info().documents, validation.info().documents, options);
  TokenizedText result;
  if (options.validation_share > 0) result.validation = validation.finish();
  result.train = train.finish();
  return result;
}

}  // namespace skippipe
