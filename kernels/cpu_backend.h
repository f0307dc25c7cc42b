#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"

namespace skippipe {

// The CPU: oneDNN for matrix products, our own vectorized and threaded code for the rest. Computes in f32, and
// in bf16 where oneDNN does: on processors with AVX-512. Threads are OpenMP's, `Context::threads` of them, the caller
// included, or as many as OpenMP gives where these are fewer: results are right then, too. Operations that save no
// scratch from the context allocate nothing after their first call with a shape.
std::unique_ptr<Backend> make_cpu_backend();
// Whether this processor has instructions for products in bf16 (AVX512_BF16); without, they are emulated.
bool cpu_has_bf16();

// What operations on the calling thread have of `asked` threads.
struct CpuThreads {
  int count = 1;
  std::string why_fewer;  // "OMP_THREAD_LIMIT is 1"; empty where none is missing
};
// Makes so many threads for a moment. Throws ConfigError if the system refuses to.
CpuThreads cpu_threads(int asked);

}  // namespace skippipe
