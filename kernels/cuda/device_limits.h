// What launches are shaped by.
#pragma once

#include <cstdint>

namespace skippipe::cuda {

struct DeviceLimits {
  int index = 0;
  int capability = 80;  // 10 x major + minor
  int multiprocessors = 1;
  int64_t shared_bytes_per_block = 48 * 1024;  // at most, when asked for
  int64_t l2_bytes = 0;
  bool hopper =
      false;  // whether kernels that need what capability 9.0 alone has are to be used: it, and our images for it
};

}  // namespace skippipe::cuda
