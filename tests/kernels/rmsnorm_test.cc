#include "kernels/rmsnorm.h"

#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

SKP_INSTANTIATE_KERNEL_TEST(RmsnormTest, all_cases());

constexpr float kEps = 1e-5f;

struct Shape {
  int64_t rows, channels;
};
// The last two are too long for the registers of a GPU's block.
constexpr Shape kShapes[] = {{1, 1},     {3, 5},     {31, 32},  {33, 31},  {70, 33},
                             {513, 100}, {40, 1000}, {3, 4101}, {9, 16400}};

TEST_P(RmsnormTest, Forward) {
  for (const auto& [rows, channels] : kShapes) {
    const Array x = random(rows * channels, -2, 2), w = random(channels);
    TestTensor x_t = real({rows, channels}, x), w_t = real({channels}, w);
    TestTensor y_t = real_output({rows, channels}), rrms_t = f32_output({rows});
    const reference::RmsNorm expected = reference::rmsnorm(x, w, channels, kEps);
    verify({{"y", &y_t, expected.y}, {"rrms", &rrms_t, expected.rrms}},
           [&](Context& ctx) { rmsnorm_forward(ctx, y_t.view(), rrms_t.view(), x_t.view(), w_t.view(), kEps); });
    verify({{"y in place", &x_t, expected.y, x}, {"rrms", &rrms_t, expected.rrms}},
           [&](Context& ctx) { rmsnorm_forward(ctx, x_t.view(), rrms_t.view(), x_t.view(), w_t.view(), kEps); });
  }
}

TEST_P(RmsnormTest, AddForward) {
  for (const auto& [rows, channels] : kShapes) {
    const Array x = random(rows * channels), residual = random(rows * channels), w = random(channels);
    Array sum = x;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += residual[i];
    TestTensor x_t = real({rows, channels}, x), residual_t = real({rows, channels}, residual),
               w_t = real({channels}, w);
    TestTensor y_t = real_output({rows, channels}), sum_t = real_output({rows, channels}), rrms_t = f32_output({rows});
    const reference::RmsNorm expected = reference::rmsnorm(sum, w, channels, kEps);
    verify({{"y", &y_t, expected.y}, {"sum", &sum_t, sum}, {"rrms", &rrms_t, expected.rrms}}, [&](Context& ctx) {
      add_rmsnorm_forward(ctx, y_t.view(), sum_t.view(), rrms_t.view(), x_t.view(), residual_t.view(), w_t.view(),
                          kEps);
    });
    verify({{"y", &y_t, expected.y}, {"sum as x", &x_t, sum, x}}, [&](Context& ctx) {
      add_rmsnorm_forward(ctx, y_t.view(), x_t.view(), rrms_t.view(), x_t.view(), residual_t.view(), w_t.view(), kEps);
    });
    x_t.set(x);
    verify({{"y", &y_t, expected.y}, {"sum as residual", &residual_t, sum, residual}}, [&](Context& ctx) {
      add_rmsnorm_forward(ctx, y_t.view(), residual_t.view(), rrms_t.view(), x_t.view(), residual_t.view(), w_t.view(),
                          kEps);
    });
  }
}

TEST_P(RmsnormTest, Backward) {
  for (const auto& [rows, channels] : kShapes) {
    const Array x = random(rows * channels, -2, 2), w = random(channels), dy = random(rows * channels),
                dresidual = random(rows * channels), before = random(channels);
    TestTensor x_t = real({rows, channels}, x), w_t = real({channels}, w), dy_t = real({rows, channels}, dy),
               dresidual_t = real({rows, channels}, dresidual);
    TestTensor rrms_t = f32({rows}, reference::rmsnorm(x, w, channels, kEps).rrms);
    TestTensor dx_t = real_output({rows, channels}), dw_t = f32_output({channels});
    use_workspace(rmsnorm_backward_workspace_bytes(context(), channels));
    const reference::RmsNormGrad grad = reference::rmsnorm_grad(dy, x, w, channels, kEps);
    Array dw = grad.dw, with_residual = grad.dx;
    for (size_t i = 0; i < dw.size(); ++i) dw[i] += before[i];
    for (size_t i = 0; i < with_residual.size(); ++i) with_residual[i] += dresidual[i];
    const auto run = [&](TestTensor& dx, ConstTensor residual) {
      return [&, residual](Context& ctx) {
        rmsnorm_backward(ctx, dx.view(), dw_t.view(), dy_t.view(), x_t.view(), w_t.view(), rrms_t.view(), residual);
      };
    };
    // A single channel's gradient vanishes but for eps.
    const double term_size = channels == 1 ? 1 : 0;
    verify({{"dx", &dx_t, grad.dx, {}, term_size}, {"dw", &dw_t, dw, before}}, run(dx_t, {}));
    verify({{"dx with residual", &dx_t, with_residual}, {"dw", &dw_t, dw, before}}, run(dx_t, dresidual_t.view()));
    verify({{"dx as dresidual", &dresidual_t, with_residual, dresidual}, {"dw", &dw_t, dw, before}},
           run(dresidual_t, dresidual_t.view()));
    verify({{"dx as dy", &dy_t, grad.dx, dy, term_size}, {"dw", &dw_t, dw, before}}, run(dy_t, {}));
  }
}

}  // namespace
}  // namespace skippipe::testing
