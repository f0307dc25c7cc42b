#include "tools/bench_kernels/verify.h"

#include <algorithm>

#include "base/format.h"
#include "tests/kernels/tolerance.h"

namespace skippipe::bench {
namespace {

constexpr int64_t kPeerTokens = 128;  // cuDNN's attention takes multiples of so many

}  // namespace

std::string find_mistake(BenchDevice& device, const Operation& operation, Dtype dtype, const Model& model, Way way) {
  Tensors tensors(device, dtype);
  Shape shape = verified_shape(model);
  if (way == Way::kPeer) shape.tokens = kPeerTokens;
  const Problem problem = operation.make(tensors, shape);
  if (way == Way::kPeer && !problem.peer.same_outputs) return {};
  Context ctx = device.context();
  const int64_t scratch_bytes = std::max(problem.scratch_bytes, problem.peer.scratch_bytes);
  const testing::DeviceMemory scratch = device.memory().allocate(static_cast<size_t>(scratch_bytes));
  ctx.workspace = {scratch.get(), static_cast<size_t>(scratch_bytes)};

  if (problem.prepare) problem.prepare(ctx);
  const std::vector<Output> outputs = problem.expected();
  (way == Way::kPeer ? problem.peer.run : problem.run)(ctx);
  for (const auto& [name, tensor, expected, term_size] : outputs) {
    const Array actual = tensors.values(tensor);
    const auto [worst, at] = testing::largest_difference(actual, expected, term_size);
    if (!(worst <= testing::tolerance(dtype)))
      return format("{}[{}] is {:.6g}, expected {:.6g}", name, at, actual[at], expected[at]);
  }
  return {};
}

}  // namespace skippipe::bench
