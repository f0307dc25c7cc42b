#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Values on the host as a tensor of one dimension.
inline Tensor host_tensor(std::span<float> values) {
  return {values.data(), {static_cast<int64_t>(values.size())}, Dtype::kF32};
}
inline ConstTensor host_tensor(std::span<const float> values) {
  return {values.data(), {static_cast<int64_t>(values.size())}, Dtype::kF32};
}
inline ConstTensor host_tensor(std::span<const int32_t> values) {
  return {values.data(), {static_cast<int64_t>(values.size())}, Dtype::kI32};
}

// to = from, byte for byte, where each lies on the context's device or on the host; both are contiguous, of one dtype
// and number of elements, and must not overlap.
// Errors: ShapeError, DtypeError, before anything is queued. Async: queued on ctx's stream, so that memory of the host
// must be left alone until finish().
void copy(Context& ctx, Tensor to, ConstTensor from);
// Waits for everything that was queued on ctx's stream. Throws DeviceError if any of it failed.
void finish(Context& ctx);

}  // namespace skippipe
