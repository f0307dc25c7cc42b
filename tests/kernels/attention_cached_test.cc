#include "kernels/attention_cached.h"

#include <cmath>

#include "base/error.h"
#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

SKP_INSTANTIATE_KERNEL_TEST(AttentionCachedTest, f32_cases());

struct Shape {
  int64_t queries, positions, heads, kv_heads, head_dim, gap;
};
// One query and many, sequences around tiles and parts of them, blocks of query rows that are not full.
constexpr Shape kShapes[] = {{1, 1, 1, 1, 1, 0},      {1, 5, 2, 1, 3, 0},     {1, 64, 3, 3, 32, 7},
                             {1, 65, 4, 2, 33, 0},    {1, 700, 2, 1, 16, 0},  {1, 129, 1, 1, 80, 5},
                             {5, 5, 4, 2, 8, 0},      {7, 130, 6, 3, 20, 3},  {33, 64, 2, 2, 31, 0},
                             {64, 64, 1, 1, 16, 0},   {65, 200, 2, 1, 64, 0}, {16, 300, 9, 1, 17, 2},
                             {100, 321, 4, 4, 16, 0}, {2, 150, 8, 2, 128, 0}, {40, 170, 2, 2, 130, 4}};

// The token's rows without the batch dimension.
Tensor sequence(TestTensor& tensor) {
  const Tensor all = tensor.view();
  return {
      all.data(), {all.dim(1), all.dim(2), all.dim(3)}, {all.stride(1), all.stride(2), 1}, all.dtype(), all.device()};
}

// The last `count` tokens of (1,T,H,D).
Array last_tokens(const Array& all, int64_t count, int64_t token_size) {
  return {all.end() - static_cast<std::ptrdiff_t>(count * token_size), all.end()};
}

TEST_P(AttentionCachedTest, EqualsTheLastRowsOfAttention) {
  for (const Shape& at : kShapes) {
    SCOPED_TRACE(
        format("{} of {} tokens, {}/{} heads of {}", at.queries, at.positions, at.heads, at.kv_heads, at.head_dim));
    const int64_t query_size = at.heads * at.head_dim, key_size = at.kv_heads * at.head_dim;
    const Dims query = {1, at.queries, at.heads, at.head_dim}, key = {1, at.positions, at.kv_heads, at.head_dim};
    const Array q = random(at.positions * query_size, -4, 4), k = random(at.positions * key_size, -4, 4),
                v = random(at.positions * key_size);
    const float scale = 1 / std::sqrt(static_cast<float>(at.head_dim));
    const reference::Attention expected =
        reference::attention(q, k, v, {1, at.positions, at.heads, at.kv_heads, at.head_dim}, scale);
    TestTensor q_t = real(query, last_tokens(q, at.queries, query_size), at.gap), k_t = real(key, k, at.gap),
               v_t = real(key, v, 2 * at.gap), y_t = real_output(query, at.gap);
    use_workspace(attention_cached_workspace_bytes(context(), at.queries, at.heads, at.kv_heads, at.head_dim));
    verify({{"y", &y_t, last_tokens(expected.y, at.queries, query_size)}}, [&](Context& ctx) {
      attention_cached_forward(ctx, sequence(y_t), sequence(q_t), sequence(k_t), sequence(v_t), scale);
    });
  }
}

// What a plan of memory relies on.
TEST_P(AttentionCachedTest, WorkspaceForManyQueriesIsEnoughForFewer) {
  for (int64_t heads : {1, 6})
    for (int64_t queries = 2; queries < 200; ++queries)
      EXPECT_GE(attention_cached_workspace_bytes(context(), queries, heads, 1, 64),
                attention_cached_workspace_bytes(context(), queries - 1, heads, 1, 64));
}

}  // namespace
}  // namespace skippipe::testing
