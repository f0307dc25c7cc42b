#include "engine/run/run_file.h"

#include <fmt/ranges.h>
#include <toml++/toml.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <sstream>

#include "base/closest.h"
#include "base/error.h"
#include "base/file.h"
#include "base/file_kind.h"

namespace skippipe {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

template <typename T>
struct Range {
  T low;
  T high;
};

// Every field of the run file, once: the reader and the reference both walk this list.
template <typename Visitor>
void visit_fields(RunFile& run, Visitor& visit) {
  visit.integer("run.seed", run.seed, {0, std::numeric_limits<int64_t>::max()},
                "seed of the weights and of the data order");
  visit.integer("run.iterations", run.iterations, {1, kMaxInt32}, "optimizer steps");
  visit.path("run.output", run.output, "folder for metrics and checkpoints");
  visit.path("model.config", run.model_config, "Hugging Face config.json (Llama)");
  visit.optional_path("model.weights", run.weights,
                      "begin with the weights of this checkpoint, run's output or Hugging Face model; empty: random");
  visit.path("data.train", run.train_tokens, "token shard made by `skippipe tokenize`");
  visit.optional_path("data.validation", run.validation_tokens,
                      "token shard whose loss is measured while training goes on; empty: none");
  visit.optional_path("data.tokenizer", run.tokenizer,
                      "tokenizer model, or a folder with a tokenizer's files, to be kept with every checkpoint");
  visit.integer("data.samples", run.samples, {1, 65536}, "samples per microbatch");
  visit.integer("data.tokens", run.tokens, {1, 1 << 24}, "tokens per sample");
  visit.integer("validation.interval", run.validation_interval, {1, kMaxInt32},
                "iterations between validations; one more is at the run's end");
  visit.integer("validation.samples", run.validation_samples, {1, 1 << 20},
                "samples of data.validation, the same each time");
  visit.path("plan.file", run.plan, "plan made by `skippipe plan`");
  visit.path("plan.network", run.network, "network file that the plan was made for");
  visit.number("optimizer.learning_rate", run.learning_rate, {0, 1e3}, "peak learning rate of AdamW");
  visit.choice("optimizer.schedule", run.schedule, {"constant", "cosine", "wsd"},
               "learning rate over the run; wsd: warmup, stable, decay");
  visit.integer("optimizer.warmup_iterations", run.warmup_iterations, {0, kMaxInt32}, "linear warmup");
  visit.integer("optimizer.decay_iterations", run.decay_iterations, {0, kMaxInt32}, "length of the decay of wsd");
  visit.number("optimizer.final_learning_rate_share", run.final_learning_rate_share, {0, 1},
               "last learning rate over the peak, for cosine and wsd");
  visit.number("optimizer.beta1", run.beta1, {0, 0.999999}, "decay of the first moment");
  visit.number("optimizer.beta2", run.beta2, {0, 0.999999}, "decay of the second moment");
  visit.number("optimizer.eps", run.eps, {1e-30, 1}, "added to the root of the second moment");
  visit.number("optimizer.weight_decay", run.weight_decay, {0, 1e3}, "decoupled; none on norms");
  visit.number("optimizer.clip_norm", run.clip_norm, {0, 1e30}, "largest global gradient norm; 0 turns clipping off");
  visit.integer("checkpoint.interval", run.checkpoint_interval, {1, kMaxInt32}, "iterations between checkpoints");
  visit.integer("checkpoint.keep_last", run.keep_last, {1, kMaxInt32}, "newest checkpoints that are kept");
  visit.integer("checkpoint.keep_every", run.keep_every, {0, kMaxInt32},
                "also keep those whose iteration is a multiple of this; 0: none");
  visit.number("checkpoint.last_limit_s", run.last_checkpoint_limit_s, {0, 86400},
               "at the end, try so long to write a last checkpoint that fails");
  visit.choice("compute.dtype", run.dtype, {"f32", "bf16"},
               "of activations and what is multiplied; weights, gradients and moments are f32");
  visit.choice(
      "compute.attention", run.attention, {"own", "portable", "cudnn"},
      "on GPUs: our kernels; those that all GPUs can run; or cuDNN's, whose results do not repeat bit for bit");
  visit.flag("compute.graphs", run.graphs,
             "on GPUs: record a slot's work once and replay it; the results are the same");
  visit.choice(
      "compute.reduction", run.reduction, {"auto", "transport"},
      "sums over replicas; auto: between their GPUs by NCCL where all can, whose order of additions is its own");
  visit.integer("compute.threads", run.threads, {1, 4096}, "threads of one node's kernels");
  visit.integer("compute.memory_limit_mb", run.memory_limit_mb, {0, int64_t{1} << 40},
                "a node that needs more refuses to start; 0: what the machine has left");
  visit.choice(
      "compute.recompute", run.recompute, {"auto", "none", "attention", "block"},
      "what backward computes again, to keep less: nothing, attention, all of a layer; auto: the first of these "
      "with which a node fits its memory");
  visit.strings("network.addresses", run.addresses,
                "host:port of every node's control connection, in node order; empty: `launch` picks free local ports");
  visit.choice("network.wire_dtype", run.wire_dtype, {"auto", "f32", "bf16"},
               "of messages with activations and their gradients; auto: compute.dtype");
  visit.integer("network.part_bytes", run.part_bytes, {1, int64_t{1} << 40},
                "GPUs send messages in parts of so much, each once it is copied to the host");
  visit.flag("network.emulate_links", run.emulate_links, "delay messages as the network file's links would");
  visit.flag("network.payload_checksums", run.payload_checksums, "checksum every message's content");
  visit.number("network.connect_limit_s", run.connect_limit_s, {0.1, 86400},
               "give up on a peer that can't be reached for so long");
  visit.number("network.heartbeat_interval_s", run.heartbeat_interval_s, {0.01, 3600},
               "between signs of life to every peer");
  visit.number("network.silence_limit_s", run.silence_limit_s, {0.1, 86400}, "a peer silent for so long has failed");
  visit.number("network.stall_limit_s", run.stall_limit_s, {1, 1e6},
               "a node that waits so long, with nothing coming, gives up");
}

class Reader {
 public:
  Reader(const toml::table& table, std::string file, std::filesystem::path folder)
      : table_(table), file_(std::move(file)), folder_(std::move(folder)) {}

  void integer(const char* name, int64_t& value, Range<int64_t> range, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto found = node->is_integer() ? node->value<int64_t>() : std::nullopt;
    if (!found || *found < range.low || *found > range.high)
      fail(name, *node, fmt::format("an integer from {} to {}", range.low, range.high));
    value = *found;
  }

  void number(const char* name, double& value, Range<double> range, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto found = node->is_number() ? node->value<double>() : std::nullopt;
    if (!found || !std::isfinite(*found) || *found < range.low || *found > range.high)
      fail(name, *node, fmt::format("a number from {} to {}", range.low, range.high));
    value = *found;
  }

  void flag(const char* name, bool& value, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    if (!node->is_boolean()) fail(name, *node, "true or false");
    value = *node->value<bool>();
  }

  void choice(const char* name, std::string& value, const std::vector<std::string>& choices, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto found = node->is_string() ? node->value<std::string>() : std::nullopt;
    if (!found || std::find(choices.begin(), choices.end(), *found) == choices.end())
      fail(name, *node, fmt::format("one of {}", fmt::join(choices, ", ")));
    value = *found;
  }

  // Paths have no defaults: each must be there.
  void path(const char* name, std::filesystem::path& value, const char* meaning) {
    if (find(name) == nullptr) throw ConfigError("{}: field '{}' is missing", file_, name);
    optional_path(name, value, meaning);
    if (value.empty()) fail(name, *find(name), "a path");
  }

  void optional_path(const char* name, std::filesystem::path& value, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto found = node->is_string() ? node->value<std::string>() : std::nullopt;
    if (!found) fail(name, *node, "a path");
    if (!found->empty()) value = folder_ / *found;
  }

  void strings(const char* name, std::vector<std::string>& value, const char*) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr) fail(name, *node, "an array of strings");
    for (const toml::node& item : *array) {
      const auto text = item.is_string() ? item.value<std::string>() : std::nullopt;
      if (!text) fail(name, *node, "an array of strings");
      value.push_back(*text);
    }
  }

  void reject_unknown_fields() const {
    for (const auto& [section, content] : table_) {
      const toml::table* fields = content.as_table();
      const std::string section_name(section.str());
      if (fields == nullptr) throw ConfigError("{}: '{}' stands outside of a section", file_, section_name);
      for (const auto& [key, value] : *fields) {
        const std::string name = section_name + "." + std::string(key.str());
        if (!known_.contains(name))
          throw ConfigError("{}: line {}: unknown field '{}'{}", file_, value.source().begin.line, name,
                            did_you_mean(name, {known_.begin(), known_.end()}));
      }
    }
  }

 private:
  const toml::node* find(const std::string& name) {
    known_.insert(name);
    return table_.at_path(name).node();
  }

  [[noreturn]] void fail(const char* name, const toml::node& node, const std::string& expected) const {
    std::ostringstream found;
    node.visit([&](const auto& value) { found << value; });
    std::string text = found.str();
    if (text.size() > 40) text = text.substr(0, 37) + "...";
    throw ConfigError("{}: line {}: {}: found {}, expected {}", file_, node.source().begin.line, name, text, expected);
  }

  const toml::table& table_;
  std::string file_;
  std::filesystem::path folder_;
  std::set<std::string> known_;
};

class ReferenceWriter {
 public:
  void integer(const char* name, int64_t& value, Range<int64_t>, const char* meaning) {
    line(name, fmt::format("{}", value), meaning);
  }
  void number(const char* name, double& value, Range<double>, const char* meaning) {
    line(name, fmt::format("{}", value), meaning);
  }
  void flag(const char* name, bool& value, const char* meaning) { line(name, fmt::format("{}", value), meaning); }
  void choice(const char* name, std::string& value, const std::vector<std::string>& choices, const char* meaning) {
    line(name, fmt::format("\"{}\"", value), fmt::format("{} ({})", meaning, fmt::join(choices, ", ")));
  }
  void path(const char* name, std::filesystem::path&, const char* meaning) { line(name, "required", meaning); }
  void optional_path(const char* name, std::filesystem::path&, const char* meaning) { line(name, "\"\"", meaning); }
  void strings(const char* name, std::vector<std::string>&, const char* meaning) { line(name, "[]", meaning); }
  std::string text;

 private:
  void line(const std::string& name, const std::string& fallback, const std::string& meaning) {
    text += fmt::format("| `{}` | {} | {} |\n", name, fallback, meaning);
  }
};

class ValueWriter {
 public:
  void integer(const char* name, int64_t value, Range<int64_t>, const char*) { add(name, toml::value<int64_t>(value)); }
  void number(const char* name, double value, Range<double>, const char*) {
    std::string text = fmt::format("{}", value);  // the shortest that reads as the same number
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    values.emplace_back(name, text);
  }
  void flag(const char* name, bool value, const char*) { add(name, toml::value<bool>(value)); }
  void choice(const char* name, const std::string& value, const std::vector<std::string>&, const char*) {
    add(name, toml::value<std::string>(value));
  }
  void path(const char* name, const std::filesystem::path& value, const char*) {
    add(name, toml::value<std::string>(value.string()));
  }
  void optional_path(const char* name, const std::filesystem::path& value, const char* meaning) {
    path(name, value, meaning);
  }
  void strings(const char* name, const std::vector<std::string>& value, const char*) {
    toml::array array;
    for (const std::string& item : value) array.push_back(item);
    add(name, array);
  }
  std::vector<std::pair<std::string, std::string>> values;

 private:
  void add(const char* name, const toml::node& value) {
    std::ostringstream text;
    text << toml::toml_formatter(value, toml::format_flags::none);
    values.emplace_back(name, text.str());
  }
};

uint64_t hash_of(const std::string& text, uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

}  // namespace

RunFile load_run_file(const std::filesystem::path& path) {
  const std::string text = read_file(path, 1 << 20);
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    refuse_foreign_file(text, path.string(), "a run file (TOML)");
    throw ConfigError("{}: line {}: not valid TOML: {}", path.string(), error.source().begin.line, error.description());
  }
  RunFile run;
  Reader reader(table, path.string(), path.parent_path());
  visit_fields(run, reader);
  reader.reject_unknown_fields();
  if (run.warmup_iterations > run.iterations || run.decay_iterations > run.iterations - run.warmup_iterations)
    throw ConfigError("{}: optimizer: warmup of {} and decay of {} iterations do not fit into {} iterations",
                      path.string(), run.warmup_iterations, run.decay_iterations, run.iterations);
  if (run.silence_limit_s < 2 * run.heartbeat_interval_s)
    throw ConfigError("{}: network.silence_limit_s: found {}, expected at least two heartbeat intervals of {} s",
                      path.string(), run.silence_limit_s, run.heartbeat_interval_s);
  run.run_id = hash_of(text, 0);
  const std::pair<const char*, std::filesystem::path> files[] = {
      {"model.config", run.model_config}, {"plan.network", run.network}, {"plan.file", run.plan}};
  for (const auto& [field, file] : files) {
    const std::string content = read_file(file);
    run.run_id = hash_of(content, run.run_id);
    run.contents[field] = fmt::format("{:016x}", hash_of(content, 0));
  }
  return run;
}

std::vector<std::pair<std::string, std::string>> run_file_values(const RunFile& run) {
  RunFile copy = run;  // the list of fields also serves the reader
  ValueWriter writer;
  visit_fields(copy, writer);
  return std::move(writer.values);
}

std::string run_file_reference() {
  RunFile run;
  ReferenceWriter writer;
  visit_fields(run, writer);
  return "| field | default | meaning |\n| --- | --- | --- |\n" + writer.text;
}

}  // namespace skippipe
