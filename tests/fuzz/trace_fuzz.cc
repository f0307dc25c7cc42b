#include "base/error.h"
#include "engine/trace/trace_file.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    Trace trace = read_trace(input.path());
    align(trace);
  } catch (const FileError&) {
  }
  return 0;
}
