#include "tokenizer/text_stream.h"

#include <utility>

#include "tokenizer/utf8.h"

namespace skippipe {

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const int32_t> before)
    : tokenizer_(tokenizer), window_(before.begin(), before.end()), given_(tokenizer.decode(before).size()) {}

std::string TextStream::add(int32_t token) {
  const int byte = tokenizer_.byte_of(token);
  window_.push_back(token);
  if (byte < 0)
    bytes_.clear();
  else
    bytes_.push_back(static_cast<char>(byte));
  if (utf8_boundary(bytes_) < bytes_.size()) return {};
  bytes_.clear();
  std::string text = finish();
  // What comes next is decoded alike behind this token alone, unless that would make it the start of a text.
  const size_t size = tokenizer_.decode({&token, 1}).size();
  if (size > 0) {
    window_.assign(1, token);
    given_ = size;
  }
  return text;
}

std::string TextStream::finish() {
  const std::string text = tokenizer_.decode(window_);
  return text.substr(std::exchange(given_, text.size()));
}

}  // namespace skippipe
