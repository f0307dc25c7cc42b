#include "tokenizer/hugging_face_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {
namespace {

using nlohmann::json;
using Kind = SentencePieceModel::Kind;

constexpr const char* kSpaceMark = "\xe2\x96\x81";

void require_expressible(const SentencePieceModel& model, const std::string& name) {
  const auto require = [&](bool condition, const char* found) {
    if (!condition)
      throw ConfigError(
          "{}: {}, expected a byte-pair encoding of text as it is: no Hugging Face tokenizer can be "
          "written",
          name, found);
  };
  require(model.algorithm == SentencePieceModel::Algorithm::kBytePair, "not a byte-pair encoding");
  require(!model.has_character_map, "it normalizes text by a table of characters");
  require(!model.removes_extra_spaces, "it removes extra spaces");
  require(model.escapes_spaces, "it does not mark spaces");
  for (const auto& piece : model.pieces) {
    require(piece.kind != Kind::kUnused, "it has unused pieces");
    require(piece.kind != Kind::kUserDefined || piece.text.find(kSpaceMark) == std::string::npos,
            "it has user-defined pieces with spaces");
  }
}

// SentencePiece merges the pair that makes the piece of the highest score; Hugging Face the one that comes first in a
// list. So every way to make a piece of two others is listed, by the score of the piece.
std::vector<std::string> merges_of(const SentencePieceModel& model) {
  std::unordered_map<std::string_view, size_t> id_of;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    if (model.pieces[id].kind == Kind::kNormal) id_of.emplace(model.pieces[id].text, id);
  struct Merge {
    float score;
    size_t piece, left, right;
  };
  std::vector<Merge> merges;
  for (const auto& [text, id] : id_of) {
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if ((static_cast<uint8_t>(text[cut]) & 0xc0) == 0x80) continue;  // within a character
      const auto left = id_of.find(text.substr(0, cut)), right = id_of.find(text.substr(cut));
      if (left != id_of.end() && right != id_of.end())
        merges.push_back({model.pieces[id].score, id, left->second, right->second});
    }
  }
  std::ranges::sort(merges, {}, [](const Merge& m) { return std::tuple(-m.score, m.piece, m.left, m.right); });
  std::vector<std::string> lines;
  for (const Merge& merge : merges)
    lines.push_back(model.pieces[merge.left].text + " " + model.pieces[merge.right].text);
  return lines;
}

json added_tokens(const SentencePieceModel& model) {
  json tokens = json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, kind] = model.pieces[id];
    if (kind != Kind::kUnknown && kind != Kind::kControl && kind != Kind::kUserDefined) continue;
    tokens.push_back({{"id", id},
                      {"content", text},
                      {"special", kind != Kind::kUserDefined},
                      {"normalized", false},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false}});
  }
  return tokens;
}

json replace(const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

json tokenizer_document(const SentencePieceModel& model, const json& unknown) {
  json vocabulary = json::object();
  for (size_t id = 0; id < model.pieces.size(); ++id) vocabulary[model.pieces[id].text] = id;
  const bool byte_fallback = std::ranges::count(model.pieces, Kind::kByte, &SentencePieceModel::Piece::kind) == 256;
  json normalizers = json::array({replace(" ", kSpaceMark)});
  json decoders = json::array({replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (model.adds_space) {
    normalizers.insert(normalizers.begin(), json::object({{"type", "Prepend"}, {"prepend", kSpaceMark}}));
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(model)},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", unknown},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", true},
            {"byte_fallback", byte_fallback},
            {"ignore_merges", false},
            {"vocab", std::move(vocabulary)},
            {"merges", merges_of(model)}}}};
}

}  // namespace

std::map<std::string, std::string> hugging_face_tokenizer(std::string_view serialized, const std::string& name) {
  const SentencePieceModel model = parse_sentencepiece_model(serialized, name);
  require_expressible(model, name);
  const Tokenizer tokenizer(serialized, name);
  const auto piece = [&](int64_t id) { return id < 0 ? json() : json(model.pieces.at(static_cast<size_t>(id)).text); };
  const auto unknown = std::ranges::find(model.pieces, Kind::kUnknown, &SentencePieceModel::Piece::kind);
  json special = {{"bos_token", piece(tokenizer.bos_id())},
                  {"eos_token", piece(tokenizer.eos_id())},
                  {"unk_token", piece(unknown == model.pieces.end() ? -1 : unknown - model.pieces.begin())}};
  std::map<std::string, std::string> files = {{"tokenizer.model", std::string(serialized)}};
  const auto add = [&](const char* file, const json& document) { files[file] = document.dump(2) + "\n"; };
  add("tokenizer.json", tokenizer_document(model, special["unk_token"]));
  std::erase_if(special.get_ref<json::object_t&>(), [](const auto& token) { return token.second.is_null(); });
  add("special_tokens_map.json", special);
  json config = special;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["add_bos_token"] = config["add_eos_token"] = config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = 1'000'000'000;
  add("tokenizer_config.json", config);
  return files;
}

}  // namespace skippipe
