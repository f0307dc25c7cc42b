// skippipe report: what one run did, or several side by side, on one page.
#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "base/file.h"
#include "tools/report/sections.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out;
};

// Parts of machines that share no folder may have come together since the launches merged their own.
void write_merged_trace(const RunData& run) {
  if (!run.trace) return;
  try {
    write_trace(*run.trace, merged_trace_file(run.folder));
  } catch (const FileError& error) {
    fmt::print(stderr, "{}\n", error.what());  // the page does not need it
  }
}

void run(const Options& options) {
  Runs runs;
  std::set<std::string> names;
  for (const std::string& folder : options.runs) {
    runs.push_back(load_run_data(folder));
    write_merged_trace(runs.back());
    if (!names.insert(runs.back().name).second) runs.back().name = folder;
    runs.back().place = runs.size();
  }
  std::filesystem::path out = options.out;
  if (out.empty()) out = std::filesystem::path(options.runs.front()) / "report.html";
  write_file_atomically(out, render_report(runs));
  fmt::print("report in {}\n", out.string());
}

}  // namespace

void add_report_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("report", "One page on a run, or on several side by side");
  auto options = std::make_shared<Options>();
  verb->add_option("runs", options->runs, "Output folders of runs")->required();
  verb->add_option("--out", options->out, "The page (HTML); default: report.html in the first run's folder");
  verb->footer("Example: skippipe report runs/demo/full runs/demo/skip --out report.html");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
