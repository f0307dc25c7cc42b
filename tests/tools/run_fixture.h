// A small job of four node processes on real text, and runs of it that a test may interfere with.
#pragma once

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/file.h"
#include "tests/temp_folder.h"
#include "tests/tools/run_program.h"
#include "tools/processes/processes.h"

namespace skippipe {

constexpr std::chrono::seconds kLongEnough(60);

// Files of a job, made once: nothing here changes them, tests write their own run files.
class RunFixture : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    folder_->write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
      "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "vocab_size": 400, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
    folder_->write("network.json", R"({"format": "skippipe-network", "version": 1, "nodes": [
      {"name": "a", "region": "x", "forward_s": 0.001}, {"name": "b", "region": "x", "forward_s": 0.001},
      {"name": "c", "region": "y", "forward_s": 0.001}, {"name": "d", "region": "y", "forward_s": 0.001}],
      "region_links": [{"from": "x", "to": "x", "latency_ms": 1}, {"from": "y", "to": "y", "latency_ms": 1},
                       {"from": "x", "to": "y", "latency_ms": 3, "bandwidth_mbit_per_s": 500}]})");
    const std::string text = "'" SKIPPIPE_SOURCE_DIR "/LICENSE'";
    must_run("tokenizer --vocabulary 400 --out " + path("tok.model") + " " + text);
    must_run("tokenize --document-lines 10 --validation-share 0.2 --tokenizer " + path("tok.model") + " --out " +
             path("tokens") + " " + text);
    must_run("plan --method full --stages 2 --microbatches 2 --samples 4 --tokens 32 --evaluations 50 --model " +
             path("config.json") + " --network " + path("network.json") + " --out " + path("plan.json"));
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string path(const std::string& name) { return (*folder_ / name).string(); }
  static void must_run(const std::string& arguments) {
    const ProgramResult result = run_skippipe(arguments);
    if (result.exit_code != 0) throw std::runtime_error(arguments + ": " + result.output);
  }

  // Sections of a run file; a test may change one.
  struct Sections {
    std::string run = "iterations = 3";
    std::string model = "config = \"config.json\"";
    std::string data = "train = \"tokens/train.tokens\"\nsamples = 4\ntokens = 32";
    std::string plan = "file = \"plan.json\"\nnetwork = \"network.json\"";
    std::string optimizer = "learning_rate = 5e-3\nwarmup_iterations = 1";
    std::string compute = "";
    std::string network = "emulate_links = true";
    std::string checkpoint = "";
  };

  // Writes a run file with an output folder of this test's own and returns its path.
  static std::string write_run(const Sections& s) {
    const std::string name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_->write(name + ".toml",
                   fmt::format("[run]\noutput = \"{}\"\n{}\n[model]\n{}\n[data]\n{}\n[plan]\n{}\n[optimizer]\n{}\n"
                               "[compute]\n{}\n[network]\n{}\n[checkpoint]\n{}\n",
                               name, s.run, s.model, s.data, s.plan, s.optimizer, s.compute, s.network, s.checkpoint));
    return path(name + ".toml");
  }
  static std::string output_folder() { return path(::testing::UnitTest::GetInstance()->current_test_info()->name()); }

  // One line that says what is wrong, and exit code 1.
  static void expect_refused(const Sections& sections, const std::string& part) {
    const ProgramResult result = run_skippipe("launch " + write_run(sections));
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, ::testing::HasSubstr(part));
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  }

  static std::vector<nlohmann::json> metrics() {
    std::ifstream file(output_folder() + "/metrics.jsonl");
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  inline static TempFolder* folder_ = nullptr;
};

// A launch that a test interferes with. Its output comes line by line.
class BackgroundLaunch {
 public:
  explicit BackgroundLaunch(const std::string& run_file, const std::string& options = "")
      : run_file_(run_file),
        processes_([this](int, const std::string& line) { output_ += line + "\n"; },
                   [this](int, int code) { exit_code_ = code; }) {
    processes_.start({"/bin/sh", "-c", "exec '" SKIPPIPE_PROGRAM "' launch '" + run_file + "' " + options + " 1>&2"});
  }

  bool wait_for(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + kLongEnough;
    while (output_.find(text) == std::string::npos && !exit_code_ && std::chrono::steady_clock::now() < deadline)
      processes_.wait(-1, std::chrono::milliseconds(10));
    return output_.find(text) != std::string::npos;
  }
  // Exit code, or nothing if the limit passed.
  std::optional<int> wait(std::chrono::milliseconds limit) {
    processes_.wait(-1, limit);
    return exit_code_;
  }
  void interrupt() { send(SIGINT); }
  void kill_it() { send(SIGKILL); }
  void send(int signal) { processes_.signal_all(signal); }
  // To the launch and to its nodes.
  void send_to_all(int signal) {
    send(signal);
    for (const pid_t node : nodes()) kill(node, signal);
  }
  bool wait_for_nodes(size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + kLongEnough;
    while (nodes().size() != count && std::chrono::steady_clock::now() < deadline)
      processes_.wait(-1, std::chrono::milliseconds(10));
    return nodes().size() == count;
  }
  bool wait_for_no_nodes() { return wait_for_nodes(0); }
  const std::string& output() const { return output_; }

  // The processes of this run's nodes, those of one node only if node >= 0.
  std::vector<pid_t> nodes(int node = -1) const {
    const std::string what = run_file_ + std::string(1, '\0') + "--node" + std::string(1, '\0') +
                             (node < 0 ? "" : std::to_string(node) + std::string(1, '\0'));
    std::vector<pid_t> found;
    for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      pid_t pid = 0;
      if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
      std::ifstream file(entry.path() / "cmdline", std::ios::binary);
      std::ostringstream command;
      command << file.rdbuf();  // a process that has just ended can't be read: that is no exception here
      if (command.str().find(what) != std::string::npos) found.push_back(pid);
    }
    return found;
  }

 private:
  std::string run_file_;
  std::string output_;
  std::optional<int> exit_code_;
  Processes processes_;
};

}  // namespace skippipe
