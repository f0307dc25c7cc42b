#include "base/error.h"
#include "engine/run/run_file.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    load_run_file(input.path());
  } catch (const ConfigError&) {
  } catch (const FileError&) {  // a file that it names
  }
  return 0;
}
