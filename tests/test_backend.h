// The devices that tests run on.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace skippipe::testing {

// "cpu", "simt", "simt_small" and "simt_hopper" (tests/simt), or "cuda" (the first GPU). Null where this machine has no
// GPU or this build no CPU backend, and `why_none` says why. Throws InternalError for a simulated device that the
// program was built without: its tests are never skipped.
std::unique_ptr<Backend> make_test_backend(const std::string& name, std::string& why_none);

}  // namespace skippipe::testing

// Skips the test where there is no such backend, or fails it where SKP_REQUIRE_CUDA=1 asks for a GPU.
#define SKP_SKIP_WITHOUT(backend, why_none)                               \
  if ((backend) == nullptr) {                                             \
    if (std::getenv("SKP_REQUIRE_CUDA") != nullptr) FAIL() << (why_none); \
    GTEST_SKIP() << (why_none);                                           \
  }
