// The verbs of the `skippipe` program. Each adds its subcommand, with options, one example and a callback, to the app;
// the work is done by the folders below. Callbacks throw Error (exit code 1) or UsageError (2).
#pragma once

#include <CLI/CLI.hpp>

namespace skippipe {

// Thrown by a callback that has said all there is to say.
struct Exit {
  int code;
};

void add_tokenizer_verb(CLI::App& app);
void add_tokenize_verb(CLI::App& app);
void add_network_verb(CLI::App& app);
void add_plan_verb(CLI::App& app);
void add_replan_verb(CLI::App& app);
void add_simulate_verb(CLI::App& app);
void add_probe_verb(CLI::App& app);
void add_train_verb(CLI::App& app);
void add_launch_verb(CLI::App& app);
void add_eval_verb(CLI::App& app);
void add_generate_verb(CLI::App& app);
void add_convert_verb(CLI::App& app);
void add_inspect_verb(CLI::App& app);
void add_devices_verb(CLI::App& app);
void add_bench_verb(CLI::App& app);
void add_report_verb(CLI::App& app);

}  // namespace skippipe
