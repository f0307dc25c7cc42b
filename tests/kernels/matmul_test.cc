#include "kernels/matmul.h"

#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

SKP_INSTANTIATE_KERNEL_TEST(MatmulTest, all_cases());

struct Shape {
  int64_t rows, inputs, outputs, gap;
};
constexpr Shape kShapes[] = {{1, 1, 1, 0},    {1, 7, 5, 0},    {3, 1, 2, 4},    {31, 32, 33, 0},
                             {33, 31, 32, 5}, {64, 48, 96, 0}, {65, 130, 67, 1}};

TEST_P(MatmulTest, LinearForward) {
  for (const auto& [rows, inputs, outputs, gap] : kShapes) {
    const Array x = random(rows * inputs), w = random(outputs * inputs);
    TestTensor x_t = real({rows, inputs}, x, gap), w_t = real({outputs, inputs}, w);
    TestTensor y_t = real_output({rows, outputs}, gap);
    verify({{"y", &y_t, reference::linear(x, w, rows, inputs, outputs)}},
           [&](Context& ctx) { linear_forward(ctx, y_t.view(), x_t.view(), w_t.view()); });
  }
}

TEST_P(MatmulTest, LinearBackwardInput) {
  for (const auto& [rows, inputs, outputs, gap] : kShapes) {
    const Array dy = random(rows * outputs), w = random(outputs * inputs), before = random(rows * inputs);
    TestTensor dy_t = real({rows, outputs}, dy, gap), w_t = real({outputs, inputs}, w);
    TestTensor dx_t = real_output({rows, inputs}, gap);
    Array expected = reference::linear_dx(dy, w, rows, inputs, outputs);
    verify({{"dx", &dx_t, expected}},
           [&](Context& ctx) { linear_backward_input(ctx, dx_t.view(), dy_t.view(), w_t.view()); });
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    verify({{"accumulated dx", &dx_t, expected, before}},
           [&](Context& ctx) { linear_backward_input(ctx, dx_t.view(), dy_t.view(), w_t.view(), true); });
  }
}

TEST_P(MatmulTest, LinearBackwardWeight) {
  for (const auto& [rows, inputs, outputs, gap] : kShapes) {
    const Array dy = random(rows * outputs), x = random(rows * inputs), before = random(outputs * inputs);
    TestTensor dy_t = real({rows, outputs}, dy, gap), x_t = real({rows, inputs}, x, gap);
    TestTensor dw_t = f32_output({outputs, inputs});
    Array expected = reference::linear_dw(dy, x, rows, inputs, outputs);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    verify({{"dw", &dw_t, expected, before}},
           [&](Context& ctx) { linear_backward_weight(ctx, dw_t.view(), dy_t.view(), x_t.view()); });
  }
}

}  // namespace
}  // namespace skippipe::testing
