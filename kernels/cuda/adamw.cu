#include "kernels/adamw_scalars.h"
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/vectors.h"

namespace skippipe::SKP_GPU {
namespace {

// The first `decayed` elements take to.keep, the others 1.
template <int kWidth>
SKP_KERNEL(kMapThreads, 4)
step_elements(Global<float> w, Global<float> m, Global<float> v, Global<const float> grad, int64_t count,
              int64_t decayed, AdamWScalars to) {
  for_each_vector<kWidth, 1>(
      count,
      [&](int64_t i, auto width) {
        return Pair{Pair{w.load_vec<width()>(i), m.load_vec<width()>(i)},
                    Pair{v.load_vec<width()>(i), grad.load_vec<width()>(i)}};
      },
      [&](int64_t i, const auto& loaded) {
        auto w_new = loaded.a.a, m_new = loaded.a.b, v_new = loaded.b.a;
        SKP_UNROLL
        for (int j = 0; j < w_new.kLength; ++j)
          adamw_element(w_new.values[j], m_new.values[j], v_new.values[j], loaded.b.b.values[j], to,
                        i + j < decayed ? to.keep : 1.0f);
        w.store_vec(i, w_new);
        m.store_vec(i, m_new);
        v.store_vec(i, v_new);
      });
}

}  // namespace

void GpuBackend::adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) {
  const int64_t count = w.elements();
  if (count == 0) return;
  with_width<kWidest<float>>(aligned({w.data(), m.data(), v.data(), grad.data()}), [&](auto width) {
    launch(Launch(ctx, "adamw_step", grid_for(limits_, count / width()), kMapThreads), step_elements<width()>,
           global<float>(w), global<float>(m), global<float>(v), global<float>(grad), count, step.decayed,
           AdamWScalars(step));
  });
}

}  // namespace skippipe::SKP_GPU
