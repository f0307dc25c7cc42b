#include "base/error.h"
#include "schedule/machine/node_machine.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/validator.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    const Plan plan = load_plan(input.path());
    if (!validate(plan).empty()) return 0;
    // A valid plan gives every node a machine.
    for (int node = 0; node < plan.node_count(); ++node)
      if (plan.stage_of_nodes()[static_cast<size_t>(node)] >= 0) NodeMachine{machine_config(plan, node, 0, 1)};
  } catch (const FileError&) {
  }
  return 0;
}
