// Traces and reports, as a user makes them from a small run of four node processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "base/file.h"
#include "engine/run/pace.h"
#include "engine/trace/trace_file.h"
#include "schedule/plan/plan.h"
#include "tests/tools/run_fixture.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class ReportTest : public RunFixture {
 protected:
  // A traced and evaluated run of three iterations, with a validation after the second and the last, made once.
  static void SetUpTestSuite() {
    RunFixture::SetUpTestSuite();
    write("job.toml", fmt::format("[run]\noutput = \"run\"\niterations = 3\n[model]\n{}\n[data]\n{}\n"
                                  "validation = \"tokens/validation.tokens\"\n[validation]\ninterval = 2\n"
                                  "samples = 6\n[plan]\n{}\n",
                                  Sections().model, Sections().data, Sections().plan));
    must_run("launch --trace " + path("job.toml"));
    must_run("eval --model " + path("run") + " --data " + path("tokens/train.tokens") +
             " --tokens 32 --samples 8 --skip 0.5 --choices 2");
  }

  static void write(const std::string& name, const std::string& text) { folder_->write(name, text); }

  // A copy of the run for this test to change.
  static std::string copy_of_run() {
    const fs::path copy = output_folder();
    fs::create_directories(copy);
    fs::copy(path("run"), copy, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    return copy.string();
  }

  static std::string report(const std::string& arguments) {
    const ProgramResult result = run_skippipe("report " + arguments + " --out " + path("report.html"));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return read_file(path("report.html"));
  }

  static void expect_refused(const std::string& folder, const std::string& why) {
    const ProgramResult result = run_skippipe("report " + folder);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.output, HasSubstr(why));
    EXPECT_EQ(std::ranges::count(result.output, '\n'), 1) << result.output;
  }
};

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Every tag is closed, in order, and no attribute's quote is left open.
void expect_well_formed(const std::string& html) {
  static const std::regex kTag(R"re(<(/?)([a-z0-9]+)((?:\s+[A-Za-z0-9:_-]+="[^"<>]*")*)\s*(/?)>|<!DOCTYPE html>|<)re");
  const std::set<std::string> empty = {"meta"};
  std::vector<std::string> open;
  // The style sheet is no markup.
  const size_t style = html.find("<style>"), end = html.find("</style>");
  ASSERT_TRUE(style < end && end != std::string::npos);
  const std::string text = html.substr(0, style + 7) + html.substr(end);
  for (std::sregex_iterator tag(text.begin(), text.end(), kTag), last; tag != last; ++tag) {
    const std::string name = (*tag)[2];
    if ((*tag)[0] == "<!DOCTYPE html>") continue;
    ASSERT_FALSE(name.empty()) << text.substr(static_cast<size_t>(tag->position()), 80);
    if ((*tag)[4] == "/" || empty.contains(name)) continue;
    if ((*tag)[1] != "/") {
      open.push_back(name);
    } else {
      ASSERT_FALSE(open.empty()) << name;
      ASSERT_EQ(open.back(), name) << text.substr(static_cast<size_t>(tag->position()), 80);
      open.pop_back();
    }
  }
  EXPECT_THAT(open, testing::IsEmpty());
}

void expect_self_contained(const std::string& html) {
  EXPECT_EQ(count_of(html, "://"), count_of(html, "xmlns=\"http://www.w3.org/2000/svg\""));
  for (const char* part : {"<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import", "javascript:"})
    EXPECT_THAT(html, Not(HasSubstr(part)));
}

TEST_F(ReportTest, LaunchLeavesATraceOfEveryNode) {
  for (int node = 0; node < 4; ++node) EXPECT_TRUE(fs::exists(trace_part_file(path("run"), node)));
  const Trace trace = read_trace(merged_trace_file(path("run")));
  ASSERT_EQ(trace.nodes.size(), 4u);
  for (const TracedNode& node : trace.nodes) {
    std::map<uint32_t, int> steps;
    for (const TraceEvent& event : node.events)
      if (event.track == TraceEvent::Track::kCompute && event.what == TraceEvent::What::kStep) ++steps[event.iteration];
    EXPECT_EQ(steps, (std::map<uint32_t, int>{{0, 1}, {1, 1}, {2, 1}}));
    EXPECT_EQ(node.dropped, 0u);
  }
}

TEST_F(ReportTest, TracesOnlyWhatIsAskedFor) {
  const std::string run_file = write_run({});
  const ProgramResult traced = run_skippipe("launch --trace-iterations 2 " + run_file);
  ASSERT_EQ(traced.exit_code, 0) << traced.output;
  EXPECT_THAT(traced.output, HasSubstr("trace: iterations 2 to 2, up to"));
  EXPECT_THAT(traced.output, HasSubstr("trace of 4 of 4 nodes in"));
  for (const TracedNode& node : read_trace(merged_trace_file(output_folder())).nodes) {
    EXPECT_FALSE(node.events.empty());
    for (const TraceEvent& event : node.events) EXPECT_EQ(event.iteration, 1u);
  }
  // A run that is not traced leaves none of another.
  fs::remove_all(fs::path(output_folder()) / "checkpoints");  // which would have to be resumed
  ASSERT_EQ(run_skippipe("launch " + run_file).exit_code, 0);
  EXPECT_FALSE(fs::exists(trace_part_file(output_folder(), 0)));
  for (const char* wrong : {"0", "3-2", "1-x", "-1", "1-2-3"})
    EXPECT_EQ(run_skippipe("launch --trace-iterations=" + std::string(wrong) + " " + run_file).exit_code, 2) << wrong;
}

TEST_F(ReportTest, ShowsEverythingOfARun) {
  const std::string html = report(path("run"));
  expect_well_formed(html);
  expect_self_contained(html);
  for (const char* id :
       {"headline", "curves", "evaluation", "timelines-1", "time-1", "links-1", "memory-1", "configuration"})
    EXPECT_EQ(count_of(html, fmt::format("<section id=\"{}\">", id)), 1u) << id;
  const auto evaluation = nlohmann::json::parse(read_file(path("run/evaluation.json")));
  EXPECT_THAT(html, HasSubstr(fmt::format("<b>{:.1f}</b>", evaluation["results"][0]["perplexity"].get<double>())));
  EXPECT_THAT(html, HasSubstr("1 of 2 left out at random"));
  std::ifstream metrics(path("run/metrics.jsonl"));
  std::vector<double> seconds;
  for (std::string line; std::getline(metrics, line);) seconds.push_back(nlohmann::json::parse(line)["seconds"]);
  ASSERT_EQ(seconds.size(), 3u);
  EXPECT_THAT(html, HasSubstr(fmt::format("<b>{:.3f} s</b>", (seconds[1] + seconds[2]) / 2)));
  EXPECT_THAT(html, HasSubstr("<td>3 of 3</td>"));
  EXPECT_THAT(html, HasSubstr("of median length among 2 traced"));
  EXPECT_THAT(html, HasSubstr("<td>validation loss, all stages</td>"));
  EXPECT_THAT(html, HasSubstr("<td>validation loss, the plan&#39;s paths</td><td>–</td>"));
  EXPECT_EQ(count_of(html, "class=\"line s0 dashed\""), 2u);
  EXPECT_THAT(html, HasSubstr(" s in 2 validations, "));
  EXPECT_THAT(html, HasSubstr("<td>optimizer.beta1</td><td>0.9</td>"));
  EXPECT_THAT(html, HasSubstr("<td>model: hidden_size</td><td>48</td>"));
  const Plan plan = load_plan(path("plan.json"));
  const auto name_of = [&](int node) { return plan.node_names[static_cast<size_t>(node)]; };
  const std::vector<PlannedVisit>& visits = plan.microbatches.front().visits;
  EXPECT_THAT(html, HasSubstr(fmt::format("<td>{} → {}</td>", name_of(visits[0].node), name_of(visits[1].node))));
  for (const char* nothing : {"nan", "inf", "not traced", "not evaluated"}) EXPECT_THAT(html, Not(HasSubstr(nothing)));
}

TEST_F(ReportTest, ComparesRunsAndSaysWhatIsMissing) {
  const fs::path other = copy_of_run();
  for (const char* part : {"trace", "trace.json", "evaluation.json", "metrics.jsonl"}) fs::remove_all(other / part);
  const std::string html = report(path("run") + " " + other.string());
  expect_well_formed(html);
  expect_self_contained(html);
  EXPECT_EQ(count_of(html, "There is no trace of this run: it was launched without --trace, or killed."), 3u);
  EXPECT_THAT(html, HasSubstr(other.filename().string() + " was not evaluated"));
  EXPECT_THAT(html, HasSubstr(other.filename().string() + " has no metrics"));
  EXPECT_THAT(html, HasSubstr("<section id=\"timelines-2\">"));
  EXPECT_THAT(html, HasSubstr("Where runs differ"));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
}

TEST_F(ReportTest, MergesPartsThatCameTogetherLater) {
  const fs::path copy = copy_of_run();
  fs::remove(trace_part_file(copy, 2));
  fs::remove(merged_trace_file(copy));
  EXPECT_THAT(report(copy.string()), HasSubstr("The trace lacks the parts of nodes 2:"));
  EXPECT_EQ(read_trace(merged_trace_file(copy)).nodes.size(), 3u);
  fs::copy_file(trace_part_file(path("run"), 2), trace_part_file(copy, 2));
  EXPECT_THAT(report(copy.string()), Not(HasSubstr("The trace lacks")));
  EXPECT_EQ(read_trace(merged_trace_file(copy)).nodes.size(), 4u);
}

TEST_F(ReportTest, NamesAreEscaped) {
  const fs::path copy = copy_of_run();
  std::string text = read_file(copy / "run.json");
  const std::string name = "<script>alert('a')</script>&\\\"";
  for (size_t at = 0; (at = text.find("\"name\": \"a\"", at)) != std::string::npos; at += name.size())
    text.replace(at, 11, "\"name\": \"" + name + "\"");
  std::ofstream(copy / "run.json") << text;
  const std::string html = report(copy.string());
  expect_well_formed(html);
  expect_self_contained(html);
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(&#39;a&#39;)&lt;/script&gt;&amp;&quot;"));
}

TEST_F(ReportTest, ResumedAndKilledRunsHaveCurvesToo) {
  const fs::path copy = copy_of_run();
  std::string text = read_file(copy / "metrics.jsonl");
  const std::string first = text.substr(0, text.find('\n') + 1);
  std::ofstream(copy / "metrics.jsonl") << text << text.substr(first.size()) << "{\"iteration\": 4, \"lo";
  EXPECT_THAT(report(copy.string()), HasSubstr("<td>3 of 3</td>"));
}

TEST_F(ReportTest, LostLinesLeaveAGap) {
  const fs::path copy = copy_of_run();
  std::string text = read_file(copy / "metrics.jsonl");
  const size_t second = text.find('\n') + 1;
  text.erase(second, text.find('\n', second) + 1 - second);
  std::ofstream(copy / "metrics.jsonl") << text;
  const std::string html = report(copy.string());
  EXPECT_THAT(html, HasSubstr("has no figures of 1 iterations"));
  EXPECT_THAT(html, HasSubstr("<td>3 of 3</td>"));
  EXPECT_THAT(html, HasSubstr("loss after 3 iterations"));
}

TEST_F(ReportTest, NamesTheNodesThatComputeSlowerThanPlanned) {
  const fs::path copy = copy_of_run();
  std::ofstream metrics(copy / "metrics.jsonl");
  const IterationPace planned = planned_pace(load_plan(path("plan.json")), load_network(path("network.json")));
  for (int iteration = 0; iteration < 20; ++iteration) {
    nlohmann::json line = {{"iteration", iteration},         {"loss", 2},   {"gradient_norm", 1},
                           {"seconds", 4 * planned.seconds}, {"tokens", 5}, {"busy_share", 0.5},
                           {"busy_s", planned.busy_s}};
    line["busy_s"][2] = 3 * planned.busy_s[2];
    metrics << line << "\n";
  }
  metrics.close();
  const std::string html = report(copy.string());
  EXPECT_THAT(html, HasSubstr(": c computes 3.0 x slower than planned.</p>"));
  EXPECT_EQ(count_of(html, "slower than planned"), 1u);
}

// Points that are one, alike, or as far apart as doubles can be.
TEST_F(ReportTest, ChartsEndWhateverTheFigures) {
  const fs::path copy = copy_of_run();
  const auto line = [](int iteration, const std::string& loss) {
    return fmt::format(
        "{{\"iteration\": {}, \"loss\": {}, \"gradient_norm\": 1, \"seconds\": 1e-300, "
        "\"tokens\": 1e300, \"busy_share\": 0.5}}\n",
        iteration, loss);
  };
  std::ofstream(copy / "metrics.jsonl") << line(7, "2.5");
  std::string html = report(copy.string());
  EXPECT_EQ(count_of(html, "r=\"3\"/>"), 4u);
  EXPECT_THAT(html, HasSubstr("loss after 8 iterations"));
  for (const char* second : {"100000000000000016", "-1e300", "1e17"}) {
    std::ofstream(copy / "metrics.jsonl") << line(1, "1e17") << line(2, second);
    html = report(copy.string());
    EXPECT_LT(html.size(), 1'000'000u);
  }
}

TEST_F(ReportTest, AnEvaluationOfAnotherCheckpointSaysSo) {
  const fs::path copy = copy_of_run();
  EXPECT_THAT(report(copy.string()), HasSubstr("perplexity, all stages</span>"));
  auto evaluation = nlohmann::json::parse(read_file(copy / "evaluation.json"));
  EXPECT_EQ(evaluation["iteration"], 3);
  evaluation["iteration"] = 2;
  std::ofstream(copy / "evaluation.json") << evaluation;
  EXPECT_THAT(report(copy.string()), HasSubstr("perplexity, all stages, after 2 iterations"));
}

// Only a folder where a file should be stops root.
TEST_F(ReportTest, AFolderThatCannotBeWrittenHasAReport) {
  const fs::path copy = copy_of_run();
  fs::remove(merged_trace_file(copy));
  fs::create_directories(merged_trace_file(copy) / "x");
  EXPECT_THAT(report(copy.string()), HasSubstr("Measured:"));
}

TEST_F(ReportTest, RefusesWhatIsNoRun) {
  expect_refused(path("tokens"), "no run.json there");
  const fs::path copy = copy_of_run();
  std::ofstream(copy / "metrics.jsonl") << "{\"iteration\": 1}\n";
  expect_refused(copy.string(), "metrics.jsonl: line 1: field 'loss' is missing");
  copy_of_run();
  std::ofstream(copy / "evaluation.json") << R"({"format": "another"})";
  expect_refused(copy.string(), "evaluation.json");
  copy_of_run();
  std::ofstream(copy / "trace" / "node-01.json") << "{";
  expect_refused(copy.string(), "node-01.json: not valid JSON");
  EXPECT_EQ(run_skippipe("report").exit_code, 2);
}

bool has_browser() { return std::system("command -v chromium >/dev/null 2>&1") == 0; }

// What a browser made of a page in the folder.
std::string dom_of(const std::string& folder, const std::string& page) {
  const std::string command = fmt::format(
      "timeout 100 chromium --headless --no-sandbox --disable-gpu --allow-file-access-from-files "
      "--user-data-dir='{0}/browser' --dump-dom 'file://{0}/{1}' > '{0}/dom.html' 2>/dev/null",
      folder, page);
  EXPECT_EQ(std::system(command.c_str()), 0);
  return read_file(folder + "/dom.html");
}

// A browser's idea of the page, where there is a browser: nothing was moved or dropped to make sense of it.
TEST_F(ReportTest, ABrowserReadsWhatWasWritten) {
  if (!has_browser()) GTEST_SKIP() << "chromium is not installed: what the page's source shows is still tested";
  const std::string html = report(path("run"));
  const std::string dom = dom_of(path(""), "report.html");
  for (const char* tag : {"<section", "<svg", "<rect", "<polyline", "<tr", "<td", "<text", "<li", "<figure"}) {
    EXPECT_GT(count_of(html, tag), 0u) << tag;
    EXPECT_EQ(count_of(dom, tag), count_of(html, tag)) << tag;
  }
}

// Nothing is wider than the screen, but for what scrolls by itself, and no label of a picture shrinks beyond reading.
// What keeps it within a narrow screen, without a browser to show it: what is wide is scrolled or a chart that fits.
TEST_F(ReportTest, WideThingsAreScrolled) {
  const std::string html = report(path("run"));
  EXPECT_THAT(html, HasSubstr("<meta name=\"viewport\" content=\"width=device-width"));
  EXPECT_THAT(html, HasSubstr("@media screen and (max-width: 760px)"));
  EXPECT_GT(count_of(html, "<table"), 0u);
  EXPECT_EQ(count_of(html, "<div class=\"scroll\"><table"), count_of(html, "<table"));
  EXPECT_GT(count_of(html, "<figure"), 0u);
  const size_t scrolled =
      count_of(html, "<div class=\"scroll\"><svg") + count_of(html, "<div class=\"scroll keep\"><svg");
  EXPECT_EQ(scrolled + count_of(html, "<figure"), count_of(html, "<svg"));
}

TEST_F(ReportTest, IsLegibleOnAPhone) {
  if (!has_browser()) GTEST_SKIP() << "chromium is not installed: what the page's source shows is still tested";
  report(path("run"));
  write("phone.html",
        R"(<html><body><iframe src="report.html" style="width:420px;height:800px;border:0"></iframe><p></p>
<script>
document.querySelector('iframe').onload = (event) => {
  const page = event.target.contentDocument;
  const heights = [...page.querySelectorAll('svg .ink, svg .muted')].map((t) => t.getBoundingClientRect().height);
  document.querySelector('p').textContent =
      JSON.stringify({width: page.documentElement.scrollWidth, text: Math.min(...heights)});
};
</script></body></html>)");
  const std::string dom = dom_of(path(""), "phone.html");
  const size_t begin = dom.find("<p>") + 3;
  const auto found = nlohmann::json::parse(dom.substr(begin, dom.find("</p>") - begin));
  EXPECT_LE(found["width"], 420);
  EXPECT_GE(found["text"], 10);
}

}  // namespace
}  // namespace skippipe
