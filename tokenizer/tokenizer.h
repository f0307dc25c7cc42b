// Text to tokens and back. A SentencePiece model behind a small interface.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace skippipe {

// Immutable, so any thread may use it.
class Tokenizer {
 public:
  // Any SentencePiece `.model`. Throws FileError naming the file.
  explicit Tokenizer(const std::filesystem::path& path);
  // A serialized model; name stands for the file in errors.
  Tokenizer(std::string_view model, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Appends the ids of text, which must be valid UTF-8. Adds no BOS or EOS. With a model that train_tokenizer made,
  // decode(encode(text)) is text.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;
  std::vector<int32_t> encode(std::string_view text) const;
  // Throws FileError if an id is not in the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  // What the model holds, for parse_sentencepiece_model, and the name that it was given.
  std::string serialized() const;
  const std::string& name() const;
  // Whether encode spells U+2581 in bytes, as a text of its own between those before and behind it: SentencePiece would
  // give back a space.
  bool spells_space_mark() const;

  // The byte that the token stands for, or -1 if it stands for whole characters or none.
  int byte_of(int32_t id) const;

  // The id of the piece with this text, special ones among them; -1 if there is none.
  int32_t find(std::string_view piece) const;

  int32_t vocabulary_size() const;
  // -1 if the model has none.
  int32_t bos_id() const;
  int32_t eos_id() const;
  // Tells models apart: XXH64 of the serialized model.
  uint64_t fingerprint() const;

 private:
  struct Model;
  std::unique_ptr<const Model> model_;
};

}  // namespace skippipe
