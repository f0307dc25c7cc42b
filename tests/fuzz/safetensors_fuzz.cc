#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "engine/files/safetensors.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  const fuzz::MemoryFile input(data, size);
  try {
    const SafetensorsFile file(input.path());
    uint64_t bytes = 0;
    for (size_t i = 0; i < file.tensors().size(); ++i) {
      const SafeTensor& tensor = file.tensors()[i];
      if (file.find(tensor.name) != static_cast<int64_t>(i)) std::abort();
      bytes += tensor.bytes();
      std::vector<float> values(tensor.bytes() / static_cast<uint64_t>(safe_dtype_bytes(tensor.dtype)));
      try {
        file.read_f32(tensor.name, tensor.shape, values);
      } catch (const FileError&) {  // of another type
      }
    }
    if (bytes > size) std::abort();
  } catch (const FileError&) {
  }
  return 0;
}
