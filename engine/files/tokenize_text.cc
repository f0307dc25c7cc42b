#include "engine/files/tokenize_text.h"

#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"

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
        "documents, or change the validation share ({}) or the seed ({})",
        train, validation, options.validation_share, options.seed);
}

}  // namespace

TokenizedText tokenize_text(const std::filesystem::path& folder, const Tokenizer& tokenizer, TextReader& text,
                            const TokenizeOptions& options, const std::function<void(uint64_t bytes_read)>& progress) {
  const int32_t eos = special_id(tokenizer.eos_id(), "EOS");
  const int32_t bos = options.bos ? special_id(tokenizer.bos_id(), "BOS") : 0;
  const auto vocabulary = static_cast<uint32_t>(tokenizer.vocabulary_size());
  make_folder(folder);
  TokenShardWriter train(folder / kTrainShard, vocabulary, tokenizer.fingerprint());
  TokenShardWriter validation(folder / kValidationShard, vocabulary, tokenizer.fingerprint());

  std::vector<int32_t> ids;
  TextPiece piece;
  uint64_t document = 0;
  bool at_document_start = true;
  while (text.next(piece)) {
    ids.clear();
    if (at_document_start && options.bos) ids.push_back(bos);
    tokenizer.encode(piece.text, ids);
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
