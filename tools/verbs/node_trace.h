// --trace: what a node records, and the file that it leaves.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/run/run.h"
#include "engine/trace/trace.h"
#include "engine/trace/traced_transport.h"

namespace skippipe {

struct TraceOptions {
  bool trace = false;
  std::string iterations;  // "20", "20-29"; empty: all
};

// The options of `train`, and of `launch`, which passes them on.
void add_trace_options(CLI::App& verb, TraceOptions& options);
void add_trace_arguments(std::vector<std::string>& arguments, const TraceOptions& options);

// Nothing: no trace was asked for. Iterations count from 1 for users and from 0 in the limits. Throws UsageError.
std::optional<TraceLimits> trace_limits(const TraceOptions& options);

// Before the run: throws ConfigError unless traces can be written into its output folder.
void require_place_of_traces(const TrainingRun& run);

// Traces one node from its construction to finish(). The run and the inner transport outlive it.
class NodeTrace {
 public:
  NodeTrace(const TrainingRun& run, int node, Transport& inner, const TraceLimits& limits);

  Transport& transport() { return transport_; }
  Tracer& tracer() { return tracer_; }
  // "trace: ..., 4.00 MB of memory": which iterations, how much memory on each node
  std::string describe() const;
  // Writes the node's part of the trace, after the node's run, however it ended. Throws FileError.
  void finish();

 private:
  const TrainingRun& run_;
  const int node_;
  Tracer tracer_;
  TracedTransport transport_;
};

}  // namespace skippipe
