// What compares runs: headline figures, curves, perplexities.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/markup.h"
#include "engine/run/pace.h"
#include "tools/report/chart.h"
#include "tools/report/html.h"
#include "tools/report/sections.h"

namespace skippipe {
namespace {

constexpr const char* kNone = "–";

std::vector<std::string> names_of(const Runs& runs) {
  std::vector<std::string> names;
  for (const RunData& run : runs) names.push_back(run.name);
  return names;
}

std::string text_if(bool there, double value, const char* unit, int decimals) {
  return there ? fmt::format("{:.{}f}{}", value, decimals, unit) : kNone;
}

double planned_s(const RunData& run) { return run.description.plan.predicted.steady_iteration_s; }

std::string perplexity_of(const RunData& run) {
  const bool there = run.evaluation && !run.evaluation->groups.empty();
  return text_if(there, there ? run.evaluation->groups.front().perplexity : 0, "", 1);
}

std::string difference_of(const RunData& run) {
  const bool there = !run.iterations.empty() && planned_s(run) > 0;
  return there ? fmt::format("{:+.1f} %", (run.iteration_s() / planned_s(run) - 1) * 100) : kNone;
}

std::string tile(const std::string& figure, const std::string& meaning) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", escape_markup(figure),
                     escape_markup(meaning));
}

std::string perplexity_label(const RunData& run) {
  if (!run.evaluation) return "perplexity: not evaluated";
  const auto& iteration = run.evaluation->iteration;
  if (!iteration || *iteration == run.iterations_done()) return "perplexity, all stages";
  return fmt::format("perplexity, all stages, after {} iterations", *iteration);
}

std::string tiles_of(const RunData& run) {
  const bool ran = !run.iterations.empty();
  return fmt::format(
      "<div class=\"tiles\">\n{}{}{}{}</div>\n",
      tile(text_if(ran, run.iteration_s(), " s", 3), fmt::format("per iteration, planned {:.3f} s", planned_s(run))),
      tile(text_if(ran, run.tokens_per_s(), "", 0), "tokens per second"),
      tile(text_if(ran, run.last_loss(), "", 3), fmt::format("loss after {} iterations", run.iterations_done())),
      tile(perplexity_of(run), perplexity_label(run)));
}

// What slows the run, as its progress says it, too.
std::string causes_of(const RunData& run) {
  std::vector<IterationPace> iterations;
  for (const IterationFigures& figures : run.iterations)
    if (figures.iteration > 1) iterations.push_back({figures.seconds, figures.busy_s});
  const Plan& plan = run.description.plan;
  const auto found = find_pace(planned_pace(plan, run.description.network), iterations);
  std::string html;
  if (found)
    for (const std::string& cause : describe_causes(*found, plan.node_names))
      html += paragraph(fmt::format("{}: {}.", run.name, cause));
  return html;
}

template <typename Text>
void add_row(Table& table, const Runs& runs, const std::string& name, Text text) {
  std::vector<std::string> cells = {name};
  for (const RunData& run : runs) cells.push_back(text(run));
  table.rows.push_back(std::move(cells));
}

std::string iterations_of(const RunData& run) {
  for (const auto& [field, value] : run.description.run_file)
    if (field == "run.iterations") return fmt::format("{} of {}", run.iterations_done(), value);
  return fmt::format("{}", run.iterations_done());
}

std::string path_of(const RunData& run) {
  const Plan& plan = run.description.plan;
  return fmt::format("{} of {}", plan.microbatches.front().visits.size(), plan.stage_count());
}

Table comparison(const Runs& runs) {
  Table table;
  table.header = {""};
  for (const RunData& run : runs) table.header.push_back(run.name);
  const auto ran = [](const RunData& run) { return !run.iterations.empty(); };
  add_row(table, runs, "plan", [](const RunData& run) { return run.description.plan.method; });
  add_row(table, runs, "stages that a microbatch visits", path_of);
  add_row(table, runs, "nodes",
          [](const RunData& run) { return fmt::format("{}", run.description.plan.node_count()); });
  add_row(table, runs, "iterations", iterations_of);
  add_row(table, runs, "seconds per iteration, measured",
          [&](const RunData& run) { return text_if(ran(run), run.iteration_s(), "", 3); });
  add_row(table, runs, "seconds per iteration, planned",
          [](const RunData& run) { return fmt::format("{:.3f}", planned_s(run)); });
  add_row(table, runs, "measured against planned", difference_of);
  add_row(table, runs, "tokens per second",
          [&](const RunData& run) { return text_if(ran(run), run.tokens_per_s(), "", 0); });
  add_row(table, runs, "nodes computing, measured",
          [&](const RunData& run) { return text_if(ran(run), run.busy_share() * 100, " %", 0); });
  add_row(table, runs, "sent per iteration, planned", [](const RunData& run) {
    return fmt::format("{:.2f} MB", run.description.plan.predicted.bytes_sent * 1e-6);
  });
  add_row(table, runs, "loss, mean of the last tenth",
          [&](const RunData& run) { return text_if(ran(run), run.last_loss(), "", 3); });
  if (std::ranges::none_of(runs, &RunData::last_validation)) return table;
  add_row(table, runs, "validation loss, all stages", [](const RunData& run) {
    const IterationFigures* last = run.last_validation();
    return text_if(last, last ? *last->validation_loss : 0, "", 3);
  });
  add_row(table, runs, "validation loss, the plan's paths", [](const RunData& run) {
    const IterationFigures* last = run.last_validation();
    const bool there = last && last->validation_path_loss;
    return text_if(there, there ? *last->validation_path_loss : 0, "", 3);
  });
  return table;
}

template <typename Point>
Series series_of(const RunData& run, Point point) {
  Series series;
  double seconds = 0;
  for (const IterationFigures& figures : run.iterations) {
    seconds += figures.seconds;
    series.points.push_back(point(static_cast<double>(figures.iteration), seconds, figures));
  }
  return series;
}

template <typename Point>
LineChart chart_of(const Runs& runs, const std::string& title, const std::string& x_label, Point point) {
  LineChart chart{.title = title, .x_label = x_label, .series = {}, .from_zero = false};
  for (const RunData& run : runs) {
    chart.series.push_back(series_of(run, point));
    chart.series.back().colour = run.place - 1;
  }
  return chart;
}

// Of training, and of the validations where there were any. x: from number, seconds since the start.
template <typename X>
LineChart loss_chart(const Runs& runs, const std::string& title, const std::string& x_label, X x) {
  using Losses = std::optional<double> IterationFigures::*;
  LineChart chart = chart_of(runs, title, x_label,
                             [&](double i, double s, const IterationFigures& f) { return std::pair(x(i, s), f.loss); });
  const auto add = [&](const RunData& run, Losses losses, Series::Style style) {
    Series series{.points = {}, .colour = run.place - 1, .style = style};
    double seconds = 0;
    for (const IterationFigures& figures : run.iterations) {
      seconds += figures.seconds;
      if (figures.*losses)
        series.points.emplace_back(x(static_cast<double>(figures.iteration), seconds), *(figures.*losses));
    }
    chart.series.push_back(std::move(series));
  };
  for (const RunData& run : runs) {
    add(run, &IterationFigures::validation_loss, Series::Style::kDashed);
    add(run, &IterationFigures::validation_path_loss, Series::Style::kDotted);
  }
  return chart;
}

// What the lines of the losses are, and what validations took; nothing where there were none.
std::string validation_note(const Runs& runs) {
  std::string costs;
  for (const RunData& run : runs) {
    double seconds = 0, training_s = 0;
    int count = 0;
    for (const IterationFigures& figures : run.iterations) {
      training_s += figures.seconds;
      seconds += figures.validation_seconds;
      count += figures.validation_loss ? 1 : 0;
    }
    if (count == 0) continue;
    const double all_s = training_s + seconds;
    costs += fmt::format(" {} spent {:.2f} s in {} validation{}, {:.1f} % of its time.", run.name, seconds, count,
                         count == 1 ? "" : "s", all_s > 0 ? 100 * seconds / all_s : 0);
  }
  if (costs.empty()) return "";
  return paragraph(
      "Losses: the line is of training; dashed, of held-out samples through all stages; dotted, of the same along the "
      "plan's paths, if these skip or swap stages. Seconds of iterations do not count validations." +
      costs);
}

std::vector<RangeRow> ranges_of(const Runs& runs) {
  std::vector<RangeRow> rows;
  size_t most = 0;
  for (const RunData& run : runs)
    if (run.evaluation) most = std::max(most, run.evaluation->groups.size());
  for (size_t group = 0; group < most; ++group)
    for (size_t i = 0; i < runs.size(); ++i) {
      if (!runs[i].evaluation || group >= runs[i].evaluation->groups.size()) continue;
      const Evaluation::Group& found = runs[i].evaluation->groups[group];
      const auto [low, high] = std::ranges::minmax_element(found.choices);
      const bool several = found.choices.size() > 1;
      rows.push_back({.label = runs.size() > 1 ? runs[i].name + ": " + found.label : found.label,
                      .series = i,
                      .low = several ? *low : found.perplexity,
                      .value = found.perplexity,
                      .high = several ? *high : found.perplexity,
                      .note = several ? fmt::format("{:.2f} ({:.2f} to {:.2f})", found.perplexity, *low, *high)
                                      : fmt::format("{:.2f}", found.perplexity)});
    }
  return rows;
}

}  // namespace

std::string headline_section(const Runs& runs) {
  std::string html;
  for (const RunData& run : runs) html += (runs.size() > 1 ? heading(run.name) : "") + tiles_of(run);
  html += table_html(comparison(runs));
  for (const RunData& run : runs) html += causes_of(run);
  html += paragraph("Times are means over the iterations after the first, which starts cold.");
  return section("headline", "At a glance", html);
}

std::string curves_section(const Runs& runs) {
  std::string html;
  Runs::const_iterator longest =
      std::ranges::max_element(runs, {}, [](const RunData& r) { return r.iterations.size(); });
  for (const RunData& run : runs)
    if (run.iterations.empty())
      html += paragraph(fmt::format("{} has no metrics: no iteration was finished.", run.name));
    else if (run.lost_iterations() > 0)
      html += paragraph(fmt::format("{} has no figures of {} iterations.", run.name, run.lost_iterations()));
  if (longest->iterations.empty()) return section("curves", "Loss and throughput", html);
  if (runs.size() > 1) html += legend(names_of(runs), "s");
  LineChart throughput =
      chart_of(runs, "Tokens per second", "iteration", [](double i, double, const IterationFigures& f) {
        return std::pair(i, f.seconds > 0 ? f.tokens / f.seconds : 0);
      });
  throughput.from_zero = true;
  html += validation_note(runs) + "<div class=\"charts\">\n";
  html += render_line_chart(loss_chart(runs, "Loss over iterations", "iteration", [](double i, double) { return i; }));
  html +=
      render_line_chart(loss_chart(runs, "Loss over time", "seconds of training", [](double, double s) { return s; }));
  html += render_line_chart(throughput);
  html += render_line_chart(
      chart_of(runs, "Gradient norm, before clipping", "iteration",
               [](double i, double, const IterationFigures& f) { return std::pair(i, f.gradient_norm); }));
  html += "</div>\n";
  return section("curves", "Loss and throughput", html);
}

std::string evaluation_section(const Runs& runs) {
  std::string html = paragraph(
      "Perplexity on held-out text with stages left out: the dot is the mean over random choices of stages, the line "
      "reaches from the lowest to the highest.");
  for (const RunData& run : runs)
    if (!run.evaluation)
      html +=
          paragraph(fmt::format("{} was not evaluated: skippipe eval --model {} --data SHARD --tokens N "
                                "--skip 0.33,0.5",
                                run.name, run.folder.string()));
  const std::vector<RangeRow> rows = ranges_of(runs);
  if (!rows.empty()) html += "<div class=\"scroll keep\">" + render_ranges(rows) + "</div>\n";
  return section("evaluation", "Perplexity with missing stages", html);
}

}  // namespace skippipe
