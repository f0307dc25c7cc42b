// What every operation runs in: the backend, its threads and scratch memory.
#pragma once

#include <cstddef>
#include <span>

namespace skippipe {

class Backend;

// Not thread-safe: one context belongs to one thread. Operations are queued in call order; on the CPU they are done
// when the call returns.
struct Context {
  Backend* backend = nullptr;
  int threads = 1;
  // Scratch memory for operations that name a `..._workspace_bytes`; 64-byte aligned, on the backend's device.
  std::span<std::byte> workspace;
  // The device's stream (CUDA); null on the CPU.
  void* stream = nullptr;
};

}  // namespace skippipe
