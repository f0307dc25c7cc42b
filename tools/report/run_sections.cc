// What is told of each run by itself: timelines, where time went, links, memory.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "schedule/pictures/timeline.h"
#include "tools/report/chart.h"
#include "tools/report/html.h"
#include "tools/report/sections.h"

namespace skippipe {
namespace {

constexpr double kTimelineWidth = 890;
constexpr size_t kMaxLinks = 16;

std::string id_of(const char* what, const RunData& run) { return fmt::format("{}-{}", what, run.place); }

std::string title_of(const char* what, const RunData& run) { return fmt::format("{}: {}", run.name, what); }

std::string name_of(const RunData& run, int node) { return run.description.plan.node_names[static_cast<size_t>(node)]; }

std::string timeline(const RunData& run, const IterationPicture& picture, double end_s, const std::string& title) {
  const std::string svg = render_timeline(run.description.plan, picture.record,
                                          {.plot_width = kTimelineWidth, .end_s = end_s, .critical = picture.critical});
  return heading(title) + "<div class=\"scroll\">" + svg + "</div>\n";
}

std::string missing_note(const RunData& run) {
  std::string html;
  if (!run.traced->missing.empty())
    html += paragraph(fmt::format("The trace lacks the parts of nodes {}: copy their files into {}/trace.",
                                  fmt::join(run.traced->missing, ", "), run.folder.string()));
  if (run.traced->dropped > 0)
    html += paragraph(
        fmt::format("The trace had no room for {} events: later iterations are not in it.", run.traced->dropped));
  return html;
}

// Nodes in the order of their stages.
std::vector<int> nodes_by_stage(const Plan& plan) {
  std::vector<int> nodes;
  for (const std::vector<int>& stage : plan.stages) nodes.insert(nodes.end(), stage.begin(), stage.end());
  return nodes;
}

std::string label_of(const RunData& run, int node) {
  return fmt::format("{} (stage {})", name_of(run, node),
                     run.description.plan.stage_of_nodes()[static_cast<size_t>(node)]);
}

std::string megabytes(double bytes) { return fmt::format("{:.2f}", bytes * 1e-6); }

std::string share(double part, double whole) {
  return whole > 0 ? fmt::format("{:.0f} %", part / whole * 100) : std::string("–");
}

}  // namespace

std::string timelines_section(const RunData& run) {
  std::string html = paragraph(
      "One iteration, a row per node. Boxes are what the node computes; thin lines below are what it sends, from the "
      "start of sending to arrival. The red line of the planned one is its critical path. Neighbouring iterations "
      "overlap, "
      "so a run needs less for each. Hover over anything for its name and times.");
  double end_s = run.planned.seconds;
  if (run.traced) end_s = std::max(end_s, run.traced->typical.seconds);
  html += timeline(run, run.planned, end_s, fmt::format("Planned: {:.3f} s", run.planned.seconds));
  if (run.traced) {
    const IterationPicture& typical = run.traced->typical;
    html += timeline(run, typical, end_s,
                     fmt::format("Measured: {:.3f} s (iteration {}, of median length among {} traced)", typical.seconds,
                                 typical.iteration + 1, run.traced->count));
    html += missing_note(run);
  } else {
    html += heading("Measured") + paragraph(run.no_trace);
  }
  return "<div class=\"timeline\">\n" + section(id_of("timelines", run), title_of("one iteration", run), html) +
         "</div>\n";
}

std::string node_time_section(const RunData& run) {
  const std::vector<std::string> kinds = {"computing",          "waiting for a forward message",
                                          "other nodes' norms", "waiting for a backward message",
                                          "gradient reduction", "rest"};
  std::string html;
  if (!run.traced) {
    html = paragraph(run.no_trace);
    return section(id_of("time", run), title_of("where the nodes' time went", run), html);
  }
  html += paragraph(fmt::format(
      "Over {} traced iterations. A node waits for the oldest thing that it misses. The mark is the share of computing "
      "that the plan predicts.",
      run.traced->count));
  html += legend(kinds, "c");
  std::vector<BarRow> rows;
  for (const int node : nodes_by_stage(run.description.plan)) {
    const NodeTime& time = run.traced->nodes[static_cast<size_t>(node)];
    BarRow row;
    row.label = label_of(run, node);
    row.parts = {time.computing,        time.waiting_forward,   time.waiting_norm,
                 time.waiting_backward, time.waiting_reduction, time.rest()};
    for (size_t i = 0; i < kinds.size(); ++i)
      row.hovers.push_back(fmt::format("{}: {}, {:.1f} %", name_of(run, node), kinds[i], row.parts[i] * 100));
    row.note = fmt::format("{:.0f} % computing", time.computing * 100);
    if (const auto& busy = run.description.plan.predicted.busy_share; !busy.empty())
      row.planned = busy[static_cast<size_t>(node)];
    rows.push_back(std::move(row));
  }
  html += "<div class=\"scroll\">" + render_bars(rows, 1) + "</div>\n";
  return section(id_of("time", run), title_of("where the nodes' time went", run), html);
}

std::string links_section(const RunData& run) {
  const LinkUses& planned = run.planned.links;
  const LinkUses empty;
  const LinkUses& measured = run.traced ? run.traced->typical.links : empty;
  LinkUses all = measured;
  all.insert(planned.begin(), planned.end());
  std::vector<std::pair<double, std::pair<int, int>>> by_busy;
  for (const auto& [link, use] : all) by_busy.emplace_back(-use.busy_s, link);
  std::ranges::sort(by_busy);
  const auto use_of = [](const LinkUses& uses, const std::pair<int, int>& link) {
    const auto found = uses.find(link);
    return found == uses.end() ? LinkUse{} : found->second;
  };
  Table table;
  table.header = {"link", "messages", "MB, planned", "in use, planned"};
  if (run.traced) table.header.insert(table.header.end(), {"MB, measured", "in use, measured"});
  for (size_t i = 0; i < std::min(by_busy.size(), kMaxLinks); ++i) {
    const std::pair<int, int>& link = by_busy[i].second;
    const LinkUse plan = use_of(planned, link), real = use_of(measured, link);
    table.rows.push_back({fmt::format("{} → {}", name_of(run, link.first), name_of(run, link.second)),
                          fmt::format("{:.0f}", plan.messages), megabytes(plan.bytes),
                          share(plan.busy_s, run.planned.seconds)});
    if (run.traced) {
      table.rows.back().push_back(megabytes(real.bytes));
      table.rows.back().push_back(share(real.busy_s, run.traced->typical.seconds));
    }
  }
  std::string html = paragraph(
      "Per iteration, the busiest first. A link is in use while at least one message is on its way, latency included; "
      "statistics are not counted.");
  html += table_html(table);
  if (by_busy.size() > kMaxLinks)
    html += paragraph(fmt::format("{} more links are used less.", by_busy.size() - kMaxLinks));
  if (!run.traced) html += paragraph(run.no_trace);
  return section(id_of("links", run), title_of("links", run), html);
}

std::string memory_section(const RunData& run) {
  std::vector<std::string> regions;
  for (int i = 0; i < kRegionCount; ++i) regions.push_back(region_name(static_cast<Region>(i)));
  std::vector<BarRow> rows;
  int64_t most = 0;
  for (const int node : nodes_by_stage(run.description.plan)) {
    const MemoryPlan& memory = run.description.memory[static_cast<size_t>(node)];
    most = std::max(most, memory.total_bytes());
    BarRow row;
    row.label = label_of(run, node);
    for (int i = 0; i < kRegionCount; ++i) {
      const int64_t bytes = memory.bytes(static_cast<Region>(i));
      row.parts.push_back(static_cast<double>(bytes));
      row.hovers.push_back(
          fmt::format("{}: {}, {}", name_of(run, node), regions[static_cast<size_t>(i)], human_bytes(bytes)));
    }
    row.note = human_bytes(memory.total_bytes());
    rows.push_back(std::move(row));
  }
  return section(id_of("memory", run), title_of("memory", run),
                 paragraph("What each node takes from its device at the start; it takes nothing later.") +
                     legend(regions, "c") + "<div class=\"scroll\">" + render_bars(rows, static_cast<double>(most)) +
                     "</div>\n");
}

}  // namespace skippipe
