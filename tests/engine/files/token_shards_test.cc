#include "engine/files/token_shards.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using Document = std::vector<int32_t>;

TokenShardInfo write_shard(const std::filesystem::path& path, uint32_t vocabulary,
                           const std::vector<Document>& documents) {
  TokenShardWriter writer(path, vocabulary, 77);
  for (const Document& document : documents) {
    writer.append(std::span(document).first(document.size() / 2));
    writer.append(std::span(document).subspan(document.size() / 2));
    writer.end_document();
  }
  return writer.finish();
}

std::vector<int32_t> read_all(const TokenShard& shard) {
  std::vector<int32_t> tokens(shard.info().tokens);
  shard.read(0, tokens);
  return tokens;
}

TEST(TokenShard, GivesBackWhatWasWritten) {
  const TempFolder folder;
  for (const uint32_t vocabulary : {300u, 65536u, 65537u, 1u << 31}) {
    Random random(vocabulary);
    std::vector<Document> documents;
    std::vector<int32_t> all;
    std::vector<uint64_t> begins;
    for (int i = 0; i < 20; ++i) {
      begins.push_back(all.size());
      Document& document = documents.emplace_back();
      for (uint64_t n = 1 + random.below(9); n > 0; --n)
        document.push_back(static_cast<int32_t>(random.below(vocabulary)));
      document.back() = static_cast<int32_t>(vocabulary - 1);
      all.insert(all.end(), document.begin(), document.end());
    }
    const auto path = folder / "s";
    write_shard(path, vocabulary, documents);
    const TokenShard shard(path);
    EXPECT_EQ(shard.info().tokens, all.size());
    EXPECT_EQ(shard.info().documents, 20u);
    EXPECT_EQ(shard.info().vocabulary, vocabulary);
    EXPECT_EQ(shard.info().token_bytes, vocabulary <= 65536 ? 2u : 4u);
    EXPECT_EQ(shard.info().tokenizer_fingerprint, 77u);
    EXPECT_EQ(read_all(shard), all) << vocabulary;
    for (size_t i = 0; i < begins.size(); ++i) EXPECT_EQ(shard.document_begin(i), begins[i]);
    std::vector<int32_t> part(3);
    shard.read(5, part);
    EXPECT_EQ(part, std::vector<int32_t>(all.begin() + 5, all.begin() + 8));
  }
}

TEST(TokenShard, TheBytesAreAsDocumented) {
  const TempFolder folder;
  write_shard(folder / "s", 300, {{1, 299}, {2}});
  const std::string bytes = read_file(folder / "s");
  const std::string fields =
      std::string("skptokn\n\1\0\0\0\2\0\0\0\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\x2c\1\0\0\0\0\0\0", 40) +
      std::string("M\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
  EXPECT_EQ(bytes.substr(0, 56), fields);
  const uint64_t checksum = XXH64(fields.data(), fields.size(), 0);
  EXPECT_EQ(std::memcmp(bytes.data() + 56, &checksum, 8), 0);
  EXPECT_EQ(bytes.substr(64),
            std::string("\1\0\x2b\1\2\0\0\0", 8) + std::string("\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 16));
}

TEST(TokenShard, NothingStaysWithoutFinish) {
  const TempFolder folder;
  write_shard(folder / "s", 300, {{1, 2}});
  {
    TokenShardWriter writer(folder / "s", 300, 0);
    writer.append(Document{5});
    SKP_EXPECT_ERROR(writer.finish(), InternalError, "the last document was not ended");
    SKP_EXPECT_ERROR(writer.append(Document{3, 300}), FileError, "token 300 is not in the vocabulary of 300");
    SKP_EXPECT_ERROR(writer.append(Document{-1}), FileError, "token -1");
  }
  EXPECT_EQ(read_all(TokenShard(folder / "s")), (Document{1, 2}));
  EXPECT_EQ(folder.files(), 1u);
}

TEST(TokenShard, ReadsOnlyWhatIsThere) {
  const TempFolder folder;
  write_shard(folder / "s", 300, {{1, 2, 3}});
  const TokenShard shard(folder / "s");
  std::vector<int32_t> two(2);
  SKP_EXPECT_ERROR(shard.read(2, two), FileError, "tokens 2 to 4 were asked for, there are 3");
  SKP_EXPECT_ERROR(shard.read(std::numeric_limits<uint64_t>::max(), two), FileError, "there are 3");
  SKP_EXPECT_ERROR(shard.document_begin(1), InternalError, "document 1 of 1");
}

class DamagedShardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_shard(folder_ / "good", 300, {{1, 2, 3}, {4, 5}});
    bytes_ = read_file(folder_ / "good");
  }
  // Overwrites the bytes at the offset; with a checksum that fits.
  template <typename T>
  std::string with(size_t offset, T value) const {
    std::string bytes = bytes_;
    std::memcpy(bytes.data() + offset, &value, sizeof value);
    const uint64_t checksum = XXH64(bytes.data(), 56, 0);
    std::memcpy(bytes.data() + 56, &checksum, sizeof checksum);
    return bytes;
  }
  TokenShard open(const std::string& bytes) const { return TokenShard(folder_.write("bad", bytes)); }

  const TempFolder folder_;
  std::string bytes_;
};

TEST_F(DamagedShardTest, EveryLieInTheHeaderIsFound) {
  SKP_EXPECT_ERROR(open(with(0, 'x')), FileError, "bad: not a token shard");
  SKP_EXPECT_ERROR(open("<html>"), FileError, "bad: not a token shard: found an HTML page");
  SKP_EXPECT_ERROR(open(with(8, 2)), FileError, "version 2, expected 1");
  SKP_EXPECT_ERROR(open(with(12, 3)), FileError, "3 bytes per token, expected 2 or 4");
  SKP_EXPECT_ERROR(open(with(12, 4)), FileError, "bytes, expected");
  SKP_EXPECT_ERROR(open(with(32, 0)), FileError, "a vocabulary of 0");
  SKP_EXPECT_ERROR(open(with(32, 0xffffffffu)), FileError, "a vocabulary of 4294967295");
  for (const uint64_t tokens :
       {uint64_t{0}, uint64_t{9}, uint64_t{100}, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}})
    EXPECT_THROW(open(with(16, tokens)), FileError) << tokens;
  for (const uint64_t documents : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{1} << 61, ~uint64_t{0}})
    EXPECT_THROW(open(with(24, documents)), FileError) << documents;
  std::string bytes = bytes_;
  bytes[40] ^= 1;
  SKP_EXPECT_ERROR(open(bytes), FileError, "the header's checksum does not match");
}

TEST_F(DamagedShardTest, EveryWrongSizeIsFound) {
  for (size_t size = 0; size < bytes_.size(); ++size) EXPECT_THROW(open(bytes_.substr(0, size)), FileError) << size;
  SKP_EXPECT_ERROR(open(bytes_ + "x"), FileError, "for 5 tokens in 2 documents");
  SKP_EXPECT_ERROR(TokenShard(folder_ / "none"), FileError, "none: cannot open");
}

TEST_F(DamagedShardTest, TokensBeyondTheVocabularyAreNamed) {
  const TokenShard shard = open(with(64 + 2 * 3, uint16_t{300}));
  std::vector<int32_t> tokens(3);
  shard.read(0, tokens);
  SKP_EXPECT_ERROR(shard.read(2, tokens), FileError, "bad: token 300 at position 3, expected less than 300");
}

TEST_F(DamagedShardTest, DocumentsOutOfOrderAreFound) {
  const size_t positions = bytes_.size() - 16;
  SKP_EXPECT_ERROR(open(with(positions, uint64_t{1})).document_begin(0), FileError, "document 0 begins at 1");
  SKP_EXPECT_ERROR(open(with(positions + 8, uint64_t{0})).document_begin(1), FileError, "document 1 begins at 0");
  SKP_EXPECT_ERROR(open(with(positions + 8, uint64_t{5})).document_begin(1), FileError, "below 5");
}

}  // namespace
}  // namespace skippipe
