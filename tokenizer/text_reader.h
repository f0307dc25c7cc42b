// Streams documents out of text files: plain UTF-8, or JSON lines with a `text` field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skippipe {

// Automatic: JSON lines if the name ends with .jsonl or .ndjson, or if the first line holds an object with a text;
// plain text if it does not begin like JSON; else an error that asks to be told.
enum class TextFormat { kAutomatic, kPlain, kJsonLines };

// Where a document of a plain text file ends, besides the end of the file. In JSON lines every line is a document.
struct DocumentRules {
  std::optional<std::string> separator =
      {};              // a line equal to this one, which belongs to no document; "": a blank line
  uint64_t lines = 0;  // after so many lines; 0: no such limit
  TextFormat format = TextFormat::kAutomatic;
};

// A part of a document. Documents are cut at line ends where possible, so that memory stays bounded.
struct TextPiece {
  std::string_view text;       // valid UTF-8; stays until the next call of next()
  bool ends_document = false;  // the last piece of a document may be empty
};

// Reads the files one after the other, once each: pipes are files, too. Empty documents are left out. One thread.
class TextReader {
 public:
  static constexpr size_t kPieceBytes = 1 << 20;
  static constexpr size_t kMaxJsonLineBytes = 64 << 20;

  // Throws FileError if a file does not exist.
  TextReader(std::vector<std::filesystem::path> files, DocumentRules rules);

  // False at the end. Throws FileError: invalid UTF-8 (with the byte offset), bad JSON (with the line), a file that is
  // something else or whose format is in doubt.
  bool next(TextPiece& piece);

  // Where the document of the newest piece begins: "file:line".
  std::string document() const;
  // What was found out about files by what they hold and not by their names, for the user: a line for each of the first
  // few, and how many more there were.
  const std::vector<std::string>& guesses() const { return guesses_; }
  uint64_t more_guesses() const { return more_guesses_; }
  uint64_t bytes_read() const { return bytes_read_; }
  // Of the files whose size is known: a pipe counts nothing.
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  struct Line {
    std::string_view text;  // with its line end; valid until the next read
    bool complete = false;  // false: the line goes on
  };

  bool open_next_file();
  bool find_out_whether_json();
  bool begins_like_json() const;
  std::string_view first_line();
  void guess(const char* what);
  const std::filesystem::path& file() const { return files_[next_file_ - 1]; }
  bool read_block();
  bool read_line(Line& line, size_t max_bytes);
  bool next_json(TextPiece& piece);
  bool next_plain(TextPiece& piece);
  bool is_separator(const Line& line) const;

  std::vector<std::filesystem::path> files_;
  DocumentRules rules_;
  uint64_t total_bytes_ = 0;
  uint64_t bytes_read_ = 0;

  size_t next_file_ = 0;
  std::ifstream stream_;
  bool is_json_ = false;
  bool is_guess_ = false;     // that it is
  std::string first_bytes_;   // of the file: they tell what it is if it is no text
  uint64_t file_offset_ = 0;  // of buffer_[begin_]
  uint64_t line_number_ = 0;  // of the line read last, from 1
  bool at_line_start_ = true;
  std::string buffer_;  // read, not handed out
  size_t begin_ = 0;

  std::string piece_;
  std::vector<std::string> guesses_;
  uint64_t more_guesses_ = 0;
  uint64_t document_line_ = 0;      // where the document begins
  uint64_t document_lines_ = 0;     // complete lines of the document so far
  bool document_has_text_ = false;  // some piece of this document was handed out
};

}  // namespace skippipe
