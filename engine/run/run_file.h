// The run file: everything that a run's nodes must agree on, in TOML. Paths are relative to the run file's folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace skippipe {

struct RunFile {
  // [run]
  int64_t seed = 1;
  int64_t iterations = 100;
  std::filesystem::path output;
  // [model]
  std::filesystem::path model_config;
  std::filesystem::path weights;  // empty: random
  // [data]
  std::filesystem::path train_tokens;
  std::filesystem::path tokenizer;          // may be empty
  std::filesystem::path validation_tokens;  // may be empty
  int64_t samples = 4;
  int64_t tokens = 128;
  // [validation]
  int64_t validation_interval = 100;
  int64_t validation_samples = 32;
  // [plan]
  std::filesystem::path plan;
  std::filesystem::path network;
  // [optimizer]
  double learning_rate = 1e-3;
  std::string schedule = "cosine";
  int64_t warmup_iterations = 0;
  int64_t decay_iterations = 0;
  double final_learning_rate_share = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;
  // [checkpoint]
  int64_t checkpoint_interval = 100;
  int64_t keep_last = 2;
  int64_t keep_every = 0;
  double last_checkpoint_limit_s = 60;
  // [compute]
  std::string dtype = "f32";
  std::string attention = "own";
  bool graphs = true;
  std::string reduction = "auto";
  int64_t threads = 1;
  int64_t memory_limit_mb = 0;
  std::string recompute = "auto";
  // [network]
  std::vector<std::string> addresses;
  bool emulate_links = false;
  bool payload_checksums = true;
  double connect_limit_s = 30;
  double heartbeat_interval_s = 1;
  double silence_limit_s = 4;
  double stall_limit_s = 600;
  std::string wire_dtype = "auto";
  int64_t part_bytes = int64_t{4} << 20;

  // Agrees on all the nodes of a run, and differs from that of another run with great likelihood: a hash of the bytes
  // of the run file, the model's configuration, the network and the plan. Set by load_run_file.
  uint64_t run_id = 0;
  // Checksums of the files behind the fields model.config, plan.file and plan.network. Set by load_run_file.
  std::map<std::string, std::string> contents;
};

// Throws ConfigError naming the file, the field, what was found and what was expected; unknown fields are errors.
RunFile load_run_file(const std::filesystem::path& path);

// Every field with its value, in the order of the reference: {"run.seed", "1"}. Values are TOML literals; paths are
// those that the node uses, no longer relative to the run file.
std::vector<std::pair<std::string, std::string>> run_file_values(const RunFile& run);

// One line of the fields' reference per field: name, type, default, meaning (README.md shows it).
std::string run_file_reference();

}  // namespace skippipe
