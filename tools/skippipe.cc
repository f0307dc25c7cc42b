// The `skippipe` program: parses the command line, runs one verb, turns errors into one line and an exit code.
#include <cstdio>
#include <exception>
#include <iostream>

#include "base/error.h"
#include "tools/processes/process_settings.h"
#include "tools/verbs/number_options.h"
#include "tools/verbs/option_names.h"
#include "tools/verbs/verbs.h"

int main(int argc, char** argv) {
  using namespace skippipe;
  settle_process();
  let_openmp_sleep(argv);
  CLI::App app("skippipe trains large language models on machines scattered over slow, uneven networks.", "skippipe");
  app.require_subcommand(1);
  app.set_version_flag("--version", SKIPPIPE_VERSION);
  app.failure_message(failure_message);
  add_tokenizer_verb(app);
  add_tokenize_verb(app);
  add_network_verb(app);
  add_plan_verb(app);
  add_replan_verb(app);
  add_simulate_verb(app);
  add_probe_verb(app);
  add_train_verb(app);
  add_launch_verb(app);
  add_eval_verb(app);
  add_generate_verb(app);
  add_convert_verb(app);
  add_inspect_verb(app);
  add_devices_verb(app);
  add_bench_verb(app);
  add_report_verb(app);
  require_plain_numbers(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const Exit& exit) {
    return exit.code;
  } catch (const PeerError& error) {
    std::cerr << "skippipe: " << error.what() << "\n";
    return 3;
  } catch (const UsageError& error) {
    std::cerr << "skippipe: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "skippipe: " << error.what() << "\n";
    return 1;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::cerr << "skippipe: cannot write to standard output\n";
    return 1;
  }
  return 0;
}
