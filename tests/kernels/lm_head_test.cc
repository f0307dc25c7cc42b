#include "kernels/lm_head.h"

#include "tests/kernels/harness.h"

namespace skippipe::testing {
namespace {

SKP_INSTANTIATE_KERNEL_TEST(LmHeadTest, all_cases());

struct Shape {
  int64_t rows, channels, vocabulary;
};
// The last two exceed a chunk of the vocabulary and a block of rows.
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 5, 7}, {31, 33, 32}, {33, 16, 31}, {5, 12, 4100}, {1030, 3, 2050}};

// Every third target is ignored, unless there is only one.
Ids some_targets(Ids ids) {
  for (size_t n = 1; n < ids.size(); n += 3) ids[n] = -1;
  return ids;
}

TEST_P(LmHeadTest, LossForward) {
  for (const auto& [rows, channels, vocabulary] : kShapes) {
    const Array h = random(rows * channels, -3, 3), w = random(vocabulary * channels, -3, 3);
    const Ids targets = some_targets(random_ids(rows, vocabulary));
    TestTensor h_t = real({rows, channels}, h), w_t = real({vocabulary, channels}, w), targets_t = ids(targets);
    TestTensor loss_t = f32_output({1}), lse_t = f32_output({rows});
    use_workspace(lm_head_workspace_bytes(context(), rows, channels, vocabulary, dtype()));
    const reference::LmHead expected = reference::lm_head(h, w, targets, channels, vocabulary);
    verify({{"loss", &loss_t, {expected.loss}}, {"lse", &lse_t, expected.lse}}, [&](Context& ctx) {
      lm_head_loss_forward(ctx, loss_t.view(), lse_t.view(), h_t.view(), w_t.view(), targets_t.view());
    });
  }
}

TEST_P(LmHeadTest, LossBackward) {
  for (const auto& [rows, channels, vocabulary] : kShapes) {
    const Array h = random(rows * channels), w = random(vocabulary * channels), before = random(vocabulary * channels);
    const Ids targets = some_targets(random_ids(rows, vocabulary));
    const float scale = 0.125f;
    TestTensor h_t = real({rows, channels}, h), w_t = real({vocabulary, channels}, w), targets_t = ids(targets);
    TestTensor lse_t = f32({rows}, reference::lm_head(h, w, targets, channels, vocabulary).lse);
    TestTensor dh_t = real_output({rows, channels}), dw_t = f32_output({vocabulary, channels});
    use_workspace(lm_head_workspace_bytes(context(), rows, channels, vocabulary, dtype()));
    reference::LmHeadGrad expected = reference::lm_head_grad(h, w, targets, channels, vocabulary, scale);
    for (size_t i = 0; i < before.size(); ++i) expected.dw[i] += before[i];
    verify({{"dh", &dh_t, expected.dh}, {"dw", &dw_t, expected.dw, before}}, [&](Context& ctx) {
      lm_head_loss_backward(ctx, dh_t.view(), dw_t.view(), h_t.view(), w_t.view(), targets_t.view(), lse_t.view(),
                            scale);
    });
  }
}

TEST_P(LmHeadTest, WorkspaceSufficesForFewerRows) {
  for (const int64_t vocabulary : {7, 2050, 50257}) {
    int64_t before = 0;
    for (int64_t rows = 1; rows < 5000; rows += 63) {
      const int64_t bytes = lm_head_workspace_bytes(context(), rows, 16, vocabulary, dtype());
      EXPECT_GE(bytes, before) << rows << " rows, vocabulary of " << vocabulary;
      before = bytes;
    }
  }
}

}  // namespace
}  // namespace skippipe::testing
