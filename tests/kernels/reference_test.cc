// The reference's gradients against central differences of its own forward formulas.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.h"
#include "tests/reference/operations.h"

namespace skippipe::reference {
namespace {

constexpr uint64_t kSeed = 7;

class ReferenceGradient : public ::testing::Test {
 protected:
  Array random(int64_t count) {
    Array values(static_cast<size_t>(count));
    for (double& value : values) value = random_.uniform(-1, 1);
    return values;
  }

  // gradient must be that of sum(outputs(x) * doutputs).
  static void expect_gradient(const char* name, const Array& gradient, Array x, const Array& doutputs,
                              const std::function<Array(const Array&)>& outputs) {
    constexpr double kStep = 1e-5;
    ASSERT_EQ(gradient.size(), x.size()) << name;
    const auto objective = [&] {
      const Array y = outputs(x);
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * doutputs[i];
      return sum;
    };
    for (size_t i = 0; i < x.size(); ++i) {
      const double at = x[i];
      x[i] = at + kStep;
      const double above = objective();
      x[i] = at - kStep;
      const double below = objective();
      x[i] = at;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-8) << name << "[" << i << "]";
    }
  }

 private:
  Random random_{kSeed};
};

TEST_F(ReferenceGradient, Linear) {
  const int64_t rows = 3, inputs = 4, outputs = 5;
  const Array x = random(rows * inputs), w = random(outputs * inputs), dy = random(rows * outputs);
  expect_gradient("dx", linear_dx(dy, w, rows, inputs, outputs), x, dy,
                  [&](const Array& at) { return linear(at, w, rows, inputs, outputs); });
  expect_gradient("dw", linear_dw(dy, x, rows, inputs, outputs), w, dy,
                  [&](const Array& at) { return linear(x, at, rows, inputs, outputs); });
}

TEST_F(ReferenceGradient, Embedding) {
  const Ids tokens = {2, 0, 2, 1};
  const Array w = random(4 * 3), dy = random(4 * 3);
  expect_gradient("dw", embedding_dw(dy, tokens, 4, 3), w, dy,
                  [&](const Array& at) { return embedding(tokens, at, 3); });
}

TEST_F(ReferenceGradient, Rmsnorm) {
  const int64_t channels = 5;
  const Array x = random(3 * channels), w = random(channels), dy = random(3 * channels);
  const RmsNormGrad grad = rmsnorm_grad(dy, x, w, channels, 1e-3);
  expect_gradient("dx", grad.dx, x, dy, [&](const Array& at) { return rmsnorm(at, w, channels, 1e-3).y; });
  expect_gradient("dw", grad.dw, w, dy, [&](const Array& at) { return rmsnorm(x, at, channels, 1e-3).y; });
}

TEST_F(ReferenceGradient, Rope) {
  const Array x = random(2 * 3 * 2 * 4), cos = random(3 * 2), sin = random(3 * 2), dy = random(2 * 3 * 2 * 4);
  expect_gradient("dx", rope(dy, cos, sin, 2, 3, 2, 4, -1), x, dy,
                  [&](const Array& at) { return rope(at, cos, sin, 2, 3, 2, 4, 1); });
}

TEST_F(ReferenceGradient, Attention) {
  const AttentionShape shape{2, 5, 4, 2, 3};
  const double scale = 0.7;
  const Array q = random(2 * 5 * 4 * 3), k = random(2 * 5 * 2 * 3), v = random(2 * 5 * 2 * 3),
              dy = random(2 * 5 * 4 * 3);
  const AttentionGrad grad = attention_grad(dy, q, k, v, shape, scale);
  expect_gradient("dq", grad.dq, q, dy, [&](const Array& at) { return attention(at, k, v, shape, scale).y; });
  expect_gradient("dk", grad.dk, k, dy, [&](const Array& at) { return attention(q, at, v, shape, scale).y; });
  expect_gradient("dv", grad.dv, v, dy, [&](const Array& at) { return attention(q, k, at, shape, scale).y; });
}

TEST_F(ReferenceGradient, Swiglu) {
  const Array gate = random(9), up = random(9), dy = random(9);
  const SwigluGrad grad = swiglu_grad(dy, gate, up);
  expect_gradient("dgate", grad.dgate, gate, dy, [&](const Array& at) { return swiglu(at, up); });
  expect_gradient("dup", grad.dup, up, dy, [&](const Array& at) { return swiglu(gate, at); });
}

TEST_F(ReferenceGradient, LmHead) {
  const int64_t channels = 3, vocabulary = 6;
  const Ids targets = {4, -1, 0, 5};
  const Array h = random(4 * channels), w = random(vocabulary * channels);
  const LmHeadGrad grad = lm_head_grad(h, w, targets, channels, vocabulary, 0.5);
  expect_gradient("dh", grad.dh, h, {0.5},
                  [&](const Array& at) { return Array{lm_head(at, w, targets, channels, vocabulary).loss}; });
  expect_gradient("dw", grad.dw, w, {0.5},
                  [&](const Array& at) { return Array{lm_head(h, at, targets, channels, vocabulary).loss}; });
}

}  // namespace
}  // namespace skippipe::reference
