// A SentencePiece tokenizer as files that Hugging Face's AutoTokenizer loads, without SentencePiece or a network.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace skippipe {

// The files by their names: tokenizer.json, tokenizer_config.json, special_tokens_map.json and tokenizer.model itself.
// The tokenizer gives a text the ids that Tokenizer::encode gives it (no BOS, no EOS), with two exceptions that are
// Hugging Face's: special tokens spelled out ("</s>") become that token, and U+2581 becomes a space.
// Throws FileError if `serialized` is no SentencePiece model, ConfigError if it is none that such files can express: a
// byte-pair encoding, its text not normalized, all scores different, no user-defined piece with a space or where a
// space is added before a text. What passes is tried as well (merge_encoder.h): on the model's own pieces and on
// samples of many scripts, spaces and digits; ConfigError names the first text with other ids. name stands for the
// file.
std::map<std::string, std::string> hugging_face_tokenizer(std::string_view serialized, const std::string& name);

// What it is tried with. Throws ConfigError naming the text if a tokenizer.json made of this model gives other ids.
void require_same_ids(std::string_view serialized, std::string_view tokenizer_json, const std::string& name);

}  // namespace skippipe
