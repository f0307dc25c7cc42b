#include "tokenizer/hugging_face_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tokenizer/merge_encoder.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {
namespace {

using nlohmann::json;
using Kind = SentencePieceModel::Kind;

constexpr const char* kSpaceMark = "\xe2\x96\x81";

[[noreturn]] void refuse(const std::string& name, const std::string& found) {
  throw ConfigError("{}: {}: no Hugging Face tokenizer can be written that gives the same ids", name, found);
}

std::string quoted(const std::string& text) { return json(text).dump(-1, ' ', false, json::error_handler_t::replace); }

// What such files have no way to say.
void require_expressible(const SentencePieceModel& model, const std::string& name) {
  if (model.algorithm != SentencePieceModel::Algorithm::kBytePair) refuse(name, "not a byte-pair encoding");
  if (!model.character_map.empty()) refuse(name, "it normalizes text by a table of characters");
  if (model.removes_extra_spaces) refuse(name, "it removes extra spaces");
  if (!model.escapes_spaces) refuse(name, "it does not mark spaces");
  if (model.adds_space && model.space_is_suffix) refuse(name, "it adds a space behind every text");
  std::unordered_set<std::string_view> texts;
  for (const auto& [text, score, kind] : model.pieces) {
    if (kind == Kind::kUnused) refuse(name, fmt::format("the piece {} is unused", quoted(text)));
    if (!std::isfinite(score)) refuse(name, fmt::format("the piece {} has the score {}", quoted(text), score));
    if (text.find(' ') != std::string::npos) refuse(name, fmt::format("the piece {} has a space", quoted(text)));
    if (!texts.insert(text).second) refuse(name, fmt::format("two pieces are {}", quoted(text)));
    if (kind != Kind::kUserDefined) continue;
    // Hugging Face cuts added tokens out of a text before it marks and adds spaces.
    if (text.find(kSpaceMark) != std::string::npos)
      refuse(name, fmt::format("the user-defined piece {} has a space", quoted(text)));
    if (model.adds_space)
      refuse(name,
             fmt::format("it adds a space before every text and has user-defined pieces, such as {}", quoted(text)));
  }
}

struct Merge {
  float score;
  size_t piece, left, right;
};

// SentencePiece merges the pair that makes the piece of the highest score; Hugging Face the one that comes first in a
// list. So every way to make a piece of two others is listed, by the score of the piece. Where one piece is made in
// several ways, SentencePiece takes the leftmost: that has, mostly, the longest left part.
std::vector<Merge> merges_of(const SentencePieceModel& model) {
  std::unordered_map<std::string_view, size_t> id_of;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    if (model.pieces[id].kind == Kind::kNormal) id_of.emplace(model.pieces[id].text, id);
  std::vector<Merge> merges;
  for (const auto& [text, id] : id_of) {
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if ((static_cast<uint8_t>(text[cut]) & 0xc0) == 0x80) continue;  // within a character
      const auto left = id_of.find(text.substr(0, cut)), right = id_of.find(text.substr(cut));
      if (left != id_of.end() && right != id_of.end())
        merges.push_back({model.pieces[id].score, id, left->second, right->second});
    }
  }
  const auto left_bytes = [&](const Merge& merge) {
    return -static_cast<int64_t>(model.pieces[merge.left].text.size());
  };
  std::ranges::sort(merges, {}, [&](const Merge& m) { return std::tuple(-m.score, m.piece, left_bytes(m)); });
  return merges;
}

// Of two pieces with one score SentencePiece makes the one further left, Hugging Face the one that is listed first.
void require_no_ties(const SentencePieceModel& model, const std::vector<Merge>& merges, const std::string& name) {
  for (size_t i = 1; i < merges.size(); ++i)
    if (merges[i].score == merges[i - 1].score && merges[i].piece != merges[i - 1].piece)
      refuse(name,
             fmt::format("the pieces {} and {} have the same score, {}", quoted(model.pieces[merges[i - 1].piece].text),
                         quoted(model.pieces[merges[i].piece].text), merges[i].score));
}

json merge_lines(const SentencePieceModel& model, const std::vector<Merge>& merges) {
  json lines = json::array();
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

json tokenizer_document(const SentencePieceModel& model, const std::vector<Merge>& merges, const json& unknown) {
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
            {"merges", merge_lines(model, merges)}}}};
}

// Lines with what tokenizers are known to differ in.
constexpr const char* kSamples[] = {
    " ",
    "  ",
    "     ",
    " a",
    "a ",
    "  a  b   c    ",
    "\n",
    "\n\n\n",
    " \n \n",
    "\t",
    "a\tb\r\nc",
    "\u00a0x\u3000y\u200bz\ufeff",
    "0",
    "007",
    "1234567890",
    "3.14159e-26, 1,000,000",
    "2026-02-29T23:59:60Z",
    "\u0663\u0664\u06f5 \u0967\u0968 \uff11\uff12",
    "The quick brown fox jumps over the lazy dog.",
    "the river, the River and THE RIVER",
    "don't can't 'tis o'clock",
    "aaaaaaaaaaa",
    "abababababa",
    "abcabcabcabcab",
    "--------",
    "=====",
    "....!!!???",
    "((([[[{{{}}}]]])))",
    "<a></a><0x41>",
    "for (int i = 0; i < n; ++i) {\n    x[i] += 2 * y[i];\n}",
    "def f(x):\n\treturn x**2  # \u00b2",
    "https://example.org/a?b=c&d=%20#e",
    "\u00dcber stra\u00dfe, na\u00efve caf\u00e9 \u2013 \u201equoted\u201c \u00abl\u00e0\u00bb",
    "e\u0301 o\u0308 n\u0303",
    "\u03b1\u03b2\u03b3 \u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u30c6\u30b9\u30c8",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0",
    "\u2200x \u2208 \u211d: \u222b\u221a\u03c0 \u2260 \u221e",
    "\U0001f642\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001d54f",
    "\ufffd\u0001\u007f"};

// What a piece stands for.
std::string text_of(const SentencePieceModel::Piece& piece) {
  std::string text = piece.text;
  for (size_t at = 0; (at = text.find(kSpaceMark, at)) != std::string::npos;)
    text.replace(at, std::string_view(kSpaceMark).size(), 1, ' ');
  return text;
}

// Texts in which two ways to make a piece overlap: x y z, where x y and y z are both the piece.
void add_overlaps(const SentencePieceModel& model, const std::vector<Merge>& merges, std::vector<std::string>& texts) {
  for (size_t i = 0; i < merges.size(); ++i) {
    for (size_t j = i + 1; j < merges.size() && merges[j].piece == merges[i].piece; ++j) {
      for (const auto& [first, second] : {std::pair(merges[i], merges[j]), std::pair(merges[j], merges[i])})
        if (first.right == second.left)
          texts.push_back(text_of(model.pieces[first.piece]) + text_of(model.pieces[second.right]));
    }
  }
}

// The samples, every piece, each behind the one before it, and where merges could come in another order.
std::vector<std::string> texts_to_compare(const SentencePieceModel& model, const std::vector<Merge>& merges) {
  std::vector<std::string> texts(std::begin(kSamples), std::end(kSamples));
  texts.emplace_back();
  std::string before;
  for (const auto& piece : model.pieces) {
    if (piece.kind == Kind::kUnknown || piece.kind == Kind::kControl) continue;
    const std::string text = text_of(piece);
    texts.insert(texts.end(), {text, before + text, text + " " + text});
    before = text;
  }
  add_overlaps(model, merges, texts);
  for (const char* between : {"", " "}) texts.push_back(fmt::format("{}", fmt::join(kSamples, between)));
  return texts;
}

// Special tokens spelled out become that token, which SentencePiece does not do.
bool spells_special_token(const SentencePieceModel& model, const std::string& text) {
  return std::ranges::any_of(model.pieces, [&](const auto& piece) {
    return (piece.kind == Kind::kUnknown || piece.kind == Kind::kControl) && text.find(piece.text) != std::string::npos;
  });
}

}  // namespace

std::map<std::string, std::string> hugging_face_tokenizer(std::string_view serialized, const std::string& name) {
  const SentencePieceModel model = parse_sentencepiece_model(serialized, name);
  const Tokenizer tokenizer(serialized, name);
  require_expressible(model, name);
  const std::vector<Merge> merges = merges_of(model);
  require_no_ties(model, merges, name);
  const auto piece = [&](int64_t id) { return id < 0 ? json() : json(model.pieces.at(static_cast<size_t>(id)).text); };
  const auto unknown = std::ranges::find(model.pieces, Kind::kUnknown, &SentencePieceModel::Piece::kind);
  json special = {{"bos_token", piece(tokenizer.bos_id())},
                  {"eos_token", piece(tokenizer.eos_id())},
                  {"unk_token", piece(unknown == model.pieces.end() ? -1 : unknown - model.pieces.begin())}};
  std::map<std::string, std::string> files = {{"tokenizer.model", std::string(serialized)}};
  const auto add = [&](const char* file, const json& document) { files[file] = document.dump(2) + "\n"; };
  const json document = tokenizer_document(model, merges, special["unk_token"]);
  add("tokenizer.json", document);
  require_same_ids(serialized, files["tokenizer.json"], name);
  std::erase_if(special.get_ref<json::object_t&>(), [](const auto& token) { return token.second.is_null(); });
  add("special_tokens_map.json", special);
  json config = special;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["add_bos_token"] = config["add_eos_token"] = config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = 1'000'000'000;
  add("tokenizer_config.json", config);
  return files;
}

void require_same_ids(std::string_view serialized, std::string_view tokenizer_json, const std::string& name) {
  const SentencePieceModel model = parse_sentencepiece_model(serialized, name);
  const Tokenizer tokenizer(serialized, name);
  const MergeEncoder encoder(json::parse(tokenizer_json));
  for (const std::string& text : texts_to_compare(model, merges_of(model))) {
    const std::vector<int32_t> ids = tokenizer.encode(text), others = encoder.encode(text);
    if (ids == others || spells_special_token(model, text)) continue;
    const auto [id, other] = std::ranges::mismatch(ids, others);
    const auto piece = [&](const std::vector<int32_t>& all, auto at) {
      return at == all.end() ? "no piece" : quoted(model.pieces[static_cast<size_t>(*at)].text);
    };
    refuse(name, fmt::format("in the text {}, as piece {} SentencePiece has {}, tokenizer.json has {}", quoted(text),
                             id - ids.begin() + 1, piece(ids, id), piece(others, other)));
  }
}

}  // namespace skippipe
