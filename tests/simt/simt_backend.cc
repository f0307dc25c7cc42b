#include "tests/simt/simt_backend.h"

#include "kernels/bf16.h"
#include "kernels/cuda/backend_impl.h"
#include "tests/simt/block.h"
#include "tests/simt/device_memory.h"
#include "tests/simt/simt_runtime.h"

namespace skippipe::simt {
namespace {

class PlainProducts : public cuda::MatrixProducts {
 public:
  bool computes_in(Dtype dtype) const override { return dtype == Dtype::kF32 || dtype == Dtype::kBf16; }

  void multiply(Context& ctx, const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate) override {
    queue_work(ctx.stream, [c = on_device(c), a = on_device(a), b = on_device(b), accumulate] {
      multiply_now(c, a, b, accumulate);
    });
  }

 private:
  static void multiply_now(const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate) {
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = 0; j < c.columns; ++j) {
        double sum = accumulate ? read({c.data, c.dtype}, i * c.row_stride + j * c.column_stride) : 0;
        for (int64_t k = 0; k < a.columns; ++k)
          sum += read({a.data, a.dtype}, i * a.row_stride + k * a.column_stride) *
                 read({b.data, b.dtype}, k * b.row_stride + j * b.column_stride);
        write(c, i * c.row_stride + j * c.column_stride, sum);
      }
  }

  // The matrix where the device finds it.
  template <typename Void>
  static BasicMatrix<Void> on_device(BasicMatrix<Void> m) {
    const int64_t last = (m.rows - 1) * m.row_stride + (m.columns - 1) * m.column_stride;
    m.data = backing_of(m.data, (last + 1) * dtype_bytes(m.dtype));
    return m;
  }

  struct Elements {
    const void* data;
    Dtype dtype;
  };
  static double read(Elements from, int64_t i) {
    return static_cast<double>(from.dtype == Dtype::kBf16 ? float(static_cast<const Bf16*>(from.data)[i])
                                                          : static_cast<const float*>(from.data)[i]);
  }
  static void write(const Matrix& to, int64_t i, double value) {
    const auto rounded = static_cast<float>(value);
    if (to.dtype == Dtype::kBf16)
      static_cast<Bf16*>(to.data)[i] = Bf16(rounded);
    else
      static_cast<float*>(to.data)[i] = rounded;
  }
};

// Few multiprocessors, so that small shapes already make threads go on to a second piece of work.
constexpr cuda::DeviceLimits kLimits{.index = 0,
                                     .capability = 80,
                                     .multiprocessors = 2,
                                     .shared_bytes_per_block = kMostSharedBytes,
                                     .l2_bytes = 4 << 20};

std::unique_ptr<Backend> make_backend(const SimtOptions& options, const cuda::DeviceLimits& limits) {
  return std::make_unique<GpuBackend>(limits, make_simt_runtime(options), std::make_unique<PlainProducts>());
}

}  // namespace

std::unique_ptr<Backend> make_simt_backend(const SimtOptions& options) { return make_backend(options, kLimits); }

std::unique_ptr<Backend> make_small_simt_backend(const SimtOptions& options) {
  cuda::DeviceLimits limits = kLimits;
  limits.shared_bytes_per_block = 99 * 1024;
  return make_backend(options, limits);
}

std::unique_ptr<Backend> make_hopper_simt_backend(const SimtOptions& options) {
  cuda::DeviceLimits limits = kLimits;
  limits.capability = 90;
  limits.shared_bytes_per_block = kMostHopperSharedBytes;
  limits.hopper = true;
  return make_backend(options, limits);
}

}  // namespace skippipe::simt
