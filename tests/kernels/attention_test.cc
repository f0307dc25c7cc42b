#include "kernels/attention.h"

#include <cmath>

#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

// Kernels for bf16 take other tiles where there is little shared memory, and Hopper has kernels of its own.
std::vector<Case> attention_cases() {
  std::vector<Case> cases = all_cases();
#ifdef SKIPPIPE_HAS_SIMT_CASES
  cases.push_back({"simt_small", Dtype::kBf16, 1});
  cases.push_back({"simt_hopper", Dtype::kBf16, 1});
#endif
  return cases;
}

SKP_INSTANTIATE_KERNEL_TEST(AttentionTest, attention_cases());

using reference::AttentionShape;

struct Shape {
  AttentionShape at;
  int64_t gap;
};
const std::vector<Shape> kShapes = {{{1, 1, 1, 1, 1}, 0},    {{2, 5, 2, 1, 3}, 0},    {{1, 31, 3, 3, 32}, 7},
                                    {{1, 32, 2, 2, 33}, 0},  {{3, 33, 4, 2, 31}, 64}, {{2, 64, 2, 1, 16}, 0},
                                    {{1, 65, 2, 2, 64}, 32}, {{1, 130, 6, 2, 20}, 0}, {{1, 200, 1, 1, 80}, 3},
                                    {{1, 40, 2, 1, 128}, 0}, {{2, 18, 3, 1, 132}, 4}, {{1, 17, 1, 1, 255}, 0}};
// Several blocks of the tiles in which GPU kernels take bf16; rows of whole vectors or not, the last tile full or not.
const std::vector<Shape> kBf16Shapes = {{{1, 385, 1, 1, 64}, 0},  {{1, 256, 2, 1, 64}, 8}, {{1, 257, 2, 1, 128}, 64},
                                        {{1, 384, 1, 1, 128}, 0}, {{2, 127, 1, 1, 96}, 0}, {{1, 129, 1, 1, 256}, 0},
                                        {{1, 129, 2, 1, 127}, 1}, {{2, 1, 2, 1, 64}, 0},   {{2, 63, 2, 1, 64}, 0},
                                        {{1, 128, 1, 1, 64}, 0},  {{1, 129, 2, 1, 128}, 8}};

std::vector<Shape> shapes(Dtype dtype) {
  std::vector<Shape> all = kShapes;
  if (dtype == Dtype::kBf16) all.insert(all.end(), kBf16Shapes.begin(), kBf16Shapes.end());
  return all;
}

struct Inputs {
  Array q, k, v, dy;
};

class Problem {
 public:
  explicit Problem(const AttentionShape& at)
      : query{at.batch, at.tokens, at.heads, at.head_dim},
        key{at.batch, at.tokens, at.kv_heads, at.head_dim},
        lse{at.batch, at.heads, at.tokens},
        scale(1 / std::sqrt(static_cast<float>(at.head_dim))) {}

  Dims query, key, lse;
  float scale;
};

TEST_P(AttentionTest, Forward) {
  for (const auto& [at, gap] : shapes(dtype())) {
    const Problem problem(at);
    // Wide enough that a row's maximum moves from tile to tile.
    const Array q = random(element_count(problem.query), -4, 4), k = random(element_count(problem.key), -4, 4),
                v = random(element_count(problem.key));
    TestTensor q_t = real(problem.query, q, gap), k_t = real(problem.key, k, gap), v_t = real(problem.key, v, gap);
    TestTensor y_t = real_output(problem.query, gap), lse_t = f32_output(problem.lse);
    use_workspace(attention_workspace_bytes(context(), at.batch, at.tokens, at.heads, at.kv_heads, at.head_dim));
    const reference::Attention expected = reference::attention(q, k, v, at, problem.scale);
    verify({{"y", &y_t, expected.y}, {"lse", &lse_t, expected.lse}}, [&](Context& ctx) {
      attention_forward(ctx, y_t.view(), lse_t.view(), q_t.view(), k_t.view(), v_t.view(), problem.scale);
    });
  }
}

TEST_P(AttentionTest, Backward) {
  for (const auto& [at, gap] : shapes(dtype())) {
    const Problem problem(at);
    const Array q = random(element_count(problem.query), -2, 2), k = random(element_count(problem.key), -2, 2),
                v = random(element_count(problem.key)), dy = random(element_count(problem.query));
    const reference::Attention forward = reference::attention(q, k, v, at, problem.scale);
    TestTensor q_t = real(problem.query, q, gap), k_t = real(problem.key, k, gap), v_t = real(problem.key, v, gap);
    TestTensor y_t = real(problem.query, forward.y, gap), dy_t = real(problem.query, dy, gap);
    TestTensor lse_t = f32(problem.lse, forward.lse);
    TestTensor dq_t = real_output(problem.query, gap), dk_t = real_output(problem.key, gap),
               dv_t = real_output(problem.key, gap);
    use_workspace(attention_workspace_bytes(context(), at.batch, at.tokens, at.heads, at.kv_heads, at.head_dim));
    const reference::AttentionGrad expected = reference::attention_grad(dy, q, k, v, at, problem.scale);
    // p dp and p delta cancel, and delta comes from y as the dtype holds it: one of them, times scale and k or q.
    const double term_size = 0.4;
    // p, an input of the product with dy, is in the dtype, too.
    const double dv_term_size = 0.6;
    verify({{"dq", &dq_t, expected.dq, {}, term_size},
            {"dk", &dk_t, expected.dk, {}, term_size},
            {"dv", &dv_t, expected.dv, {}, dv_term_size}},
           [&](Context& ctx) {
             attention_backward(ctx, dq_t.view(), dk_t.view(), dv_t.view(), dy_t.view(), q_t.view(), k_t.view(),
                                v_t.view(), y_t.view(), lse_t.view(), problem.scale);
           });
  }
}

TEST_P(AttentionTest, HeadsThatGpuKernelsCanNotHoldAreRefused) {
  if (context().backend->device() != Device::kCuda) GTEST_SKIP() << "the CPU takes any";
  EXPECT_GT(attention_workspace_bytes(context(), 1, 4, 2, 1, 256), 0);
  EXPECT_THROW(attention_workspace_bytes(context(), 1, 4, 2, 1, 257), ShapeError);
}

}  // namespace
}  // namespace skippipe::testing
