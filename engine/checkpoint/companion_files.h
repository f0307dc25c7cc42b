// What comes with a model beside its shape and its weights: its tokenizer, in the files of SentencePiece and of Hugging
// Face, chat templates, and settings for generation. A Hugging Face folder and a checkpoint hold them under the same
// names, and they go from one into the other as they are, byte for byte.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace skippipe {

struct CompanionFile {
  std::string content;
  std::filesystem::path source;  // for messages
};
// By name: of a file in the model's folder, or "additional_chat_templates/NAME.jinja".
using CompanionFiles = std::map<std::string, CompanionFile>;

inline constexpr char kSentencePieceFile[] = "tokenizer.model";
inline constexpr char kGenerationConfigFile[] = "generation_config.json";
inline constexpr char kChatTemplatesFolder[] = "additional_chat_templates";

bool is_companion(std::string_view name);

// Those that are there. Throws FileError naming the file: it can't be read, is larger than 256 MiB, a pointer of Git
// LFS in place of the file, or JSON that is none.
CompanionFiles read_companions(const std::filesystem::path& folder);
// Creates the folder of chat templates where it takes one. Throws FileError.
void write_companions(const OutputPath& folder, const CompanionFiles& files);

std::vector<std::string> companion_names(const CompanionFiles& files);
// Something to make tokens with is among them.
bool has_tokenizer(const CompanionFiles& files);
// There are files about tokens that a tokenizer.json would have to agree with, beside those that one can be made from.
bool describes_tokens(const CompanionFiles& files);
// Those of another tokenizer in place of all but the settings for generation, which stay unless others come with it.
// `tokenizer`: a SentencePiece `.model`, or a folder with a tokenizer in any form; empty: none. Throws FileError.
CompanionFiles with_tokenizer(const CompanionFiles& files, const std::filesystem::path& tokenizer);

}  // namespace skippipe
