// Token shards: the tokens of many documents in one file, memory-mapped.
//
// The file, little-endian throughout:
//
//   offset  bytes       field
//        0  8           magic "skptokn\n"
//        8  4           version, 1
//       12  4           bytes per token, 2 or 4
//       16  8           number of tokens
//       24  8           number of documents
//       32  4           vocabulary size: every token is below it
//       36  4           0
//       40  8           fingerprint of the tokenizer (Tokenizer::fingerprint), 0 if unknown
//       48  8           0
//       56  8           XXH64 of bytes 0 to 55, seed 0
//       64  tokens      the tokens of all documents, each document with the EOS that ends it
//           0 to 7      zeros up to a multiple of 8
//           8 * docs    for each document, the position of its first token
//
// and nothing behind.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_writer.h"

namespace skippipe {

struct TokenShardInfo {
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint32_t vocabulary = 0;
  uint32_t token_bytes = 0;
  uint64_t tokenizer_fingerprint = 0;
};

// Writes a shard under a temporary name; finish() publishes it, and without finish() nothing stays. Memory does not
// grow with the shard. One thread. Throws FileError.
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, uint32_t vocabulary, uint64_t tokenizer_fingerprint);

  // Adds tokens to the open document. Throws FileError if one is not in the vocabulary.
  void append(std::span<const int32_t> tokens);
  // Ends the open document, which must have tokens.
  void end_document();
  const TokenShardInfo& info() const { return info_; }
  // The last document must have ended.
  TokenShardInfo finish();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  FileWriter file_;
  std::unique_ptr<std::FILE, Close> positions_;  // of the documents, until they are appended
  TokenShardInfo info_;
  uint64_t document_begin_ = 0;
  std::vector<std::byte> encoded_;
};

// A shard to read. Immutable, so any thread may use it.
class TokenShard {
 public:
  // Checks header and sizes. Throws FileError.
  explicit TokenShard(const std::filesystem::path& path);

  const TokenShardInfo& info() const { return info_; }
  const std::filesystem::path& path() const { return path_; }
  // tokens[i] = token begin + i. Throws FileError if a token is not in the vocabulary.
  void read(uint64_t begin, std::span<int32_t> tokens) const;
  // The position of a document's first token. Throws FileError if the table does not ascend within the shard.
  uint64_t document_begin(uint64_t document) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  TokenShardInfo info_;
  uint64_t positions_offset_ = 0;
};

}  // namespace skippipe
