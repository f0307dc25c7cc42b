// The page as a whole, and the configuration at its end.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "tools/report/html.h"
#include "tools/report/sections.h"

namespace skippipe {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields plan_fields(const Plan& plan) {
  return {{"plan: method", plan.method},
          {"plan: stages", fmt::format("{}", plan.stage_count())},
          {"plan: layers per stage", fmt::format("{}", fmt::join(plan.workload.stage_layers, ", "))},
          {"plan: microbatches", fmt::format("{}", plan.microbatches.size())},
          {"plan: slots per node", fmt::format("{}", fmt::join(plan.node_slots, ", "))},
          {"plan: skip ratio", fmt::format("{:.4g}", plan.rules.skip_ratio)},
          {"plan: seed", fmt::format("{}", plan.seed)}};
}

Fields fields_of(const RunData& run) {
  Fields fields = run.description.run_file;
  for (const auto& [name, value] : run.description.model) fields.emplace_back("model: " + name, value);
  const Fields plan = plan_fields(run.description.plan);
  fields.insert(fields.end(), plan.begin(), plan.end());
  return fields;
}

}  // namespace

std::string configuration_section(const Runs& runs) {
  Table table;
  table.css_class = "settings";
  table.header = {"field"};
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> values;
  for (size_t i = 0; i < runs.size(); ++i) {
    table.header.push_back(runs[i].name);
    for (const auto& [name, value] : fields_of(runs[i])) {
      auto [found, is_new] = values.try_emplace(name, runs.size(), "–");
      if (is_new) order.push_back(name);
      found->second[i] = value;
    }
  }
  for (const std::string& name : order) {
    const std::vector<std::string>& of_runs = values[name];
    if (std::ranges::adjacent_find(of_runs, std::ranges::not_equal_to()) != of_runs.end())
      table.marked.push_back(table.rows.size());
    table.rows.push_back({name});
    table.rows.back().insert(table.rows.back().end(), of_runs.begin(), of_runs.end());
  }
  return section("configuration", "Configuration",
                 (runs.size() > 1 ? paragraph("Where runs differ, the line is marked.") : "") + table_html(table));
}

std::string render_report(const Runs& runs) {
  std::string html = headline_section(runs) + curves_section(runs) + evaluation_section(runs);
  for (const RunData& run : runs)
    html += timelines_section(run) + node_time_section(run) + links_section(run) + memory_section(run);
  html += configuration_section(runs);
  std::vector<std::string> names;
  for (const RunData& run : runs) names.push_back(run.name);
  return page(fmt::format("skippipe: {}", fmt::join(names, " and ")), html);
}

}  // namespace skippipe
