// skippipe convert: a model into a folder for transformers, or into a checkpoint of any cut.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/checkpoint/convert.h"
#include "engine/checkpoint/model_files.h"
#include "tools/processes/stop_signals.h"
#include "tools/verbs/progress.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string out;
  int stages = 0;
  std::vector<int> layers_per_stage;
  std::string dtype;
  uint64_t max_shard_bytes = 0;
  std::string tokenizer;
  bool force = false;

  bool to_checkpoint() const { return stages > 0 || !layers_per_stage.empty(); }
};

void check_use(const Options& options) {
  if (options.stages > 0 && !options.layers_per_stage.empty())
    throw UsageError("convert: give one of --stages and --layers-per-stage");
  if (options.to_checkpoint() && (!options.dtype.empty() || options.max_shard_bytes > 0))
    throw UsageError("convert: a checkpoint's weights are f32, a file per stage: no --dtype and --max-shard-size");
}

SafeDtype dtype_of(const Options& options) {
  if (options.dtype == "bf16") return SafeDtype::kBf16;
  return options.dtype == "f16" ? SafeDtype::kF16 : SafeDtype::kF32;
}

// What came with the model, unless the user says otherwise.
CompanionFiles companions_of(const CompanionFiles& came, const Options& options) {
  if (options.tokenizer.empty()) return came;
  return with_tokenizer(came, options.tokenizer == "none" ? fs::path() : fs::path(options.tokenizer));
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr size_t kShort = 12;
  const size_t shown = std::min(names.size(), kShort);
  const std::string list = fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "));
  return shown < names.size() ? fmt::format("{} and {} more", list, names.size() - shown) : list;
}

// Files of a tokenizer and of settings in the output that did not come with the model.
std::vector<std::string> made_beside(const CompanionFiles& companions, const fs::path& out) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    if (is_companion(name) && !companions.contains(name)) names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

// What has become of that which came with the model, as far as it is there.
void print_companions(const ModelFiles& model, const CompanionFiles& came, const CompanionFiles& companions,
                      const fs::path& out) {
  const auto print = [](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) fmt::print("{}: {}\n", what, list_of(names));
  };
  std::vector<std::string> kept, replaced, dropped;
  for (const auto& [name, file] : companions) kept.push_back(name);
  for (const auto& [name, file] : came) {
    const auto now = companions.find(name);
    if (now == companions.end())
      dropped.push_back(name);
    else if (now->second.source != file.source)
      replaced.push_back(name);
  }
  print("taken along as they are", kept);
  print("replaced, as --tokenizer asks", replaced);
  print("left out, as --tokenizer asks", dropped);
  print("made", made_beside(companions, out));
  if (has_tokenizer(companions) && describes_tokens(companions) && !companions.contains("tokenizer.json"))
    fmt::print("no tokenizer.json came with the tokenizer, and none is made beside the other files\n");
  print("not taken along", left_behind(model));
}

// What was written can be looked at, but is not what whoever asked for it wants.
void require_finite(const std::vector<std::string>& problems, const std::string& out) {
  if (problems.empty()) return;
  const std::string others = problems.size() > 1 ? fmt::format(" (and {} more such tensors)", problems.size() - 1) : "";
  throw FileError("{}{}; {} is written and has them as they are", problems.front(), others, out);
}

void convert(const ModelFiles& model, const Options& options, const ConvertProgress& progress) {
  const CompanionFiles came = read_companions(model.folder());
  const CompanionFiles companions = companions_of(came, options);
  const char* without = has_tokenizer(companions) ? "" : ", without tokenizer";
  if (options.to_checkpoint()) {
    const auto cut =
        options.stages > 0 ? even_layers_per_stage(model.config(), options.stages) : options.layers_per_stage;
    require_finite(write_model_checkpoint(options.out, model, cut, companions, progress), options.out);
    fmt::print("{}: a checkpoint with {} layers in {} stages{}\n", options.out, fmt::join(cut, " + "), cut.size(),
               without);
    return print_companions(model, came, companions, options.out);
  }
  HuggingFaceOutput output;
  output.dtype = dtype_of(options);
  output.companions = companions;
  if (options.max_shard_bytes > 0) output.max_shard_bytes = options.max_shard_bytes;
  require_finite(write_hugging_face_model(options.out, model, output, progress), options.out);
  for (const std::string& objection : transformers_objections(model.config()))
    fmt::print(stderr, "{}: transformers 5 will not load it: {}\n", options.out, objection);
  fmt::print("{}: a Hugging Face model, {} as {}{}\n", options.out,
             format_bytes(static_cast<uint64_t>(model.config().parameters() * safe_dtype_bytes(output.dtype))),
             safe_dtype_name(output.dtype), without);
  print_companions(model, came, companions, options.out);
}

void run(const Options& options) {
  check_use(options);
  if (options.force)
    require_model_or_nothing_at(options.out);
  else
    require_nothing_at(options.out);
  const ModelFiles model{fs::path(options.model)};
  StopSignals signals;
  std::unique_ptr<Progress> bar;
  convert(model, options, [&](uint64_t bytes, uint64_t total) {
    if (signals.take() != Stop::kNot) throw Exit{130};
    if (!bar) bar = std::make_unique<Progress>("converting", total, "bytes");
    bar->update(bytes);
  });
}

}  // namespace

void add_convert_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("convert", "Turn a checkpoint into a Hugging Face model, or a model into stages");
  auto options = std::make_shared<Options>();
  verb->add_option("model", options->model, "A checkpoint, a run's output folder or a Hugging Face model")->required();
  verb->add_option("--out", options->out, "The folder to write")->required();
  verb->add_option("--stages", options->stages, "Write a checkpoint of so many stages")->check(CLI::Range(1, 1 << 14));
  verb->add_option("--layers-per-stage", options->layers_per_stage, "The same, with so many layers each: 2,2,3")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 14));
  verb->add_option("--dtype", options->dtype, "Of a Hugging Face model's weights: f32 (default), bf16 or f16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  verb->add_option("--max-shard-size", options->max_shard_bytes,
                   "Of a Hugging Face model's files, such as 2GB (default 5GB)")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::PositiveNumber);
  verb->add_option("--tokenizer", options->tokenizer,
                   "A SentencePiece .model, or a folder with a tokenizer (default: the model's own); none: without");
  verb->add_flag("--force", options->force, "Replace the model at --out, if there is one");
  verb->footer("Example: skippipe convert run --out my-model --dtype bf16");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
