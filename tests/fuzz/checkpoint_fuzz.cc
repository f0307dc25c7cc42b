#include "base/error.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    check_checkpoint_json(input.path());
  } catch (const FileError&) {
  }
  return 0;
}
