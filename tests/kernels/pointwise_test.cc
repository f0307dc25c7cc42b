// Embedding, RoPE, SwiGLU, AdamW and the simple maps and sums.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/adamw.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

// ---------------------------------------------------------------------------------------------------- embedding

SKP_INSTANTIATE_KERNEL_TEST(EmbeddingTest, all_cases());

struct EmbeddingShape {
  int64_t rows, vocabulary, channels;
};
constexpr EmbeddingShape kEmbeddingShapes[] = {{1, 1, 1},     {5, 3, 7},    {33, 10, 31},
                                               {31, 100, 32}, {700, 4, 65}, {1500, 40, 264}};

TEST_P(EmbeddingTest, Forward) {
  for (const auto& [rows, vocabulary, channels] : kEmbeddingShapes) {
    const Ids tokens = random_ids(rows, vocabulary);
    const Array w = random(vocabulary * channels);
    TestTensor tokens_t = ids(tokens), w_t = real({vocabulary, channels}, w), y_t = real_output({rows, channels});
    verify({{"y", &y_t, reference::embedding(tokens, w, channels)}},
           [&](Context& ctx) { embedding_forward(ctx, y_t.view(), tokens_t.view(), w_t.view()); });
  }
}

TEST_P(EmbeddingTest, Backward) {
  for (const auto& [rows, vocabulary, channels] : kEmbeddingShapes) {
    const Ids tokens = random_ids(rows, vocabulary);
    const Array dy = random(rows * channels), before = random(vocabulary * channels);
    TestTensor tokens_t = ids(tokens), dy_t = real({rows, channels}, dy), dw_t = f32_output({vocabulary, channels});
    Array expected = reference::embedding_dw(dy, tokens, vocabulary, channels);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    verify({{"dw", &dw_t, expected, before}},
           [&](Context& ctx) { embedding_backward(ctx, dw_t.view(), dy_t.view(), tokens_t.view()); });
  }
}

// ---------------------------------------------------------------------------------------------------- rope

SKP_INSTANTIATE_KERNEL_TEST(RopeTest, all_cases());

struct RopeShape {
  int64_t batch, tokens, heads, head_dim, gap;
};
constexpr RopeShape kRopeShapes[] = {{1, 1, 1, 2, 0},   {2, 3, 2, 6, 5},    {1, 33, 3, 32, 64},
                                     {2, 31, 2, 66, 0}, {3, 200, 2, 64, 1}, {2, 70, 9, 32, 8}};

TEST_P(RopeTest, ForwardAndBackward) {
  for (const auto& [batch, tokens, heads, head_dim, gap] : kRopeShapes) {
    const Dims shape{batch, tokens, heads, head_dim}, angles{tokens, head_dim / 2};
    // Not a true cosine and sine, so that a wrong pairing can't hide in an identity.
    const Array x = random(element_count(shape)), cos = random(element_count(angles)),
                sin = random(element_count(angles));
    TestTensor x_t = real_output(shape, gap), cos_t = f32(angles, cos), sin_t = f32(angles, sin);
    verify({{"x", &x_t, reference::rope(x, cos, sin, batch, tokens, heads, head_dim, 1), x}},
           [&](Context& ctx) { rope_forward(ctx, x_t.view(), cos_t.view(), sin_t.view()); });
    verify({{"dx", &x_t, reference::rope(x, cos, sin, batch, tokens, heads, head_dim, -1), x}},
           [&](Context& ctx) { rope_backward(ctx, x_t.view(), cos_t.view(), sin_t.view()); });
  }
}

// ---------------------------------------------------------------------------------------------------- swiglu

SKP_INSTANTIATE_KERNEL_TEST(SwigluTest, all_cases());

struct RowsShape {
  int64_t rows, columns, gap;
};
constexpr RowsShape kRowsShapes[] = {{1, 1, 0},   {3, 5, 2},    {31, 33, 33}, {33, 32, 0},
                                     {31, 40, 8}, {70, 500, 1}, {140, 512, 8}};

TEST_P(SwigluTest, Forward) {
  for (const auto& [rows, columns, gap] : kRowsShapes) {
    const Array gate = random(rows * columns, -8, 8), up = random(rows * columns);
    TestTensor gate_t = real({rows, columns}, gate, gap), up_t = real({rows, columns}, up, gap);
    TestTensor y_t = real_output({rows, columns}, gap);
    verify({{"y", &y_t, reference::swiglu(gate, up)}},
           [&](Context& ctx) { swiglu_forward(ctx, y_t.view(), gate_t.view(), up_t.view()); });
  }
}

TEST_P(SwigluTest, Backward) {
  for (const auto& [rows, columns, gap] : kRowsShapes) {
    const Array gate = random(rows * columns, -8, 8), up = random(rows * columns), dy = random(rows * columns);
    TestTensor gate_t = real({rows, columns}, gate, gap), up_t = real({rows, columns}, up, gap),
               dy_t = real({rows, columns}, dy, gap);
    TestTensor dgate_t = real_output({rows, columns}, gap), dup_t = real_output({rows, columns}, gap);
    const reference::SwigluGrad expected = reference::swiglu_grad(dy, gate, up);
    verify({{"dgate", &dgate_t, expected.dgate}, {"dup", &dup_t, expected.dup}}, [&](Context& ctx) {
      swiglu_backward(ctx, dgate_t.view(), dup_t.view(), dy_t.view(), gate_t.view(), up_t.view());
    });
    verify({{"dgate in place", &gate_t, expected.dgate, gate}, {"dup in place", &up_t, expected.dup, up}},
           [&](Context& ctx) {
             swiglu_backward(ctx, gate_t.view(), up_t.view(), dy_t.view(), gate_t.view(), up_t.view());
           });
  }
}

TEST_P(SwigluTest, GatesThatSaturate) {
  const Array gate = {-1e30, -1e4, -100, -89, -87, -1e-30, 0, 1e-30, 87, 89, 100, 1e4};
  const auto count = static_cast<int64_t>(gate.size());
  TestTensor gate_t = real({1, count}, gate), ones_t = real({1, count}, Array(gate.size(), 1.0));
  const Array rounded = gate_t.get(), ones = ones_t.get();
  TestTensor y_t = real_output({1, count}), dgate_t = real_output({1, count}), dup_t = real_output({1, count});
  verify({{"y", &y_t, reference::swiglu(rounded, ones)}},
         [&](Context& ctx) { swiglu_forward(ctx, y_t.view(), gate_t.view(), ones_t.view()); });
  const reference::SwigluGrad expected = reference::swiglu_grad(ones, rounded, ones);
  verify({{"dgate", &dgate_t, expected.dgate}, {"dup", &dup_t, expected.dup}}, [&](Context& ctx) {
    swiglu_backward(ctx, dgate_t.view(), dup_t.view(), ones_t.view(), gate_t.view(), ones_t.view());
  });
}

// ---------------------------------------------------------------------------------------------------- adamw

SKP_INSTANTIATE_KERNEL_TEST(OptimizerTest, f32_cases());

TEST_P(OptimizerTest, AdamwStep) {
  AdamWStep step;
  step.learning_rate = 0.01f;
  step.weight_decay = 0.1f;
  step.grad_scale = 0.25f;
  for (const int64_t count : {1, 5, 33, 1000, 50000}) {
    for (step.step = 1; step.step <= 1000; step.step = step.step * 31) {
      const Array grad = random(count);
      const reference::AdamW before{random(count), random(count), random(count, 0, 1)};
      TestTensor w_t = f32_output({count}), m_t = f32_output({count}), v_t = f32_output({count}),
                 grad_t = f32({count}, grad);
      const reference::AdamW expected = reference::adamw(
          before, grad,
          {step.learning_rate, step.beta1, step.beta2, step.eps, step.weight_decay, step.grad_scale, step.step});
      verify({{"w", &w_t, expected.w, before.w}, {"m", &m_t, expected.m, before.m}, {"v", &v_t, expected.v, before.v}},
             [&](Context& ctx) { adamw_step(ctx, w_t.view(), m_t.view(), v_t.view(), grad_t.view(), step); });
    }
  }
}

TEST_P(OptimizerTest, OnlyTheFirstElementsDecay) {
  AdamWStep step;
  step.learning_rate = 0.1f;
  step.weight_decay = 0.5f;
  reference::AdamWScalars scalars{step.learning_rate, step.beta1, step.beta2, step.eps, 0, 1, 1};
  for (const int64_t count : {1, 33, 50000})
    for (const int64_t decayed : {int64_t{0}, count / 3, count - 1, count, count + 5}) {
      const Array grad = random(count);
      const reference::AdamW before{random(count, 1, 2), random(count), random(count, 0, 1)};
      scalars.weight_decay = step.weight_decay;
      reference::AdamW expected = reference::adamw(before, grad, scalars);
      scalars.weight_decay = 0;
      const Array kept = reference::adamw(before, grad, scalars).w;
      if (decayed < count) std::copy(kept.begin() + decayed, kept.end(), expected.w.begin() + decayed);
      TestTensor w_t = f32_output({count}), m_t = f32_output({count}), v_t = f32_output({count}),
                 grad_t = f32({count}, grad);
      step.decayed = decayed;
      verify({{"w", &w_t, expected.w, before.w}, {"m", &m_t, expected.m, before.m}, {"v", &v_t, expected.v, before.v}},
             [&](Context& ctx) { adamw_step(ctx, w_t.view(), m_t.view(), v_t.view(), grad_t.view(), step); });
    }
}

TEST_P(OptimizerTest, SquaredNorm) {
  for (const int64_t count : {1, 5, 33, 257, 100000}) {
    const Array x = random(count);
    double expected = 0;
    for (const double value : x) expected += value * value;
    TestTensor x_t = f32({count}, x), sum_t = f32_output({1});
    use_workspace(squared_norm_workspace_bytes(context()));
    verify({{"sum", &sum_t, {expected}}}, [&](Context& ctx) { squared_norm(ctx, sum_t.view(), x_t.view()); });
  }
}

// ---------------------------------------------------------------------------------------------------- maps

SKP_INSTANTIATE_KERNEL_TEST(ElementwiseTest, all_cases());

TEST_P(ElementwiseTest, Add) {
  for (const int64_t count : {1, 5, 33, 70000}) {
    const Array a = random(count), b = random(count);
    Array expected = a;
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += b[i];
    TestTensor a_t = real({count}, a), b_t = real({count}, b), y_t = real_output({count});
    verify({{"y", &y_t, expected}}, [&](Context& ctx) { add(ctx, y_t.view(), a_t.view(), b_t.view()); });
    verify({{"y as b", &b_t, expected, b}}, [&](Context& ctx) { add(ctx, b_t.view(), a_t.view(), b_t.view()); });
    b_t.set(b);
    verify({{"y as a", &a_t, expected, a}}, [&](Context& ctx) { add(ctx, a_t.view(), a_t.view(), b_t.view()); });
  }
}

TEST_P(ElementwiseTest, Accumulate) {
  for (const int64_t count : {1, 5, 33, 70000}) {
    const Array x = random(count), before = random(count);
    const float scale = -0.75f;
    Array expected = before;
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += static_cast<double>(scale) * x[i];
    TestTensor x_t = real({count}, x), y_t = f32_output({count});
    verify({{"y", &y_t, expected, before}}, [&](Context& ctx) { accumulate(ctx, y_t.view(), x_t.view(), scale); });
  }
}

TEST_P(ElementwiseTest, FillZeroInEveryDtype) {
  for (const Dtype any : {Dtype::kF32, Dtype::kBf16, Dtype::kI32})
    for (const int64_t count : {0, 1, 33, 300001}) {
      TestTensor x = output({count}, any);
      fill_zero(context(), x.view());
      EXPECT_EQ(x.get(), Array(static_cast<size_t>(count), 0.0));
      EXPECT_TRUE(x.guards_intact());
    }
}

TEST_P(ElementwiseTest, CastRoundsToNearestEven) {
  const double inf = std::numeric_limits<double>::infinity();
  // 1 + 2^-8 lies between two bf16 numbers: to the even one; 1 + 3 * 2^-8 as well, to the other side.
  const Array x = {0, 1, -1, 1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1.01p-8, -1 - 0x1p-8, 3.4e38, inf, -inf};
  const Array expected = {0, 1, -1, 1, 1 + 0x1p-6, 1 + 0x1p-7, -1, inf, inf, -inf};
  const auto count = static_cast<int64_t>(x.size());
  TestTensor x_t = f32_output({count}), y_t = output({count}, Dtype::kBf16), back_t = f32_output({count});
  x_t.set(x);
  cast(context(), y_t.view(), x_t.view());
  EXPECT_EQ(y_t.get(), expected);
  cast(context(), back_t.view(), y_t.view());
  EXPECT_EQ(back_t.get(), expected);
  EXPECT_TRUE(y_t.guards_intact() && back_t.guards_intact());
}

TEST_P(ElementwiseTest, CastCopiesBetweenEqualDtypesAndKeepsNan) {
  for (const int64_t count : {50001, 220002})
    for (const Dtype any : {Dtype::kF32, Dtype::kBf16}) {
      const Array x = random(count);
      TestTensor x_t = output({count}, any), y_t = output({count}, any),
                 nan_t = output({count}, any == Dtype::kF32 ? Dtype::kBf16 : Dtype::kF32);
      cast(context(), nan_t.view(), x_t.view());  // x starts as NaN
      const Array nans = nan_t.get();
      EXPECT_TRUE(std::ranges::all_of(nans, [](double value) { return std::isnan(value); }));
      x_t.set(x);
      cast(context(), y_t.view(), x_t.view());
      EXPECT_EQ(y_t.get(), x_t.get());
      EXPECT_TRUE(y_t.guards_intact() && nan_t.guards_intact());
    }
  // A NaN whose payload lies in the bits that bf16 drops.
  TestTensor tricky = f32_output({2}), rounded = output({2}, Dtype::kBf16);
  tricky.set_f32_bits({0x7f800001u, 0xffffffffu});
  cast(context(), rounded.view(), tricky.view());
  for (const double value : rounded.get()) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace skippipe::testing
