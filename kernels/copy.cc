#include "kernels/copy.h"

#include "base/error.h"
#include "kernels/backend.h"

namespace skippipe {

void copy(Context& ctx, Tensor to, ConstTensor from) {
  if (to.dtype() != from.dtype())
    throw DtypeError("copy: to is {}, from is {}", dtype_name(to.dtype()), dtype_name(from.dtype()));
  if (!to.is_contiguous() || !from.is_contiguous() || to.elements() != from.elements())
    throw ShapeError("copy: to is {}, from is {}, expected contiguous tensors of as many elements",
                     to.shape().to_string(), from.shape().to_string());
  for (const Device device : {to.device(), from.device()})
    if (device != Device::kCpu && device != ctx.backend->device())
      throw DtypeError("copy: a tensor lives on {}, expected {} or the host", device_name(device),
                       device_name(ctx.backend->device()));
  ctx.backend->runtime().copy(ctx.stream, to.data(), from.data(), from.bytes());
}

void finish(Context& ctx) { ctx.backend->runtime().finish(ctx.stream); }

}  // namespace skippipe
