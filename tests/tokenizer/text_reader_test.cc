#include "tokenizer/text_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using Documents = std::vector<std::string>;

Documents read_all(const std::vector<std::filesystem::path>& files, const DocumentRules& rules = {}) {
  TextReader reader(files, rules);
  Documents documents;
  std::string document;
  TextPiece piece;
  while (reader.next(piece)) {
    EXPECT_LE(piece.text.size(), 2 * TextReader::kPieceBytes + 4);
    document += piece.text;
    if (!piece.ends_document) continue;
    documents.push_back(document);
    document.clear();
  }
  EXPECT_EQ(document, "") << "a document without an end";
  EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
  return documents;
}

TEST(TextReader, AFileIsADocument) {
  const TempFolder folder;
  EXPECT_EQ(read_all({folder.write("a", "one\n\ntwo"), folder.write("b", ""), folder.write("c", "three\r\n")}),
            (Documents{"one\n\ntwo", "three\r\n"}));
}

TEST(TextReader, SplitsAtBlankLines) {
  const TempFolder folder;
  EXPECT_EQ(read_all({folder.write("a", "\n\none\nmore\n \t\n\r\n\ntwo\n\n")}, {.separator = ""}),
            (Documents{"one\nmore\n", "two\n"}));
}

TEST(TextReader, SplitsAtASeparator) {
  const TempFolder folder;
  EXPECT_EQ(read_all({folder.write("a", "one\n\n---\n--- two\n---\r\nthree\n---")}, {.separator = "---"}),
            (Documents{"one\n\n", "--- two\n", "three\n"}));
}

TEST(TextReader, SplitsAfterLines) {
  const TempFolder folder;
  EXPECT_EQ(read_all({folder.write("a", "1\n2\n3\n4\n5"), folder.write("b", "6\n7\n")}, {.lines = 2}),
            (Documents{"1\n2\n", "3\n4\n", "5", "6\n7\n"}));
}

TEST(TextReader, ReadsJsonLines) {
  const TempFolder folder;
  const auto path = folder.write(
      "a.jsonl", "{\"text\": \"one\\nline \\u00e9\"}\n\n{\"id\": 3, \"text\": \"\"}\n  {\"text\": \"two\"}");
  EXPECT_EQ(read_all({path}, {.lines = 1}), (Documents{"one\nline \xc3\xa9", "two"}));
}

TEST(TextReader, KnowsJsonLinesByTheirContent) {
  const TempFolder folder;
  const std::string lines = "\n \n{\"text\": \"one\"}\r\n{\"id\": 3, \"text\": \"two\"}\n";
  for (const std::string name : {"a.JSONL", "a.NdJson"}) {
    TextReader reader({folder.write(name, lines)}, {});
    TextPiece piece;
    EXPECT_TRUE(reader.next(piece));
    EXPECT_EQ(piece.text, "one");
    EXPECT_TRUE(reader.guesses().empty());
  }
  for (const std::string name : {"a.json", "a.jsonl.part-0", "a", "a.txt"})
    for (const std::string before : {"", "\xef\xbb\xbf"}) {
      TextReader reader({folder.write(name, before + lines)}, {});
      TextPiece piece;
      EXPECT_TRUE(reader.next(piece));
      EXPECT_EQ(piece.text, "one") << name;
      EXPECT_EQ(reader.document(), (folder / name).string() + ":3");
      EXPECT_EQ(reader.guesses(), std::vector{(folder / name).string() + ": read as JSON lines"});
    }
  const auto long_line = folder.write("long", "{\"text\": \"" + std::string(1 << 20, 'x') + "\"}\n" + lines);
  EXPECT_EQ(read_all({long_line}), (Documents{std::string(1 << 20, 'x'), "one", "two"}));
}

TEST(TextReader, TextThatBeginsWithABraceIsText) {
  const TempFolder folder;
  for (const std::string text :
       {"{curly} words", "{\n}\n x", "[1] a footnote\n", "[link](there)", "{", "[", "x {\"a\""})
    EXPECT_EQ(read_all({folder.write("a", text)}), Documents{text});
  const std::string lines = "{\"text\": \"one\"}\n";
  EXPECT_EQ(read_all({folder.write("a.jsonl", lines)}, {.format = TextFormat::kPlain}), Documents{lines});
  EXPECT_EQ(read_all({folder.write("a", lines)}, {.format = TextFormat::kJsonLines}), Documents{"one"});
  TextReader reader({folder.write("a.json", "words")}, {});
  TextPiece piece;
  EXPECT_TRUE(reader.next(piece));
  EXPECT_EQ(reader.guesses().size(), 1u);
}

TEST(TextReader, AsksWhereTheFormatIsInDoubt) {
  const TempFolder folder;
  const auto read = [&](std::string_view content) { read_all({folder.write("a.json", content)}); };
  constexpr char kHint[] = "--format text reads it as plain text";
  for (const char* content :
       {"{\"text\": 4}\n", "{\"body\": \"x\"}\n", "{\n  \"text\": \"x\"\n}\n", "[{\"text\": \"x\"}]\n", "[\n\"x\"]",
        "{}", "{\"text\": \"x\"} and more\n", "{\"text\": \"x\"}\nprose\n"})
    SKP_EXPECT_ERROR(read(content), FileError, kHint);
  SKP_EXPECT_ERROR(read("\n{\"text\": 4}\n"), FileError, "a.json:2: text: found 4, expected a string");
}

TEST(TextReader, NamesFilesThatAreNoText) {
  const TempFolder folder;
  const auto read = [&](const std::string& content, TextFormat format = TextFormat::kAutomatic) {
    read_all({folder.write("a", content)}, {.format = format});
  };
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44\n";
  SKP_EXPECT_ERROR(read(pointer), FileError, "a: not UTF-8 text or JSON lines: found a Git LFS pointer");
  SKP_EXPECT_ERROR(read(std::string("PK\3\4 and so on")), FileError,
                   "a: not UTF-8 text or JSON lines: found a zip archive");
  SKP_EXPECT_ERROR(read("\x1f\x8b\x08", TextFormat::kPlain), FileError,
                   "a: not UTF-8 text or JSON lines: found a file compressed by gzip");
  EXPECT_NO_THROW(read(pointer, TextFormat::kPlain));
  TextReader page({folder.write("page", "<!DOCTYPE html>\n<p>words\n")}, {});
  TextPiece piece;
  EXPECT_TRUE(page.next(piece));
  EXPECT_EQ(page.guesses(), std::vector{(folder / "page").string() + ": an HTML page, read as plain text"});
}

TEST(TextReader, ReadsPipes) {
  for (const std::string text : {"{\"text\": \"one\"}\n", "one"}) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    ASSERT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
    close(ends[1]);
    TextReader reader({fmt::format("/dev/fd/{}", ends[0])}, {});
    TextPiece piece;
    ASSERT_TRUE(reader.next(piece));
    EXPECT_EQ(piece.text, "one");
    EXPECT_TRUE(piece.ends_document);
    EXPECT_FALSE(reader.next(piece));
    EXPECT_EQ(reader.total_bytes(), 0u);
    EXPECT_EQ(reader.bytes_read(), text.size());
    close(ends[0]);
  }
}

TEST(TextReader, DropsTheByteOrderMark) {
  const TempFolder folder;
  EXPECT_EQ(read_all({folder.write("a", "\xef\xbb\xbfx"), folder.write("b.jsonl", "\xef\xbb\xbf{\"text\": \"y\"}")}),
            (Documents{"x", "y"}));
}

TEST(TextReader, MemoryStaysBoundedWhateverTheLines) {
  const TempFolder folder;
  std::string one_line;  // of characters that do not divide the piece size
  while (one_line.size() < 3 * TextReader::kPieceBytes) one_line += "\xe6\xbc\xa2x\xf0\x9f\x98\x80";
  std::string many_lines;
  while (many_lines.size() < 3 * TextReader::kPieceBytes) many_lines += "a line of text\n";
  EXPECT_EQ(read_all({folder.write("a", one_line), folder.write("b", many_lines)}), (Documents{one_line, many_lines}));
  // A separator right behind a piece that was handed out ends the document with an empty piece.
  const std::string full(TextReader::kPieceBytes - 1, 'x');
  EXPECT_EQ(read_all({folder.write("c", full + "\n\ny\n")}, {.separator = ""}), (Documents{full + "\n", "y\n"}));
  // A long line is not taken for a separator where a part of it would be one.
  const std::string part(TextReader::kPieceBytes, 'x');
  EXPECT_EQ(read_all({folder.write("d", part + "\ny\n")}, {.separator = ""}), (Documents{part + "\ny\n"}));
}

TEST(TextReader, NamesFileAndPlaceOfBadText) {
  const TempFolder folder;
  const auto read = [&](std::string_view name, std::string_view content) { read_all({folder.write(name, content)}); };
  SKP_EXPECT_ERROR(read("a", "fine\nba\xff"), FileError, "a: byte 7 is not valid UTF-8");
  SKP_EXPECT_ERROR(read("b", "cut \xe6\xbc"), FileError, "b: byte 4 is not valid UTF-8");
  SKP_EXPECT_ERROR(read("c", std::string(2 * TextReader::kPieceBytes, 'x') + "\xc3("), FileError,
                   "byte 2097152 is not");
  SKP_EXPECT_ERROR(read("d.jsonl", "{\"text\": \"x\"}\n\n{\"text\" \"y\"}\n"), FileError, "d.jsonl:3: not valid JSON");
  SKP_EXPECT_ERROR(read("e.jsonl", "{\"body\": \"x\"}\n"), FileError, "e.jsonl:1: field 'text' is missing");
  SKP_EXPECT_ERROR(read("f.jsonl", "{\"text\": 4}\n"), FileError, "f.jsonl:1: text: found 4, expected a string");
  SKP_EXPECT_ERROR(read("g.jsonl", "[1]\n"), FileError, "g.jsonl:1");
  SKP_EXPECT_ERROR(read("h.jsonl", "{\"text\": \"\xff\"}\n"), FileError, "h.jsonl: byte 10 is not valid UTF-8");
  SKP_EXPECT_ERROR(TextReader({folder / "none"}, {}), FileError, "none: no such file");
  SKP_EXPECT_ERROR(TextReader({folder.path()}, {}), FileError, "a folder");
}

}  // namespace
}  // namespace skippipe
