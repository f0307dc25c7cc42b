#include "base/error.h"
#include "schedule/plan/network.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    load_network(input.path());
  } catch (const FileError&) {
  } catch (const PlanError&) {
  }
  return 0;
}
