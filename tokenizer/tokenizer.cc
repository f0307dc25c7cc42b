#include "tokenizer/tokenizer.h"

#include <sentencepiece_processor.h>
#include <xxhash.h>

#include <array>
#include <charconv>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_kind.h"

namespace skippipe {
namespace {

constexpr uint64_t kMaxModelBytes = 256 << 20;

// SentencePiece writes a space as this character (U+2581), and so would turn it into a space. Models with byte pieces
// can spell it out instead.
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

void check(const sentencepiece::util::Status& status, const std::string& name, const char* what) {
  if (!status.ok()) throw FileError("{}: cannot {}: {}", name, what, status.ToString());
}

}  // namespace

struct Tokenizer::Model {
  std::string name;
  sentencepiece::SentencePieceProcessor processor;
  uint64_t fingerprint = 0;
  bool spells_space_mark = false;
  std::array<int32_t, kSpaceMark.size()> space_mark_ids{};

  void check_id(int32_t id) const {
    if (id < 0 || id >= processor.GetPieceSize())
      throw FileError("{}: found token {}, expected 0 to {}", name, id, processor.GetPieceSize() - 1);
  }

  void append(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<int> part;
    check(processor.Encode({text.data(), text.size()}, &part), name, "encode");
    ids.insert(ids.end(), part.begin(), part.end());
  }

  // A model that adds a space to every text, or takes some away, would do so beside the mark, too: it keeps
  // SentencePiece's way.
  void find_space_mark() {
    size_t spaces = 0;
    for (const std::string& piece : processor.EncodeAsPieces(" a "))
      for (size_t at = 0; (at = piece.find(kSpaceMark, at)) != std::string::npos; ++at) ++spaces;
    spells_space_mark = spaces == 2;
    for (size_t i = 0; i < kSpaceMark.size(); ++i) {
      space_mark_ids[i] = processor.PieceToId(fmt::format("<0x{:02X}>", static_cast<unsigned char>(kSpaceMark[i])));
      spells_space_mark = spells_space_mark && processor.IsByte(space_mark_ids[i]);
    }
  }
};

Tokenizer::Tokenizer(const std::filesystem::path& path) : Tokenizer(read_file(path, kMaxModelBytes), path.string()) {}

Tokenizer::Tokenizer(std::string_view serialized, const std::string& name) {
  auto model = std::make_unique<Model>();
  model->name = name;
  const auto status = model->processor.LoadFromSerializedProto({serialized.data(), serialized.size()});
  if (!status.ok() || model->processor.GetPieceSize() <= 0) {
    refuse_foreign_file(serialized, name, "a SentencePiece model");
    throw FileError("{}: not a SentencePiece model ({} bytes): {}", name, serialized.size(), status.ToString());
  }
  model->fingerprint = XXH64(serialized.data(), serialized.size(), 0);
  model->find_space_mark();
  model_ = std::move(model);
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& ids) const {
  while (model_->spells_space_mark) {
    const size_t mark = text.find(kSpaceMark);
    if (mark == std::string_view::npos) break;
    model_->append(text.substr(0, mark), ids);
    ids.insert(ids.end(), model_->space_mark_ids.begin(), model_->space_mark_ids.end());
    text.remove_prefix(mark + kSpaceMark.size());
  }
  model_->append(text, ids);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) model_->check_id(id);
  std::string text;
  check(model_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text), model_->name, "decode");
  return text;
}

std::string Tokenizer::serialized() const { return model_->processor.serialized_model_proto(); }
const std::string& Tokenizer::name() const { return model_->name; }
bool Tokenizer::spells_space_mark() const { return model_->spells_space_mark; }

int Tokenizer::byte_of(int32_t id) const {
  model_->check_id(id);
  if (!model_->processor.IsByte(id)) return -1;
  const std::string& piece = model_->processor.IdToPiece(id);  // "<0xE2>"
  int byte = -1;
  if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
  return byte;
}

int32_t Tokenizer::find(std::string_view piece) const {
  const int32_t id = model_->processor.PieceToId({piece.data(), piece.size()});  // that of <unk> where there is none
  return id >= 0 && model_->processor.IdToPiece(id) == piece ? id : -1;
}

int32_t Tokenizer::vocabulary_size() const { return model_->processor.GetPieceSize(); }
int32_t Tokenizer::bos_id() const { return model_->processor.bos_id(); }
int32_t Tokenizer::eos_id() const { return model_->processor.eos_id(); }
uint64_t Tokenizer::fingerprint() const { return model_->fingerprint; }

}  // namespace skippipe
