// Where a kernel runs and how large: what the host says of a launch.
#pragma once

#include <cstdint>

#include "kernels/context.h"

namespace skippipe::cuda {

inline constexpr int kWarp = 32;

struct Grid {
  int64_t x = 1;
  int y = 1, z = 1;
};

// What SharedMemory::take<T>(count) takes of a launch's shared_bytes.
template <typename T>
constexpr int64_t shared_bytes(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(T)) + 127) / 128 * 128;
}

struct Launch {
  // `threads_per_block` is a multiple of 32; `shared`: bytes of shared memory per block; the name is for errors.
  Launch(const Context& context, const char* kernel_name, Grid blocks, int threads_per_block, int64_t shared = 0,
         const char* source_file = __builtin_FILE(), int source_line = __builtin_LINE())
      : stream(context.stream),
        name(kernel_name),
        grid(blocks),
        threads(threads_per_block),
        shared_bytes(shared),
        file(source_file),
        line(source_line) {}

  void* stream;
  const char* name;
  Grid grid;
  int threads;
  int64_t shared_bytes;
  const char* file;
  int line;
};

}  // namespace skippipe::cuda
