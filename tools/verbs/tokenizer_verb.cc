// skippipe tokenizer: learns a vocabulary from text files.
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_training.h"
#include "tools/verbs/progress.h"
#include "tools/verbs/text_format.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  TokenizerTraining training;
  std::string out;
  TextFormat format = TextFormat::kAutomatic;
  std::vector<std::string> files;
};

void run(const Options& options) {
  require_writable_file(options.out);
  TextReader text({options.files.begin(), options.files.end()},
                  {.separator = {}, .lines = 0, .format = options.format});
  std::string model;
  {
    Progress progress("reading", text.total_bytes(), "bytes");
    model = train_tokenizer(text, options.training, [&](uint64_t bytes) { progress.update(bytes); });
  }
  const Tokenizer tokenizer(model, options.out);
  write_file_atomically(options.out, model);
  print_guesses(text);
  fmt::print("{}: a vocabulary of {} from {} of text\n", options.out, tokenizer.vocabulary_size(),
             format_bytes(text.bytes_read()));
}

}  // namespace

void add_tokenizer_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("tokenizer", "Learn a vocabulary (SentencePiece, byte-pair encoding) from text");
  auto options = std::make_shared<Options>();
  verb->add_option("--vocabulary", options->training.vocabulary, "Number of pieces")
      ->required()
      ->check(CLI::Range(260, 1 << 20));
  verb->add_option("--out", options->out, "The .model file to write")->required();
  verb->add_option("--seed", options->training.seed, "Chooses the lines to learn from where the text is too large");
  add_format_option(*verb, options->format);
  verb->add_option("files", options->files, kTextFiles)->required();
  verb->footer("Example: skippipe tokenizer --vocabulary 2000 --out tok.model books/*.txt");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
