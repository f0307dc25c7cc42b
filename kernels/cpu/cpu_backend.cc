#include "kernels/cpu_backend.h"

#include "kernels/cpu/backend_impl.h"

namespace skippipe {

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

}  // namespace skippipe
