#include "tools/verbs/node_trace.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "base/log.h"
#include "engine/model/memory.h"
#include "engine/run/run_description.h"
#include "engine/trace/trace_file.h"
#include "tools/verbs/number_options.h"

namespace skippipe {
namespace {

// Reads an iteration as users count them, all of `text`.
bool read_iteration(std::string_view text, uint32_t& iteration) {
  return parse_number(text, iteration) && iteration > 0;
}

// What a node can record in one iteration: per visit at most three tasks, two messages in and two out, and a wait
// before each task; the same after it in a validation, which has fewer of each; per peer its statistics and its
// replicas' shards, both ways.
size_t events_per_iteration(const TrainingRun& run, int node) {
  const MachineConfig machine = machine_config(run.plan, node, 0, 1, run.validation());
  const auto peers = static_cast<size_t>(run.plan.node_count() - 1), replicas = static_cast<size_t>(machine.replicas);
  return 10 * machine.visits.size() + 2 * peers + 4 * replicas + 8;
}

TraceLimits fitted(TraceLimits limits, const TrainingRun& run, int node) {
  const auto last = std::min<int64_t>(limits.last_iteration, run.file.iterations - 1);
  const auto iterations = static_cast<size_t>(std::max<int64_t>(0, last - limits.first_iteration + 1));
  limits.events = std::min(limits.events, iterations * events_per_iteration(run, node));
  return limits;
}

}  // namespace

void add_trace_options(CLI::App& verb, TraceOptions& options) {
  verb.add_flag("--trace", options.trace, "record what each node does, and when, in the output folder's trace/");
  verb.add_option("--trace-iterations", options.iterations, "record only these, such as 20 or 20-29; implies --trace");
}

void add_trace_arguments(std::vector<std::string>& arguments, const TraceOptions& options) {
  if (options.trace) arguments.push_back("--trace");
  if (!options.iterations.empty()) arguments.insert(arguments.end(), {"--trace-iterations", options.iterations});
}

std::optional<TraceLimits> trace_limits(const TraceOptions& options) {
  if (!options.trace && options.iterations.empty()) return std::nullopt;
  TraceLimits limits;
  if (options.iterations.empty()) return limits;
  const std::string_view text = options.iterations;
  const size_t dash = std::min(text.find('-'), text.size());
  uint32_t first = 0, last = 0;
  if (!read_iteration(text.substr(0, dash), first) ||
      !read_iteration(dash == text.size() ? text : text.substr(dash + 1), last) || last < first)
    throw UsageError("--trace-iterations: found '{}', expected iterations from 1, such as 20 or 20-29", text);
  limits.first_iteration = first - 1;
  limits.last_iteration = last - 1;
  return limits;
}

void require_place_of_traces(const TrainingRun& run) {
  try {
    require_writable_folder(trace_part_file(run.file.output, 0).parent_path());
  } catch (const FileError& error) {
    throw ConfigError("--trace: {}", error.what());
  }
}

NodeTrace::NodeTrace(const TrainingRun& run, int node, Transport& inner, const TraceLimits& limits)
    : run_(run), node_(node), tracer_(fitted(limits, run, node)), transport_(inner, tracer_) {}

std::string NodeTrace::describe() const {
  const TraceLimits& limits = tracer_.limits();
  return fmt::format("trace: iterations {} to {}, up to {} events in {} of host memory on this node",
                     limits.first_iteration + 1,
                     std::min<int64_t>(int64_t{limits.last_iteration} + 1, run_.file.iterations), limits.events,
                     human_bytes(tracer_.bytes()));
}

void NodeTrace::finish() {
  tracer_.works();
  const std::string& name = run_.network.nodes[static_cast<size_t>(node_)].name;
  const std::span<const TraceEvent> events = tracer_.events();
  TracedNode traced{.node = node_,
                    .name = name,
                    .stage = run_.plan.stage_of_nodes()[static_cast<size_t>(node_)],
                    .dropped = tracer_.dropped(),
                    .clock = transport_.clock_samples(),
                    .events = {events.begin(), events.end()}};
  if (traced.dropped > 0)
    make_logger(name)->warn("the trace has no room for {} of {} events; --trace-iterations chooses which it has",
                            traced.dropped, traced.dropped + events.size());
  const std::filesystem::path path = trace_part_file(run_.file.output, node_);
  make_folder(path.parent_path());
  write_trace({run_id_text(run_.file.run_id), {std::move(traced)}}, path);
}

}  // namespace skippipe
