#include "tokenizer/text_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/json_reader.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::string_view kBlanks = " \t\r\n";
constexpr char kExpected[] = "UTF-8 text or JSON lines";
constexpr size_t kMaxGuesses = 10;

std::string_view without_line_end(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t") == std::string_view::npos; }

// In lower case.
std::string extension_of(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension;
}

// The document of a line of JSON.
std::string document_of(std::string_view line, const std::string& where) {
  const nlohmann::json document = parse_json(line, where);
  return JsonReader(document, where).at("text").as_string();
}

// Throws the error again, with a word on how to read the file otherwise.
[[noreturn]] void fail_guess(const FileError& error) {
  throw FileError("{} (it begins like JSON lines; --format text reads it as plain text)", error.what());
}

}  // namespace

TextReader::TextReader(std::vector<std::filesystem::path> files, DocumentRules rules)
    : files_(std::move(files)), rules_(std::move(rules)) {
  for (const auto& file : files_) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (!std::filesystem::exists(status)) throw FileError("{}: no such file", file.string());
    if (std::filesystem::is_directory(status)) throw FileError("{}: a folder, expected a text file", file.string());
    if (std::filesystem::is_regular_file(status)) total_bytes_ += std::filesystem::file_size(file);
  }
}

bool TextReader::open_next_file() {
  if (next_file_ == files_.size()) return false;
  const auto& path = files_[next_file_++];
  stream_ = std::ifstream(path, std::ios::binary);
  if (!stream_) throw FileError("{}: cannot open: {}", path.string(), std::strerror(errno));
  buffer_.clear();
  begin_ = 0;
  file_offset_ = 0;
  line_number_ = 0;
  at_line_start_ = true;
  is_guess_ = false;
  read_block();
  first_bytes_ = buffer_.substr(0, kFileKindBytes);
  is_json_ =
      rules_.format == TextFormat::kAutomatic ? find_out_whether_json() : rules_.format == TextFormat::kJsonLines;
  return true;
}

void TextReader::guess(const char* what) {
  if (guesses_.size() < kMaxGuesses)
    guesses_.push_back(fmt::format("{}: {}", file().string(), what));
  else
    ++more_guesses_;
}

bool TextReader::find_out_whether_json() {
  if (buffer_.empty()) return false;
  if (!is_html(first_bytes_)) refuse_foreign_file(first_bytes_, file().string(), kExpected);
  const std::string extension = extension_of(file());
  if (extension == ".jsonl" || extension == ".ndjson") return true;
  if (!begins_like_json()) {
    if (is_html(first_bytes_)) guess("an HTML page, read as plain text");
    if (extension == ".json") guess("read as plain text: it does not begin like JSON");
    return false;
  }
  const std::string_view line = first_line();
  try {
    document_of(line, fmt::format("{}:{}", file().string(), 1 + std::count(buffer_.c_str(), line.data(), '\n')));
  } catch (const FileError& error) {
    fail_guess(error);
  }
  guess("read as JSON lines");
  return is_guess_ = true;
}

// As an object with fields, or an array of objects or texts, would.
bool TextReader::begins_like_json() const {
  std::string_view text = buffer_;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const size_t first = std::min(text.find_first_not_of(kBlanks), text.size());
  const size_t second = std::min(text.find_first_not_of(kBlanks, first + 1), text.size());
  const std::string_view beginning = text.substr(first, 1), next = text.substr(second, 1);
  return text.substr(first).starts_with("{}") || (beginning == "{" && next == "\"") ||
         (beginning == "[" && (next == "{" || next == "\""));
}

// That is not blank, read ahead.
std::string_view TextReader::first_line() {
  const size_t begin = buffer_.find_first_of("{[");
  size_t end = 0;
  while ((end = buffer_.find('\n', std::max(begin, end))) == std::string::npos && buffer_.size() <= kMaxJsonLineBytes) {
    end = buffer_.size();
    if (!read_block()) break;
  }
  return std::string_view(buffer_).substr(begin, end - begin);
}

// Appends a block of the open file to the buffer; false at its end.
bool TextReader::read_block() {
  if (!stream_) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + kReadBytes);
  stream_.read(buffer_.data() + old_size, kReadBytes);
  buffer_.resize(old_size + static_cast<size_t>(stream_.gcount()));
  if (stream_.bad()) throw FileError("{}: cannot read", file().string());
  return stream_.gcount() > 0;
}

// The next line of the open file, or a part of at most max_bytes of it; false at its end.
bool TextReader::read_line(Line& line, size_t max_bytes) {
  size_t end = buffer_.find('\n', begin_);
  while (end == std::string::npos && buffer_.size() - begin_ < max_bytes) {
    const size_t searched = buffer_.size() - begin_;
    if (!read_block()) break;
    end = buffer_.find('\n', searched);
  }
  const size_t available = buffer_.size() - begin_;
  if (available == 0) return false;
  const size_t length = end == std::string::npos ? available : end + 1 - begin_;
  line.complete = end == std::string::npos ? length < max_bytes : length <= max_bytes;
  line.text = std::string_view(buffer_).substr(begin_, std::min(length, max_bytes));
  if (!line.complete) line.text = line.text.substr(0, utf8_boundary(line.text));
  const size_t valid = valid_utf8_prefix(line.text);
  if (valid != line.text.size()) {
    refuse_foreign_file(first_bytes_, file().string(), kExpected);
    throw FileError("{}: byte {} is not valid UTF-8", file().string(), file_offset_ + valid);
  }

  if (at_line_start_) ++line_number_;
  at_line_start_ = line.complete;
  const size_t consumed = line.text.size();
  if (file_offset_ == 0 && line.text.starts_with(kByteOrderMark)) line.text.remove_prefix(kByteOrderMark.size());
  begin_ += consumed;
  file_offset_ += consumed;
  bytes_read_ += consumed;
  return true;
}

bool TextReader::is_separator(const Line& line) const {
  if (!rules_.separator || !line.complete) return false;
  const std::string_view text = without_line_end(line.text);
  return rules_.separator->empty() ? is_blank(text) : text == *rules_.separator;
}

std::string TextReader::document() const { return fmt::format("{}:{}", file().string(), document_line_); }

bool TextReader::next(TextPiece& piece) {
  while (true) {
    if (stream_.is_open() && (is_json_ ? next_json(piece) : next_plain(piece))) return true;
    if (!open_next_file()) return false;
  }
}

bool TextReader::next_json(TextPiece& piece) {
  Line line;
  while (read_line(line, kMaxJsonLineBytes)) {
    const std::string where = fmt::format("{}:{}", file().string(), line_number_);
    if (!line.complete) throw FileError("{}: a line of more than {} bytes", where, kMaxJsonLineBytes);
    if (is_blank(without_line_end(line.text))) continue;
    try {
      piece_ = document_of(line.text, where);
    } catch (const FileError& error) {
      if (is_guess_) fail_guess(error);
      throw;
    }
    if (piece_.empty()) continue;
    document_line_ = line_number_;
    piece = {piece_, true};
    return true;
  }
  return false;
}

bool TextReader::next_plain(TextPiece& piece) {
  piece_.clear();
  const auto hand_out = [&](bool ends_document) {
    document_has_text_ = !ends_document;
    if (ends_document) document_lines_ = 0;
    piece = {piece_, ends_document};
    return true;
  };
  Line line;
  bool line_start = at_line_start_;
  while (read_line(line, kPieceBytes)) {
    if (line_start && is_separator(line)) {
      if (document_has_text_ || !piece_.empty()) return hand_out(true);
      continue;
    }
    if (!document_has_text_ && piece_.empty()) document_line_ = line_number_;
    piece_ += line.text;
    line_start = at_line_start_;
    if (line.complete && rules_.lines > 0 && ++document_lines_ == rules_.lines) return hand_out(true);
    if (piece_.size() >= kPieceBytes) return hand_out(false);
  }
  if (document_has_text_ || !piece_.empty()) return hand_out(true);
  return false;
}

}  // namespace skippipe
