// skippipe tokenize: text files to token shards for training and validation.
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "engine/files/tokenize_text.h"
#include "tools/verbs/progress.h"
#include "tools/verbs/text_format.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string tokenizer;
  std::string out;
  TokenizeOptions tokenize;
  DocumentRules documents;
  std::vector<std::string> files;
};

void print_shard(const std::filesystem::path& path, const TokenShardInfo& info) {
  fmt::print("{}: {} tokens, {} documents\n", path.string(), info.tokens, info.documents);
}

void run(const Options& options) {
  const Tokenizer tokenizer{std::filesystem::path(options.tokenizer)};
  TextReader text({options.files.begin(), options.files.end()}, options.documents);
  const std::filesystem::path folder = options.out;
  TokenizedText result;
  {
    Progress progress("tokenizing", text.total_bytes(), "bytes");
    result = tokenize_text(folder, tokenizer, text, options.tokenize, [&](uint64_t bytes) { progress.update(bytes); });
  }
  print_guesses(text);
  print_shard(folder / kTrainShard, result.train);
  if (result.validation) print_shard(folder / kValidationShard, *result.validation);
  const uint64_t tokens = result.train.tokens + (result.validation ? result.validation->tokens : 0);
  fmt::print("{} of text, {:.2f} bytes per token\n", format_bytes(text.bytes_read()),
             static_cast<double>(text.bytes_read()) / static_cast<double>(tokens));
}

}  // namespace

void add_tokenize_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("tokenize", "Turn text into token shards for training and validation");
  auto options = std::make_shared<Options>();
  verb->add_option("--tokenizer", options->tokenizer, "A SentencePiece .model")->required();
  verb->add_option("--out", options->out, "Folder for train.tokens and validation.tokens")->required();
  verb->add_option("--validation-share", options->tokenize.validation_share,
                   "Share of the documents kept for validation")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  verb->add_option(
      "--document-separator", options->documents.separator,
      "In plain text, a line equal to this ends a document; '' for a blank line. Default: one document per file");
  verb->add_option("--document-lines", options->documents.lines, "In plain text, a document ends after so many lines");
  add_format_option(*verb, options->documents.format);
  verb->add_option("--seed", options->tokenize.seed, "Chooses the validation documents")->capture_default_str();
  verb->add_flag("--bos", options->tokenize.bos, "Put BOS before every document, besides the EOS behind it");
  verb->add_option("files", options->files, kTextFiles)->required();
  verb->footer("Example: skippipe tokenize --tokenizer tok.model --out tokens --document-lines 100 bible.txt");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
