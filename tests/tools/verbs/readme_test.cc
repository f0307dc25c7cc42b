// Every command of README.md, run in its order as a newcomer would, on a small text.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "tests/temp_folder.h"
#include "tests/tools/run_program.h"
#include "tests/tools/unused_addresses.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = SKIPPIPE_SOURCE_DIR;

// A rule for the commands that begin so. One that is for no command of the README fails the test.
struct Rule {
  std::string begins;
  std::string action;
  std::string why;
};

const std::vector<Rule> kNotRun = {
    {"tools/demo.sh", "", "installs packages and takes minutes"},
    {"tools/test.sh", "", "installs packages and runs this test"},
    {"cmake --preset", "", "builds everything once more"},
    {"SKP_REQUIRE_CUDA=1 ctest --preset kernels", "", "needs a GPU, and what the line before it builds"},
    {"build/kernels/tools/bench_kernels", "", "needs what the line before it builds"},
    {"skippipe bench --dtype f32,bf16", "", "takes a minute; the same verb runs with less work"},
};

// What the README tells its reader in words, or takes for granted: done before the command.
const std::vector<Rule> kBefore = {
    {"skippipe tokenizer ", "mkdir text && mv ../../words.txt text/", "the reader's own text"},
    {"skippipe launch run.toml --nodes 0-5",
     "sed -i \"s/^\\[network\\]/[network]\\naddresses = [$ADDRESSES]/\" run.toml && "
     "for machine in first second; do mkdir ../$machine && cp -r *.json *.toml tokens tokenizer.model ../$machine; "
     "done",
     "the nodes' addresses, and the files copied to each machine"},
    {"skippipe launch run.toml --resume", "sed -i '/^addresses/d' run.toml && rm -r run/checkpoints/iteration-00000004",
     "a crash, on one machine"},
    {"skippipe convert TinyLlama-1.1B", "cp -r my-model TinyLlama-1.1B", "a model from elsewhere"},
    {"skippipe train run.toml --node 3", "rm -r run", "a run that has not begun"},
};

// The same with less work: what is replaced, and by what.
const std::vector<Rule> kCut = {
    {"--seconds 10", "--seconds 0.5", "of a search"},
    {"bench --config config.json", "bench --config config.json --samples 1 --tokens 64 --steps 1", "of training"},
    {"iteration-00000200", "iteration-00000004", "of training"},
    {"--compare", "--compare --evaluations 50", "of a search"},
};
const std::vector<Rule> kCutInRunFile = {
    {"iterations = 200", "iterations = 4", ""},
    {"warmup_iterations = 20", "warmup_iterations = 1", ""},
    {"[validation]\ninterval = 50", "[validation]\ninterval = 2", ""},
    {"[checkpoint]\ninterval = 50", "[checkpoint]\ninterval = 2", ""},
};

struct Command {
  size_t position = 0;  // in README.md
  std::string text;
  std::string beside;  // what another machine runs at the same time
};

std::string trimmed(std::string text) {
  text = text.substr(0, text.find(" #"));
  const size_t end = text.find_last_not_of(" \n");
  return end == std::string::npos ? "" : text.substr(0, end + 1);
}

// Where a ``` or a ` begins and ends what is between them.
std::vector<Command> between(const std::string& text, const std::string& mark) {
  std::vector<Command> found;
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at)) {
    const size_t begin = at + mark.size(), end = text.find(mark, begin);
    if (end == std::string::npos) break;
    found.push_back({begin, text.substr(begin, end - begin), ""});
    at = end + mark.size();
  }
  return found;
}

class Readme {
 public:
  explicit Readme(const fs::path& path = kRoot / "README.md") : text_(read_file(path)) {
    std::string prose = text_;
    for (const Command& block : between(text_, "```")) {
      add_lines(block);
      std::fill_n(prose.begin() + static_cast<std::ptrdiff_t>(block.position) - 3, block.text.size() + 6, ' ');
    }
    std::ranges::replace(prose, '\n', ' ');
    spans_ = between(prose, "`");
    // A verb alone is a name; with arguments it is a command.
    for (const Command& span : spans_)
      if (std::regex_match(span.text, std::regex("skippipe [a-z]+ .*"))) commands_.push_back(span);
    std::ranges::sort(commands_, {}, &Command::position);
    join_those_of_several_machines();
  }

  // Those in blocks and those in the text, in their order.
  const std::vector<Command>& commands() const { return commands_; }
  // What stands between backticks in the text.
  const std::vector<Command>& spans() const { return spans_; }

 private:
  void add_lines(const Command& block) {
    size_t position = block.position;
    std::string command;
    std::istringstream lines(block.text);
    for (std::string line; std::getline(lines, line); ++position) {
      position += line.size();
      command += trimmed(line);
      if (command.ends_with('\\')) {
        command.pop_back();
        continue;
      }
      if (!command.empty()) commands_.push_back({position, command, ""});
      command.clear();
    }
  }

  void join_those_of_several_machines() {
    const auto starts_some = [](const Command& command) {
      return command.text.starts_with("skippipe launch ") && command.text.find(" --nodes ") != std::string::npos;
    };
    for (size_t i = 0; i + 1 < commands_.size(); ++i) {
      if (!starts_some(commands_[i]) || !starts_some(commands_[i + 1])) continue;
      commands_[i].beside = commands_[i + 1].text;
      commands_.erase(commands_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
  }

  const std::string text_;
  std::vector<Command> commands_, spans_;
};

// Rules that were of use.
class Rules {
 public:
  explicit Rules(const std::vector<Rule>& rules) : rules_(rules), used_(rules.size()) {}
  void expect_all_used() const {
    for (size_t i = 0; i < rules_.size(); ++i)
      EXPECT_TRUE(used_[i]) << "README.md has nothing for the rule '" << rules_[i].begins << "' any more";
  }
  const Rule* for_command(const std::string& command) {
    for (size_t i = 0; i < rules_.size(); ++i)
      if (command.starts_with(rules_[i].begins)) return used_[i] = true, &rules_[i];
    return nullptr;
  }
  std::string replace_in(std::string text) {
    for (size_t i = 0; i < rules_.size(); ++i)
      if (const size_t at = text.find(rules_[i].begins); at != std::string::npos) {
        used_[i] = true;
        text.replace(at, rules_[i].begins.size(), rules_[i].action);
      }
    return text;
  }

 private:
  const std::vector<Rule>& rules_;
  std::vector<bool> used_;
};

// One shell, as the reader has it: folder and variables outlive a command.
class Shell {
 public:
  explicit Shell(const TempFolder& folder) : folder_(folder) {}
  ProgramResult run(const std::string& command) {
    folder_.write("script", fmt::format("cd '{0}/clone'\n[ ! -f '{0}/state' ] || . '{0}/state'\n{1}\ncode=$?\n"
                                        "{{ declare -px; printf 'cd %q\\n' \"$PWD\"; }} >'{0}/state'\nexit $code\n",
                                        folder_.path().string(), command));
    return run_command(fmt::format("bash '{}' 2>&1 </dev/null", (folder_ / "script").string()));
  }

 private:
  const TempFolder& folder_;
};

// Each machine has a folder of its own.
std::string on_two_machines(const Command& command) {
  return fmt::format(
      "(cd ../first && {}) >../first.log 2>&1 & first=$!\n(cd ../second && {})\nsecond=$?\n"
      "wait $first && [ $second = 0 ] || {{ cat ../first.log; false; }}",
      command.text, command.beside);
}

// Words of some syllables, the same each time.
std::string some_text() {
  Random random(1, {});
  std::vector<std::string> words;
  for (int i = 0; i < 2000; ++i) {
    std::string word;
    for (uint64_t syllables = 1 + random.below(3); syllables > 0; --syllables) {
      word += "bcdfghjklmnprstvwz"[random.below(18)];
      word += "aeiou"[random.below(5)];
      if (random.below(2) == 0) word += "nrst"[random.below(4)];
    }
    words.push_back(word);
  }
  std::string text = "In the beginning\n";
  for (int line = 0; line < 3000; ++line)
    for (int i = 0; i < 12; ++i) text += words[random.below(words.size())] + (i == 11 ? "\n" : " ");
  return text;
}

class ReadmeTest : public ::testing::Test {
 protected:
  const Readme readme_;
  const TempFolder folder_;
};

TEST_F(ReadmeTest, EveryCommandWorksInItsOrder) {
  const fs::path clone = folder_ / "clone";
  fs::create_directories(clone / "build/release");
  fs::create_symlink(SKIPPIPE_PROGRAM, clone / "build/release/skippipe");
  fs::copy(kRoot / "examples", clone / "examples");
  folder_.write("clone/words.txt", some_text());
  Rules cut_in_run_file(kCutInRunFile);
  folder_.write("clone/examples/run.toml", cut_in_run_file.replace_in(read_file(kRoot / "examples/run.toml")));
  Shell shell(folder_);
  ASSERT_EQ(shell.run(fmt::format("export ADDRESSES='\"{}\"'", fmt::join(unused_addresses(12), "\", \""))).exit_code,
            0);
  const bool has_gpu = run_skippipe("devices").output.find("no GPU") == std::string::npos;
  Rules not_run(kNotRun), before(kBefore), cut(kCut);
  for (const Command& command : readme_.commands()) {
    SCOPED_TRACE(command.text);
    const bool on_gpu = command.text.find("cuda:") != std::string::npos;
    const Rule* rule = before.for_command(command.text);
    if (not_run.for_command(command.text) != nullptr || (on_gpu && has_gpu)) continue;
    if (rule != nullptr) {
      const ProgramResult prepared = shell.run(rule->action);
      ASSERT_EQ(prepared.exit_code, 0) << rule->action << "\n" << prepared.output;
    }
    const ProgramResult result =
        shell.run(command.beside.empty() ? cut.replace_in(command.text) : on_two_machines(command));
    if (on_gpu) {
      EXPECT_EQ(result.exit_code, 1) << result.output;
      EXPECT_THAT(result.output, ::testing::MatchesRegex("skippipe: [^\n]*GPU[^\n]*\n"));
    } else {
      ASSERT_EQ(result.exit_code, 0) << result.output;
    }
  }
  for (const Rules& rules : {not_run, before, cut, cut_in_run_file}) rules.expect_all_used();
}

std::set<std::string> options_in(const std::string& text) {
  static const std::regex kOption("(^|[^a-zA-Z0-9-])(--[a-z][a-z-]*)");
  std::set<std::string> found;
  for (std::sregex_iterator at(text.begin(), text.end(), kOption), end; at != end; ++at) found.insert((*at)[2]);
  return found;
}

// A verb's options, by its name.
std::map<std::string, std::set<std::string>> options_of_verbs() {
  std::map<std::string, std::set<std::string>> options;
  const std::string help = run_skippipe("--help").output;
  static const std::regex kVerb("\n  ([a-z]+) ");
  for (std::sregex_iterator at(help.begin(), help.end(), kVerb), end; at != end; ++at)
    options[(*at)[1]] = options_in(run_skippipe((*at)[1].str() + " --help").output);
  return options;
}

// What a span of text names: a verb's options, a script's, or those of any verb.
void expect_known(const std::string& span, const std::map<std::string, std::set<std::string>>& verbs) {
  SCOPED_TRACE(span);
  std::istringstream words(span);
  std::string first, verb;
  words >> first;
  const bool is_skippipe = first == "skippipe" && words >> verb;
  EXPECT_TRUE(!is_skippipe || verb.starts_with("--") || verbs.contains(verb)) << "no such verb";
  const auto named = verbs.find(is_skippipe ? verb : first);
  std::set<std::string> known;
  if (first.find('/') != std::string::npos && fs::is_regular_file(kRoot / first))
    known = options_in(read_file(kRoot / first));
  else if (named != verbs.end())
    known = named->second;
  else
    for (const auto& [name, options] : verbs) known.insert(options.begin(), options.end());
  for (const std::string& option : options_in(span)) EXPECT_TRUE(known.contains(option)) << option;
}

TEST_F(ReadmeTest, EveryVerbAndOptionThatIsNamedExists) {
  const auto verbs = options_of_verbs();
  ASSERT_GE(verbs.size(), 10u);
  for (const Command& span : readme_.spans()) expect_known(span.text, verbs);
}

// Developers' documents name options of other programs, too: only what begins with ours is looked at.
TEST_F(ReadmeTest, CommandsInOtherDocumentsHaveVerbsAndOptionsThatExist) {
  const auto verbs = options_of_verbs();
  int found = 0;
  for (const char* folder : {"base", "comm", "engine", "kernels", "schedule", "tests", "tokenizer", "tools"})
    for (const auto& entry : fs::directory_iterator(kRoot / folder)) {
      if (entry.path().extension() != ".md") continue;
      SCOPED_TRACE(entry.path());
      const Readme document(entry.path());
      for (const Command& span : document.spans())
        if (span.text.starts_with("skippipe ") && ++found > 0) expect_known(span.text, verbs);
    }
  EXPECT_GT(found, 0);
}

}  // namespace
}  // namespace skippipe
