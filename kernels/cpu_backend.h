#pragma once

#include <memory>

#include "kernels/backend.h"

namespace skippipe {

// The CPU: oneDNN for matrix products, our own vectorized and threaded code for the rest. Computes in f32; bf16 is
// known to fill_zero and cast only. Threads are OpenMP's, `Context::threads` of them, the caller included. Operations
// that save no scratch from the context allocate nothing after their first call with a shape.
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace skippipe
