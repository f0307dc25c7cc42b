#include "tools/bench/ceiling.h"

#include <algorithm>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace skippipe {
namespace {

constexpr int64_t kRandomRows = 64;  // the others repeat them

constexpr const char* kBlock = "products";

MemoryPlan plan_for(Device device, Dtype dtype) {
  MemoryPlan plan(device);
  plan.add(Region::kWorkspace, kBlock, Ceiling::memory_bytes(device, dtype));
  return plan;
}

}  // namespace

int64_t Ceiling::memory_bytes(Device device, Dtype dtype) {
  const int64_t n = size(device);
  return 3 * n * n * dtype_bytes(dtype) + kRandomRows * n * dtype_bytes(Dtype::kF32);
}

Ceiling::Ceiling(const Context& context, Dtype dtype)
    : context_(context),
      size_(size(context.backend->device())),
      plan_(plan_for(context.backend->device(), dtype)),
      slab_(plan_, *context.backend) {
  Arena arena(slab_.take(Region::kWorkspace, kBlock));
  for (Tensor* matrix : {&x_, &w_, &y_}) *matrix = arena.take({size_, size_}, dtype);
  const Tensor values = arena.take({kRandomRows, size_}, Dtype::kF32);
  for (const Tensor& matrix : {x_, w_}) fill(matrix, values);
  (void)seconds();  // the library makes what it needs
}

void Ceiling::fill(const Tensor& x, const Tensor& values) {
  Random random(1);
  std::vector<float> numbers(static_cast<size_t>(values.elements()));
  std::ranges::generate(numbers, [&] { return static_cast<float>(random.uniform(-1, 1)); });
  copy(context_, values.reshape({values.elements()}), host_tensor(std::span<const float>(numbers)));
  cast(context_, x.slice(0, 0, kRandomRows), values);
  for (int64_t done = kRandomRows; done < size_; done *= 2) copy(context_, x.slice(0, done, done), x.slice(0, 0, done));
  finish(context_);
}

double Ceiling::seconds() {
  return context_.backend->runtime().seconds(context_.stream, [&] { linear_forward(context_, y_, x_, w_); });
}

void Ceiling::measure(int repetitions) {
  const double operations = 2.0 * static_cast<double>(size_) * static_cast<double>(size_) * static_cast<double>(size_);
  for (int i = 0; i < repetitions; ++i) rates_.push_back(operations / seconds());
}

std::vector<double> Ceiling::rates() const {
  std::vector<double> sorted = rates_;
  std::ranges::sort(sorted);
  return sorted;
}

}  // namespace skippipe
