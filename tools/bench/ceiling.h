// What the library's matrix products reach on a device, to hold other rates against.
#pragma once

#include <vector>

#include "engine/model/memory.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Times a square product y = x w^T in one dtype. Its memory is taken at the start.
class Ceiling {
 public:
  // Rows and columns: enough for the device to reach its rate.
  static int64_t size(Device device) { return device == Device::kCpu ? 2048 : 8192; }
  static int64_t memory_bytes(Device device, Dtype dtype);

  // The context's backend must outlive this object.
  Ceiling(const Context& context, Dtype dtype);

  void measure(int repetitions);
  // Operations per second, a multiplication and an addition being two; ascending.
  std::vector<double> rates() const;

 private:
  void fill(const Tensor& x, const Tensor& values);
  double seconds();

  Context context_;
  const int64_t size_;
  const MemoryPlan plan_;
  Slab slab_;
  Tensor x_, w_, y_;
  std::vector<double> rates_;
};

}  // namespace skippipe
