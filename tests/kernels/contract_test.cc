// What the free functions refuse before any work is done, and what holds for every operation at once: no allocation
// after the first call, results that do not depend on threads where the contract says so, NaN that does not vanish.
#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <thread>

#include "base/error.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/attention_cached.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/lm_head.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/kernels/harness.h"

namespace {

std::atomic<int64_t> allocations{0}, releases{0};

void release(void* p) {
  if (p == nullptr) return;
  ++releases;
  std::free(p);
}

void* counted(size_t bytes, size_t alignment) {
  ++allocations;
  void* p = nullptr;
  if (posix_memalign(&p, alignment, bytes) != 0) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) { return counted(bytes, static_cast<size_t>(alignment)); }
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { release(p); }

namespace skippipe::testing {
namespace {

constexpr int64_t kBatch = 2, kTokens = 70, kRows = kBatch * kTokens, kHeads = 4, kKvHeads = 2, kHeadDim = 32,
                  kChannels = kHeads * kHeadDim, kHidden = 300, kVocabulary = 500;

// Buffers for one call of every operation, of sizes that engage several threads and tiles.
class EveryOperation {
 public:
  EveryOperation(TestDevice& device, int threads, Dtype real = Dtype::kF32)
      : ctx{&device.backend(), threads, {}, nullptr}, tokens_(device, {kRows}, Dtype::kI32) {
    struct Group {
      Dtype dtype;
      std::initializer_list<std::pair<const char*, Dims>> buffers;
    };
    const Dims query{kBatch, kTokens, kHeads, kHeadDim}, key{kBatch, kTokens, kKvHeads, kHeadDim};
    const Dims stream{kRows, kChannels}, wide{kRows, kHidden}, table{kVocabulary, kChannels};
    const Group groups[] = {{real,
                             {{"x", stream},
                              {"y", stream},
                              {"r", stream},
                              {"sum", stream},
                              {"dy", stream},
                              {"dx", stream},
                              {"hidden", wide},
                              {"gate", wide},
                              {"up", wide},
                              {"dgate", wide},
                              {"dup", wide},
                              {"table", table},
                              {"norm", {kChannels}},
                              {"w", {kHidden, kChannels}},
                              {"q", query},
                              {"k", key},
                              {"v", key},
                              {"dq", query},
                              {"dk", key},
                              {"dv", key},
                              {"att", query}}},
                            {Dtype::kF32,
                             {{"dnorm", {kChannels}},
                              {"rrms", {kRows}},
                              {"dw", {kHidden, kChannels}},
                              {"dtable", table},
                              {"master", table},
                              {"m", table},
                              {"v2", table},
                              {"loss", {1}},
                              {"lse", {kRows}},
                              {"cos", {kTokens, kHeadDim / 2}},
                              {"sin", {kTokens, kHeadDim / 2}},
                              {"cached_q", query},
                              {"cached_k", key},
                              {"cached_v", key},
                              {"att_last", query},
                              {"att_lse", {kBatch, kHeads, kTokens}}}}};
    Random random(11);
    for (const Group& group : groups)
      for (const auto& [name, shape] : group.buffers) {
        Array values(static_cast<size_t>(element_count(shape)));
        for (double& value : values) value = random.uniform(0.1, 1);
        buffers_.emplace_back(name, TestTensor(device, shape, group.dtype)).second.set(values);
      }
    Ids tokens(kRows);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(kVocabulary));
    tokens_.set(tokens);
    const int64_t bytes =
        std::max({attention_workspace_bytes(ctx, kBatch, kTokens, kHeads, kKvHeads, kHeadDim),
                  attention_cached_workspace_bytes(ctx, kTokens, kHeads, kKvHeads, kHeadDim),
                  lm_head_workspace_bytes(ctx, kRows, kChannels, kVocabulary, Dtype::kBf16),
                  rmsnorm_backward_workspace_bytes(ctx, kChannels), squared_norm_workspace_bytes(ctx)});
    workspace_ = device.allocate(static_cast<size_t>(bytes));
    ctx.workspace = {workspace_.get(), static_cast<size_t>(bytes)};
  }

  Tensor operator()(const char* name) { return find(name).view(); }
  // The tokens of all samples as one sequence, (kRows,H,D), and its last tokens.
  Tensor sequence(const char* name) {
    const Tensor all = (*this)(name);
    return all.reshape({kRows, all.dim(2), all.dim(3)});
  }
  Tensor last(const char* name, int64_t tokens) { return sequence(name).slice(0, kRows - tokens, tokens); }
  Array values(const char* name) { return find(name).get(); }
  void set_values(const char* name, const Array& values) { find(name).set(values); }
  ConstTensor tokens() { return tokens_.view(); }

  void run() {
    run_ours();
    run_products();
  }

  // Every operation of our own.
  void run_ours() {
    EveryOperation& t = *this;
    embedding_forward(ctx, t("x"), tokens(), t("table"));
    rmsnorm_forward(ctx, t("y"), t("rrms"), t("x"), t("norm"), 1e-5f);
    add_rmsnorm_forward(ctx, t("y"), t("sum"), t("rrms"), t("x"), t("r"), t("norm"), 1e-5f);
    rope_forward(ctx, t("q"), t("cos"), t("sin"));
    attention_forward(ctx, t("att"), t("att_lse"), t("q"), t("k"), t("v"), 0.2f);
    attention_cached_forward(ctx, t.last("att_last", kTokens), t.last("cached_q", kTokens), t.sequence("cached_k"),
                             t.sequence("cached_v"), 0.2f);
    swiglu_forward(ctx, t("hidden"), t("gate"), t("up"));
    swiglu_backward(ctx, t("dgate"), t("dup"), t("hidden"), t("gate"), t("up"));
    attention_backward(ctx, t("dq"), t("dk"), t("dv"), t("dy").reshape(t("att").shape()), t("q"), t("k"), t("v"),
                       t("att"), t("att_lse"), 0.2f);
    rope_backward(ctx, t("dq"), t("cos"), t("sin"));
    rmsnorm_backward(ctx, t("dx"), t("dnorm"), t("dy"), t("sum"), t("norm"), t("rrms"), t("r"));
    add(ctx, t("dx"), t("dx"), t("r"));
    fill_zero(ctx, t("dtable"));
    embedding_backward(ctx, t("dtable"), t("dx"), tokens());
    accumulate(ctx, t("dtable"), t("table"), 0.5f);
    squared_norm(ctx, t("loss"), t("dtable"));
    AdamWStep step;
    step.learning_rate = 1e-3f;
    adamw_step(ctx, t("master"), t("m"), t("v2"), t("dtable"), step);
    cast(ctx, t("table"), t("master"));
    cast(ctx, t("sum"), t("x"));
  }

  // Those that multiply matrices through a library.
  void run_products() {
    EveryOperation& t = *this;
    linear_forward(ctx, t("hidden"), t("y"), t("w"));
    linear_backward_input(ctx, t("dx"), t("dgate"), t("w"));
    linear_backward_input(ctx, t("dx"), t("dup"), t("w"), true);
    linear_backward_weight(ctx, t("dw"), t("dgate"), t("y"));
    lm_head_loss_forward(ctx, t("loss"), t("lse"), t("y"), t("table"), tokens());
    lm_head_loss_backward(ctx, t("dy"), t("dtable"), t("y"), t("table"), tokens(), t("lse"), 0.01f);
  }

  Context ctx;

 private:
  TestTensor& find(const std::string& name) {
    for (auto& [known, tensor] : buffers_)
      if (known == name) return tensor;
    throw InternalError("no buffer {}", name);
  }

  std::vector<std::pair<std::string, TestTensor>> buffers_;
  TestTensor tokens_;
  DeviceMemory workspace_;
};

std::unique_ptr<TestDevice> cpu_device() {
  std::string why_none;
  return make_test_device("cpu", why_none);
}

class CpuBackendTest : public ::testing::TestWithParam<Dtype> {
 protected:
  void SetUp() override {
    if (!device_->backend().computes_in(GetParam())) GTEST_SKIP() << "not on this processor";
  }

  std::unique_ptr<TestDevice> device_ = cpu_device();
};
INSTANTIATE_TEST_SUITE_P(Dtypes, CpuBackendTest, ::testing::Values(Dtype::kF32, Dtype::kBf16),
                         [](const auto& given) { return dtype_name(given.param); });

TEST_P(CpuBackendTest, OperationsAllocateNothingAfterTheFirstCall) {
  for (const int threads : {1, 2}) {
    EveryOperation all(*device_, threads, GetParam());
    all.run();
    const int64_t before = allocations;
    all.run_ours();
    EXPECT_EQ(allocations - before, 0) << "with " << threads << " threads";
    // oneDNN 2.6 builds a small map of its arguments in each execution and drops it; nothing may stay.
    const int64_t alive = allocations - releases;
    all.run_products();
    EXPECT_EQ(allocations - releases, alive) << "with " << threads << " threads";
  }
}

// Matrix products may depend on the number of threads; what is ours and is called `Deterministic: bitwise` may not.
TEST_P(CpuBackendTest, ResultsDoNotDependOnThreadsWhereTheContractSaysSo) {
  EveryOperation one(*device_, 1, GetParam()), three(*device_, 3, GetParam());
  for (EveryOperation* t : {&one, &three}) {
    EveryOperation& all = *t;
    embedding_forward(all.ctx, all("x"), all.tokens(), all("table"));
    embedding_backward(all.ctx, all("dtable"), all("dy"), all.tokens());
    add_rmsnorm_forward(all.ctx, all("y"), all("sum"), all("rrms"), all("x"), all("r"), all("norm"), 1e-5f);
    rmsnorm_backward(all.ctx, all("dx"), all("dnorm"), all("dy"), all("sum"), all("norm"), all("rrms"), {});
    rope_forward(all.ctx, all("q"), all("cos"), all("sin"));
    attention_forward(all.ctx, all("att"), all("att_lse"), all("q"), all("k"), all("v"), 0.2f);
    attention_backward(all.ctx, all("dq"), all("dk"), all("dv"), all("dy").reshape(all("att").shape()), all("q"),
                       all("k"), all("v"), all("att"), all("att_lse"), 0.2f);
    for (const int64_t queries : {kTokens, int64_t{1}})
      attention_cached_forward(all.ctx, all.last("att_last", queries), all.last("cached_q", queries),
                               all.sequence("cached_k"), all.sequence("cached_v"), 0.2f);
    swiglu_forward(all.ctx, all("hidden"), all("gate"), all("up"));
    squared_norm(all.ctx, all("loss"), all("dtable"));
  }
  for (const char* name : {"x", "dtable", "y", "sum", "rrms", "dx", "dnorm", "q", "att", "att_last", "att_lse", "dq",
                           "dk", "dv", "hidden", "loss"})
    EXPECT_TRUE(one.values(name) == three.values(name)) << name;
}

// Several nodes may live in one process, each with a backend and a thread of its own.
TEST_P(CpuBackendTest, BackendsOnThreadsOfTheirOwnDoNotDisturbEachOther) {
  EveryOperation expected(*device_, 2, GetParam());
  expected.run();
  const auto first = cpu_device(), second = cpu_device();
  EveryOperation a(*first, 2, GetParam()), b(*second, 2, GetParam());
  std::thread other([&] { a.run(); });
  b.run();
  other.join();
  for (const char* name : {"att", "dq", "dnorm", "master", "table", "dw", "loss"}) {
    EXPECT_TRUE(a.values(name) == expected.values(name)) << name;
    EXPECT_TRUE(b.values(name) == expected.values(name)) << name;
  }
}

SKP_INSTANTIATE_KERNEL_TEST(PoisonTest, all_cases());

// One poisoned element of an input must reach the outputs that depend on it.
TEST_P(PoisonTest, NanAndInfinityDoNotVanish) {
  if (!context().backend->computes_in(dtype())) GTEST_SKIP() << "not on this processor";
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EveryOperation t(device(), GetParam().threads, dtype());
    const auto poisoned = [&](const char* input, const char* output, size_t at, const std::function<void()>& run) {
      const Array before = t.values(input);
      Array values = before;
      values[3] = poison;
      t.set_values(input, values);
      run();
      EXPECT_FALSE(std::isfinite(t.values(output)[at])) << poison << " in " << input << " vanished from " << output;
      t.set_values(input, before);
    };
    rmsnorm_forward(t.ctx, t("y"), t("rrms"), t("x"), t("norm"), 1e-5f);
    attention_forward(t.ctx, t("att"), t("att_lse"), t("q"), t("k"), t("v"), 0.2f);
    lm_head_loss_forward(t.ctx, t("loss"), t("lse"), t("y"), t("table"), t.tokens());
    const auto norm = [&] { rmsnorm_forward(t.ctx, t("y"), t("rrms"), t("x"), t("norm"), 1e-5f); };
    poisoned("x", "y", 3, norm);
    const auto attend = [&] { attention_forward(t.ctx, t("att"), t("att_lse"), t("q"), t("k"), t("v"), 0.2f); };
    poisoned("q", "att", 0, attend);
    poisoned("k", "att", kChannels, attend);
    poisoned("v", "att", 3, attend);
    poisoned("v", "att", 69 * kChannels + 3, attend);
    const auto attend_cached = [&] {
      attention_cached_forward(t.ctx, t.last("att_last", 2), t.last("cached_q", 2), t.sequence("cached_k"),
                               t.sequence("cached_v"), 0.2f);
    };
    poisoned("cached_k", "att_last", (kRows - 2) * kChannels, attend_cached);
    poisoned("cached_v", "att_last", (kRows - 1) * kChannels + 3, attend_cached);
    attend();
    const auto attend_back = [&] {
      attention_backward(t.ctx, t("dq"), t("dk"), t("dv"), t("dy").reshape(t("att").shape()), t("q"), t("k"), t("v"),
                         t("att"), t("att_lse"), 0.2f);
    };
    poisoned("dy", "dq", 0, attend_back);
    poisoned("dy", "dv", 3, attend_back);
    poisoned("dy", "dk", 0, attend_back);
    poisoned("gate", "hidden", 3, [&] { swiglu_forward(t.ctx, t("hidden"), t("gate"), t("up")); });
    poisoned("up", "dgate", 3, [&] { swiglu_backward(t.ctx, t("dgate"), t("dup"), t("hidden"), t("gate"), t("up")); });
    poisoned("x", "hidden", 0, [&] { linear_forward(t.ctx, t("hidden"), t("x"), t("w")); });
    const auto loss = [&] { lm_head_loss_forward(t.ctx, t("loss"), t("lse"), t("x"), t("table"), t.tokens()); };
    poisoned("x", "loss", 0, loss);
    poisoned("table", "loss", 0, loss);
    poisoned("dw", "loss", 0, [&] { squared_norm(t.ctx, t("loss"), t("dw")); });
  }
  note_verified();
}

// ---------------------------------------------------------------------------------------------------- refusals

class RefusalTest : public ::testing::Test {
 protected:
  // Runs must throw Thrown with a message that holds every one of `parts`.
  template <typename Thrown>
  void expect_refused(const std::function<void()>& run, std::initializer_list<const char*> parts) {
    try {
      run();
      ADD_FAILURE() << "was accepted";
    } catch (const Thrown& error) {
      for (const char* part : parts) EXPECT_THAT(error.what(), ::testing::HasSubstr(part));
    }
  }

  std::unique_ptr<TestDevice> device_ = cpu_device();
  EveryOperation t_{*device_, 1};
  Context& ctx_ = t_.ctx;
};

TEST_F(RefusalTest, WrongShapesNameOperationArgumentFoundAndExpected) {
  expect_refused<ShapeError>([&] { linear_forward(ctx_, t_("y"), t_("x"), t_("w")); },
                             {"linear_forward", "y is (140, 128)", "expected (140, 300)"});
  expect_refused<ShapeError>([&] { linear_forward(ctx_, t_("hidden"), t_("x"), t_("hidden")); }, {"w is (140, 300)"});
  expect_refused<ShapeError>([&] { linear_backward_input(ctx_, t_("dx"), t_("dy"), t_("w")); }, {"w is (300, 128)"});
  expect_refused<ShapeError>([&] { linear_backward_weight(ctx_, t_("table"), t_("hidden"), t_("x")); }, {"dw is"});
  expect_refused<ShapeError>([&] { embedding_forward(ctx_, t_("w"), t_.tokens(), t_("table")); }, {"y is (300, 128)"});
  expect_refused<ShapeError>([&] { embedding_backward(ctx_, t_("table"), t_("hidden"), t_.tokens()); }, {"dy is"});
  expect_refused<ShapeError>([&] { rmsnorm_forward(ctx_, t_("y"), t_("rrms"), t_("x"), t_("rrms"), 0); },
                             {"w is (140)"});
  expect_refused<ShapeError>([&] { rmsnorm_forward(ctx_, t_("y"), t_("rrms"), t_("q"), t_("norm"), 0); },
                             {"x is (2, 70, 4, 32)", "2 dimensions"});
  expect_refused<ShapeError>(
      [&] { rmsnorm_backward(ctx_, t_("dx"), t_("rrms"), t_("dy"), t_("x"), t_("norm"), t_("rrms"), {}); }, {"dw is"});
  expect_refused<ShapeError>([&] { rope_forward(ctx_, t_("q"), t_("norm"), t_("sin")); }, {"cos is (128)", "(70, 16)"});
  expect_refused<ShapeError>([&] { rope_forward(ctx_, t_("q").slice(3, 0, 31), t_("cos"), t_("sin")); }, {"even"});
  expect_refused<ShapeError>(
      [&] { attention_forward(ctx_, t_("att"), t_("att_lse"), t_("q").slice(2, 0, 3), t_("k"), t_("v"), 1); },
      {"3 heads", "multiple of k's 2"});
  expect_refused<ShapeError>([&] { attention_forward(ctx_, t_("att"), t_("lse"), t_("q"), t_("k"), t_("v"), 1); },
                             {"lse is", "(2, 4, 70)"});
  const Tensor k = t_.sequence("k"), v = t_.sequence("v"), q = t_.last("q", 2), y = t_.last("att", 2);
  expect_refused<ShapeError>([&] { attention_cached_forward(ctx_, y, q.slice(1, 0, 3), k, v, 1); }, {"y is"});
  expect_refused<ShapeError>([&] { attention_cached_forward(ctx_, y.slice(1, 0, 3), q.slice(1, 0, 3), k, v, 1); },
                             {"3 heads", "multiple of k's 2"});
  expect_refused<ShapeError>([&] { attention_cached_forward(ctx_, y, q, k, v.slice(0, 0, 5), 1); }, {"v is"});
  expect_refused<ShapeError>([&] { attention_cached_forward(ctx_, y, q, k.slice(0, 0, 1), v.slice(0, 0, 1), 1); },
                             {"q has 2 tokens, expected at most k's 1"});
  expect_refused<ShapeError>([&] { swiglu_forward(ctx_, t_("y"), t_("gate"), t_("up")); }, {"y is"});
  expect_refused<ShapeError>(
      [&] { lm_head_loss_forward(ctx_, t_("lse"), t_("lse"), t_("x"), t_("table"), t_.tokens()); },
      {"loss is (140)", "(1)"});
  expect_refused<ShapeError>([&] { adamw_step(ctx_, t_("w"), t_("w"), t_("v2"), t_("dw"), {}); }, {"v is (500, 128)"});
  expect_refused<ShapeError>([&] { add(ctx_, t_("x"), t_("y"), t_("w")); }, {"b is"});
  expect_refused<ShapeError>([&] { accumulate(ctx_, t_("dw"), t_("x"), 1); },
                             {"accumulate", "y is (300, 128)", "expected (140, 128)"});
  expect_refused<ShapeError>([&] { squared_norm(ctx_, t_("lse"), t_("w")); }, {"sum is"});
}

TEST_F(RefusalTest, EmptyAndMissingTensors) {
  expect_refused<ShapeError>([&] { linear_forward(ctx_, t_("hidden"), t_("x").slice(0, 0, 0), t_("w")); },
                             {"x is (0, 128)", "at least one element"});
  expect_refused<ShapeError>(
      [&] {
        swiglu_forward(ctx_, Tensor(nullptr, {kRows, kHidden}, Dtype::kF32), t_("gate"), t_("up"));
      },
      {"y has no memory"});
}

TEST_F(RefusalTest, StridesThatAnOperationCannotRead) {
  const Tensor x = t_("x");
  const Tensor narrow(x.data(), {kRows, 8}, {4, 1}, Dtype::kF32, Device::kCpu);
  const Tensor columns(x.data(), {kChannels, kRows}, {1, kChannels}, Dtype::kF32, Device::kCpu);
  const Tensor wide(x.data(), {kRows, kChannels / 2}, {kChannels, 1}, Dtype::kF32, Device::kCpu);
  expect_refused<ShapeError>([&] { swiglu_forward(ctx_, narrow, narrow, narrow); },
                             {"strides (4, 1)", "do not overlap"});
  expect_refused<ShapeError>([&] { swiglu_forward(ctx_, columns, columns, columns); }, {"last stride of 1"});
  expect_refused<ShapeError>([&] { add(ctx_, wide, wide, wide); }, {"expected contiguous"});
}

TEST_F(RefusalTest, WrongDtypesAndDevices) {
  const Tensor bf16(t_("x").data(), {kRows, kChannels}, Dtype::kBf16);
  expect_refused<DtypeError>([&] { linear_forward(ctx_, t_("hidden"), bf16, t_("w")); },
                             {"linear_forward", "bf16", "expected"});
  if (device_->backend().computes_in(Dtype::kBf16)) {
    expect_refused<DtypeError>([&] { linear_forward(ctx_, t_("hidden"), bf16, t_("w")); },
                               {"w is f32, expected bf16 as x is"});
    expect_refused<DtypeError>([&] { add(ctx_, bf16, t_("x"), t_("y")); }, {"y is bf16, expected f32 as a is"});
  }
  expect_refused<DtypeError>([&] { embedding_forward(ctx_, t_("y"), t_("lse"), t_("table")); },
                             {"tokens is f32", "i32"});
  expect_refused<DtypeError>(
      [&] { rmsnorm_forward(ctx_, t_("y"), Tensor(t_("rrms").data(), {kRows}, Dtype::kI32), t_("x"), t_("norm"), 0); },
      {"rrms is i32", "expected f32"});
  expect_refused<DtypeError>([&] { accumulate(ctx_, bf16, t_("x"), 1); }, {"accumulate", "y is bf16", "expected f32"});
  const Tensor half(t_("q").data(), {2, kHeads, kHeadDim}, Dtype::kBf16);
  expect_refused<DtypeError>(
      [&] { attention_cached_forward(ctx_, t_.last("att", 2), half, t_.sequence("k"), t_.sequence("v"), 1); },
      {"attention_cached_forward", "q is bf16", "expected f32"});
  const Tensor cuda(t_("x").data(), {kRows, kChannels}, contiguous_strides({kRows, kChannels}), Dtype::kF32,
                    Device::kCuda);
  expect_refused<DtypeError>([&] { add(ctx_, cuda, t_("x"), t_("y")); }, {"y lives on cuda", "expected cpu"});
}

TEST_F(RefusalTest, SharedMemory) {
  const Tensor x = t_("x");
  expect_refused<ShapeError>(
      [&] { rmsnorm_forward(ctx_, x.slice(0, 1, 9), t_("rrms").slice(0, 0, 9), x.slice(0, 0, 9), t_("norm"), 0); },
      {"y shares memory with x"});
  expect_refused<ShapeError>([&] { swiglu_backward(ctx_, t_("up"), t_("dup"), t_("hidden"), t_("gate"), t_("up")); },
                             {"dgate shares memory with up"});
  expect_refused<ShapeError>([&] { adamw_step(ctx_, t_("table"), t_("m"), t_("m"), t_("dtable"), {}); },
                             {"m shares memory with v"});
  expect_refused<ShapeError>([&] { attention_forward(ctx_, t_("q"), t_("att_lse"), t_("q"), t_("k"), t_("v"), 1); },
                             {"y shares memory with q"});
  const Tensor q = t_.last("q", 2);
  expect_refused<ShapeError>([&] { attention_cached_forward(ctx_, q, q, t_.sequence("k"), t_.sequence("v"), 1); },
                             {"y shares memory with q"});
  expect_refused<ShapeError>([&] { cast(ctx_, x, x); }, {"y shares memory with x"});
  expect_refused<ShapeError>([&] { accumulate(ctx_, x, x, 1); }, {"accumulate", "y shares memory with x"});
}

// Columns of one buffer share its rows, but no element.
TEST_F(RefusalTest, ColumnsOfOneBufferAreNoSharedMemory) {
  const Tensor left = t_("hidden").slice(1, 0, 150), right = t_("hidden").slice(1, 150, 150);
  const Tensor up = t_("up").slice(1, 0, 150);
  swiglu_backward(ctx_, left, right, t_("dgate").slice(1, 0, 150), t_("gate").slice(1, 0, 150), up);
  expect_refused<ShapeError>([&] { swiglu_backward(ctx_, left, t_("hidden").slice(1, 149, 150), up, left, up); },
                             {"dgate shares memory with dup"});
}

TEST_F(RefusalTest, TooLittleOrMisalignedWorkspace) {
  const auto attend = [&] { attention_forward(ctx_, t_("att"), t_("att_lse"), t_("q"), t_("k"), t_("v"), 1); };
  const auto loss = [&] { lm_head_loss_forward(ctx_, t_("loss"), t_("lse"), t_("x"), t_("table"), t_.tokens()); };
  const std::span<std::byte> whole = ctx_.workspace;
  ctx_.workspace = whole.first(1000);
  expect_refused<ShapeError>(attend, {"the workspace has 1000 bytes, expected at least"});
  expect_refused<ShapeError>(loss, {"the workspace has 1000 bytes"});
  expect_refused<ShapeError>(
      [&] {
        attention_cached_forward(ctx_, t_.last("att", 2), t_.last("q", 2), t_.sequence("k"), t_.sequence("v"), 1);
      },
      {"the workspace has 1000 bytes"});
  ctx_.workspace = whole.subspan(4);
  expect_refused<ShapeError>([&] { squared_norm(ctx_, t_("loss"), t_("w")); }, {"not aligned"});
}

TEST_F(RefusalTest, WorkspacesThatOverflow) {
  const int64_t huge = std::numeric_limits<int64_t>::max() / 2;
  EXPECT_THROW(attention_workspace_bytes(ctx_, 1, huge, 1, 1, 64), ShapeError);
  EXPECT_THROW(attention_workspace_bytes(ctx_, huge, 16, huge, huge, 64), ShapeError);
  EXPECT_THROW(attention_cached_workspace_bytes(ctx_, huge, 16, 1, 64), ShapeError);
  EXPECT_THROW(attention_cached_workspace_bytes(ctx_, 1, 1, 1, huge), ShapeError);
  EXPECT_THROW(lm_head_workspace_bytes(ctx_, huge, 64, huge, Dtype::kBf16), ShapeError);
  EXPECT_THROW(rmsnorm_backward_workspace_bytes(ctx_, huge), ShapeError);
}

TEST_F(RefusalTest, AdamwCountsStepsFromOne) {
  AdamWStep step;
  step.step = 0;
  expect_refused<ShapeError>([&] { adamw_step(ctx_, t_("table"), t_("m"), t_("v2"), t_("dtable"), step); },
                             {"step is 0", "at least 1"});
}

TEST_F(RefusalTest, AdamwCannotDecayLessThanNothing) {
  AdamWStep step;
  step.decayed = -1;
  expect_refused<ShapeError>([&] { adamw_step(ctx_, t_("table"), t_("m"), t_("v2"), t_("dtable"), step); },
                             {"adamw_step", "-1 elements decay", "at least 0"});
}

}  // namespace
}  // namespace skippipe::testing
