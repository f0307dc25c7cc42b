// skippipe generate: text behind a prompt, with all stages or without named ones.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <set>

#include "base/error.h"
#include "engine/checkpoint/model_files.h"
#include "engine/inference/evaluate.h"
#include "engine/inference/generate.h"
#include "engine/inference/text_marks.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/utf8.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/model_options.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

constexpr uint64_t kMaxPromptBytes = 64 << 20;

struct Options {
  std::string model;
  std::string config;
  std::string tokenizer;
  std::string prompt;
  std::string prompt_file;
  std::optional<bool> bos;  // unless the tokenizer's files say
  GenerationSettings generation;
  int stages = 0;
  std::vector<int> without;
  DeviceName device;
  int threads = 0;
  bool dry_run = false;
};

Tokenizer tokenizer_of(const ModelFiles& files, const Options& options) {
  if (!options.tokenizer.empty()) return Tokenizer(std::filesystem::path(options.tokenizer));
  if (const auto path = files.tokenizer()) return Tokenizer(*path);
  throw FileError("{}: no tokenizer.model there: give --tokenizer", files.folder().string());
}

// Those of the path.
std::vector<StageLayout> stages_of(const ModelFiles& files, const Options& options) {
  if (!options.without.empty()) require_cut(files, options.stages);
  const auto layouts = stage_layouts(files.config(), cut_of(files, options.stages));
  std::vector<StageLayout> stages;
  for (const int stage : path_without(static_cast<int>(layouts.size()), options.without))
    stages.push_back(layouts[static_cast<size_t>(stage)]);
  return stages;
}

// Pipes are welcome.
std::string read_prompt(const std::string& path) {
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file) throw FileError("{}: cannot open: {}", path, std::strerror(errno));
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::string text(kMaxPromptBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw FileError("{}: cannot read: {}", path, std::strerror(errno));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kMaxPromptBytes) throw FileError("{}: more than {} bytes", path, kMaxPromptBytes);
  return text;
}

std::string prompt_text(const Options& options) {
  if (options.prompt_file.empty()) return options.prompt;
  std::string text = read_prompt(options.prompt_file);
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::vector<int32_t> prompt_of(const Tokenizer& tokenizer, const TextMarks& marks, const Options& options) {
  const std::string text = prompt_text(options);
  const size_t valid = valid_utf8_prefix(text);
  if (valid < text.size()) throw FileError("the prompt: byte {} is not valid UTF-8", valid);
  std::vector<int32_t> ids;
  if (options.bos.value_or(marks.begins_text)) {
    if (!marks.begin)
      throw ConfigError("{}: the tokenizer has no such token",
                        options.bos ? "--bos" : "tokenizer_config.json: add_bos_token");
    ids.push_back(*marks.begin);
  }
  tokenizer.encode(text, ids);
  if (ids.empty()) throw ConfigError("the prompt is empty: give some text, or --bos");
  return ids;
}

DecoderSpec decoder_spec(const ModelFiles& files, int64_t prompt, const Options& options) {
  DecoderSpec spec;
  spec.config = files.config();
  spec.stages = stages_of(files, options);
  if (prompt > spec.config.max_positions)
    throw ConfigError("the prompt has {} tokens, expected at most the model's max_position_embeddings, which is {}",
                      prompt, spec.config.max_positions);
  // The last token that is generated is not read.
  spec.positions = prompt + std::min(options.generation.max_tokens - 1, spec.config.max_positions - prompt);
  spec.chunk = std::min(spec.chunk, prompt);
  return spec;
}

void write_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

const char* reason(GenerationEnd end) {
  switch (end) {
    case GenerationEnd::kEndToken:
      return "the text ended";
    case GenerationEnd::kMaxTokens:
      return "--max-new-tokens reached";
    case GenerationEnd::kNoRoom:
      return "the model's positions are full";
  }
  return "";
}

// What the model's files say of its tokens, held against the tokenizer.
TextMarks marks_of(const ModelFiles& files, const Tokenizer& tokenizer, const Options& options) {
  TextMarks marks = read_text_marks(files.folder(), files.config(), tokenizer,
                                    options.tokenizer.empty() ? files.folder() : std::filesystem::path());
  constexpr size_t kShort = 4;
  for (size_t i = 0; i < std::min(marks.ignored.size(), kShort); ++i) fmt::print(stderr, "{}\n", marks.ignored[i]);
  if (marks.ignored.size() > kShort) fmt::print(stderr, "... and {} more\n", marks.ignored.size() - kShort);
  // Whatever config.json says, that is what a run has seen behind every document.
  const bool trained_here = files.manifest() && !files.manifest()->run.empty();
  if (trained_here && tokenizer.eos_id() >= 0 && std::ranges::find(marks.ends, tokenizer.eos_id()) == marks.ends.end())
    marks.ends.push_back(tokenizer.eos_id());
  return marks;
}

void set_tokens(GenerationSettings& settings, const Tokenizer& tokenizer, const TextMarks& marks) {
  settings.vocabulary = tokenizer.vocabulary_size();
  settings.end_tokens = marks.ends;
  std::set<int32_t> more;
  for (const auto& [token, text] : marks.added) more.insert(token);
  for (const int32_t token : marks.ends)
    if (token >= settings.vocabulary) more.insert(token);
  settings.more_tokens.assign(more.begin(), more.end());
}

// Writes tokens as text as they come: pieces, and those added beside them.
class Speech {
 public:
  Speech(const Tokenizer& tokenizer, const TextMarks& marks, const std::vector<int32_t>& prompt)
      : tokenizer_(tokenizer),
        marks_(marks),
        whole_(std::ranges::find_if(prompt, [&](int32_t token) { return is_piece(token); }), prompt.end()) {
    pieces_.emplace(tokenizer_, whole_);
  }

  void add(int32_t token) {
    if (is_piece(token)) return write_text(pieces_->add(token));
    write_text(pieces_->finish() + marks_.added.at(token));
    pieces_.emplace(tokenizer_, whole_);
  }
  void finish() { write_text(pieces_->finish() + "\n"); }

 private:
  bool is_piece(int32_t token) const { return token < tokenizer_.vocabulary_size(); }

  const Tokenizer& tokenizer_;
  const TextMarks& marks_;
  const std::vector<int32_t> whole_;  // the prompt's pieces: text that ends with a whole character
  std::optional<TextStream> pieces_;
};

void print_statistics(const Generation& result, size_t prompt) {
  const double prompt_tokens = static_cast<double>(prompt), tokens = static_cast<double>(result.tokens);
  fmt::print(stderr, "prompt: {} tokens, {:.1f} tokens/s; generated: {} tokens, {:.1f} tokens/s; {}\n", prompt,
             prompt_tokens / result.prompt_s, result.tokens, tokens / result.tokens_s, reason(result.end));
}

void run(Options options) {
  const ModelFiles files(options.model, options.config);
  const Tokenizer tokenizer = tokenizer_of(files, options);
  if (tokenizer.vocabulary_size() > files.config().vocabulary)
    throw ConfigError("the tokenizer has a vocabulary of {}, the model one of {}", tokenizer.vocabulary_size(),
                      files.config().vocabulary);
  const TextMarks marks = marks_of(files, tokenizer, options);
  const std::vector<int32_t> prompt = prompt_of(tokenizer, marks, options);
  const auto backend = make_backend(options.device);
  const OwnedStream stream(backend->runtime());
  Context context;
  context.backend = backend.get();
  context.stream = stream.get();
  const ComputeChoice choice{options.device, "--threads", threads_or_all(options.threads)};
  context.threads = usable_threads(choice);
  const DecoderSpec spec = decoder_spec(files, static_cast<int64_t>(prompt.size()), options);
  MemoryPlan plan(backend->device());
  Decoder::plan_memory(plan, spec, context);
  if (options.dry_run) {
    fmt::print("{}", plan.table());
    return;
  }
  plan.check_fits(MemoryLimits::of(*backend), backend->name());
  print_cpu_remarks(choice);
  Slab slab(plan, *backend);
  Decoder decoder(spec, slab, context);
  files.load(decoder.parameters(), decoder.context());

  set_tokens(options.generation, tokenizer, marks);
  Speech speech(tokenizer, marks, prompt);
  const Generation result = generate(decoder, prompt, options.generation, [&](int32_t token) { speech.add(token); });
  speech.finish();
  print_statistics(result, prompt.size());
}

void check_usage(const Options& options, bool has_prompt) {
  if (has_prompt == !options.prompt_file.empty()) throw UsageError("generate: give one of --prompt and --prompt-file");
  try {
    check_token_choice(options.generation.choice);
  } catch (const ConfigError& error) {
    throw UsageError("generate: {}", error.what());
  }
}

}  // namespace

void add_generate_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("generate", "Text behind a prompt, token by token");
  auto options = std::make_shared<Options>();
  GenerationSettings& generation = options->generation;
  verb->add_option("--model", options->model, "A run's output folder, a checkpoint, or a Hugging Face model's folder")
      ->required();
  verb->add_option("--config", options->config, "The model's config.json, if not in its folder");
  verb->add_option("--tokenizer", options->tokenizer, "A SentencePiece .model (default: the model's tokenizer.model)");
  const CLI::Option* prompt = verb->add_option("--prompt", options->prompt, "The text to go on from");
  verb->add_option("--prompt-file", options->prompt_file, "Instead: a file, without its last newline; - for stdin");
  verb->add_flag_function(
      "--bos,!--no-bos", [options](int64_t count) { options->bos = count > 0; },
      "Begin with the BOS token, for models that were trained so, such as Llama (default: as tokenizer_config.json's "
      "add_bos_token says, if it is there)");
  verb->add_option("--max-new-tokens,--max-tokens", generation.max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  verb->add_option("--temperature", generation.choice.temperature,
                   "0: always the most probable token; 1: by the model's probabilities")
      ->capture_default_str();
  verb->add_option("--top-k", generation.choice.top_k, "Only so many of the most probable tokens; 0: all")
      ->capture_default_str();
  verb->add_option("--top-p", generation.choice.top_p, "Only the most probable tokens that together reach this share")
      ->capture_default_str();
  verb->add_option("--seed", generation.seed, "Of the random choices")->capture_default_str();
  verb->add_option("--without", options->without, "Stages to leave out, such as 2,4")->delimiter(',');
  verb->add_option("--stages", options->stages,
                   "Cut the model into so many stages (default: as the run did, or in one piece)")
      ->check(CLI::Range(1, 1 << 16));
  add_device_option(*verb, options->device);
  verb->add_option("--threads", options->threads, "Default: one per core")->check(CLI::Range(1, 1024));
  verb->add_flag("--dry-run", options->dry_run, "Print what memory it takes, and stop");
  verb->footer("Example: skippipe generate --model run --prompt 'In the beginning' --temperature 0.8 --top-p 0.95");
  verb->callback([options, prompt] {
    check_usage(*options, prompt->count() > 0);
    run(*options);
  });
}

}  // namespace skippipe
