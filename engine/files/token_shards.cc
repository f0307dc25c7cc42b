#include "engine/files/token_shards.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file_kind.h"

namespace skippipe {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are written as they lie in memory");

struct Header {
  std::array<char, 8> magic = {'s', 'k', 'p', 't', 'o', 'k', 'n', '\n'};
  uint32_t version = 1;
  uint32_t token_bytes = 0;
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint32_t vocabulary = 0;
  uint32_t zero = 0;
  uint64_t tokenizer_fingerprint = 0;
  uint64_t reserved = 0;
  uint64_t checksum = 0;
};
static_assert(sizeof(Header) == 64);

constexpr uint64_t kMaxCount = 1ull << 56;  // keeps the sums of sizes below from overflowing

uint64_t checksum_of(const Header& header) { return XXH64(&header, offsetof(Header, checksum), 0); }

uint64_t padding_behind(uint64_t bytes) { return (8 - bytes % 8) % 8; }

Header read_header(const std::filesystem::path& path, std::span<const std::byte> file) {
  Header header;
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  const Header expected;
  if (!bytes.starts_with(std::string_view(expected.magic.data(), expected.magic.size())))
    refuse_foreign_file(bytes, path.string(), "a token shard");
  if (file.size() < sizeof header)
    throw FileError("{}: {} bytes, too short for a token shard ({} bytes of header)", path.string(), file.size(),
                    sizeof header);
  std::memcpy(&header, file.data(), sizeof header);
  if (header.magic != expected.magic) throw FileError("{}: not a token shard", path.string());
  if (header.version != expected.version)
    throw FileError("{}: token shard version {}, expected {}", path.string(), header.version, expected.version);
  if (header.checksum != checksum_of(header))
    throw FileError("{}: the header's checksum does not match", path.string());
  if (header.token_bytes != 2 && header.token_bytes != 4)
    throw FileError("{}: {} bytes per token, expected 2 or 4", path.string(), header.token_bytes);
  if (header.vocabulary == 0 || header.vocabulary > 1u << 31)
    throw FileError("{}: a vocabulary of {}, expected 1 to {}", path.string(), header.vocabulary, 1u << 31);
  if (header.tokens > kMaxCount || header.documents > header.tokens)
    throw FileError("{}: {} tokens in {} documents cannot be", path.string(), header.tokens, header.documents);
  return header;
}

}  // namespace

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path, uint32_t vocabulary,
                                   uint64_t tokenizer_fingerprint)
    : path_(path), file_(path), positions_(std::tmpfile()) {
  if (!positions_) throw FileError("{}: cannot create a temporary file: {}", path.string(), std::strerror(errno));
  info_.vocabulary = vocabulary;
  info_.token_bytes = vocabulary <= 1u << 16 ? 2 : 4;
  info_.tokenizer_fingerprint = tokenizer_fingerprint;
  const Header placeholder;
  file_.write(std::as_bytes(std::span(&placeholder, 1)));
}

void TokenShardWriter::append(std::span<const int32_t> tokens) {
  encoded_.resize(tokens.size() * info_.token_bytes);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= info_.vocabulary)
      throw FileError("{}: token {} is not in the vocabulary of {}", path_.string(), tokens[i], info_.vocabulary);
    std::memcpy(&encoded_[i * info_.token_bytes], &tokens[i], info_.token_bytes);
  }
  file_.write(encoded_);
  info_.tokens += tokens.size();
}

void TokenShardWriter::end_document() {
  SKP_CHECK(info_.tokens > document_begin_, "{}: document {} is empty", path_.string(), info_.documents);
  if (std::fwrite(&document_begin_, sizeof document_begin_, 1, positions_.get()) != 1)
    throw FileError("{}: cannot write a temporary file: {}", path_.string(), std::strerror(errno));
  document_begin_ = info_.tokens;
  ++info_.documents;
}

TokenShardInfo TokenShardWriter::finish() {
  SKP_CHECK(document_begin_ == info_.tokens, "{}: the last document was not ended", path_.string());
  constexpr std::array<std::byte, 8> kZeros{};
  file_.write(std::span(kZeros).first(padding_behind(file_.bytes_written())));
  std::rewind(positions_.get());
  std::vector<std::byte> block(1 << 16);
  for (uint64_t left = info_.documents * sizeof(uint64_t); left > 0;) {
    const size_t count = std::fread(block.data(), 1, std::min<uint64_t>(block.size(), left), positions_.get());
    if (count == 0) throw FileError("{}: cannot read a temporary file: {}", path_.string(), std::strerror(errno));
    file_.write(std::span(block).first(count));
    left -= count;
  }
  Header header;
  header.token_bytes = info_.token_bytes;
  header.tokens = info_.tokens;
  header.documents = info_.documents;
  header.vocabulary = info_.vocabulary;
  header.tokenizer_fingerprint = info_.tokenizer_fingerprint;
  header.checksum = checksum_of(header);
  file_.overwrite(0, std::as_bytes(std::span(&header, 1)));
  file_.publish();
  return info_;
}

TokenShard::TokenShard(const std::filesystem::path& path) : path_(path), file_(path) {
  const Header header = read_header(path, file_.bytes());
  info_ = {header.tokens, header.documents, header.vocabulary, header.token_bytes, header.tokenizer_fingerprint};
  const uint64_t token_bytes = header.tokens * header.token_bytes;
  positions_offset_ = sizeof header + token_bytes + padding_behind(token_bytes);
  const uint64_t expected = positions_offset_ + header.documents * sizeof(uint64_t);
  if (file_.bytes().size() != expected)
    throw FileError("{}: {} bytes, expected {} for {} tokens in {} documents", path.string(), file_.bytes().size(),
                    expected, header.tokens, header.documents);
}

void TokenShard::read(uint64_t begin, std::span<int32_t> tokens) const {
  if (begin > info_.tokens || tokens.size() > info_.tokens - begin)
    throw FileError("{}: tokens {} to {} were asked for, there are {}", path_.string(), begin, begin + tokens.size(),
                    info_.tokens);
  const std::byte* source = file_.bytes().data() + sizeof(Header) + begin * info_.token_bytes;
  for (size_t i = 0; i < tokens.size(); ++i) {
    uint32_t token = 0;
    std::memcpy(&token, source + i * info_.token_bytes, info_.token_bytes);
    if (token >= info_.vocabulary)
      throw FileError("{}: token {} at position {}, expected less than {}", path_.string(), token, begin + i,
                      info_.vocabulary);
    tokens[i] = static_cast<int32_t>(token);
  }
}

uint64_t TokenShard::document_begin(uint64_t document) const {
  SKP_CHECK(document < info_.documents, "{}: document {} of {}", path_.string(), document, info_.documents);
  const std::byte* entry = file_.bytes().data() + positions_offset_ + document * sizeof(uint64_t);
  uint64_t begin = 0;
  uint64_t previous = 0;
  std::memcpy(&begin, entry, sizeof begin);
  if (document > 0) std::memcpy(&previous, entry - sizeof begin, sizeof previous);
  const bool ascends = document == 0 ? begin == 0 : begin > previous;
  if (!ascends || begin >= info_.tokens)
    throw FileError("{}: document {} begins at {}, expected a position behind {} and below {}", path_.string(),
                    document, begin, previous, info_.tokens);
  return begin;
}

}  // namespace skippipe
