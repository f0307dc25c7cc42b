// bench_kernels: times every operation at the shapes of one training step and relates it to the machine's ceilings,
// oneDNN's f32 matrix-product rate or memory bandwidth, measured in the same run. Verifies before it times.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/attention_cached.h"
#include "kernels/cpu_backend.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/lm_head.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace skippipe {
namespace {

struct Options {
  int threads = 2;
  int repeats = 15;
  int64_t batch = 8, tokens = 512, channels = 512, heads = 8, kv_heads = 8, hidden = 1376, vocabulary = 4096;
};

// Memory for tensors, 64-byte aligned, kept until the end.
class Pool {
 public:
  Tensor make(const Dims& shape, Dtype dtype = Dtype::kF32) {
    const Tensor tensor(allocate(element_count(shape) * dtype_bytes(dtype)).data(), shape, dtype);
    if (dtype == Dtype::kF32)
      for (int64_t i = 0; i < tensor.elements(); ++i)
        tensor.as<float>()[i] = static_cast<float>(random_.uniform(-1, 1));
    return tensor;
  }
  std::span<std::byte> allocate(int64_t bytes) {
    blocks_.emplace_back(static_cast<size_t>(bytes) + 64);
    std::byte* start = blocks_.back().data();
    return {start + (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64, static_cast<size_t>(bytes)};
  }
  Random& random() { return random_; }

 private:
  std::vector<std::vector<std::byte>> blocks_;
  Random random_{1};
};

struct Timing {
  double median_s, low_s, high_s;  // quartiles
};

Timing time_it(const std::function<void()>& run, int repeats) {
  using Clock = std::chrono::steady_clock;
  run();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds[seconds.size() / 4], seconds[seconds.size() * 3 / 4]};
}

// Prints one line per operation, as a share of the ceiling that binds it.
class Report {
 public:
  Report(int repeats, double peak_flops, double peak_bandwidth)
      : repeats_(repeats), peak_flops_(peak_flops), peak_bandwidth_(peak_bandwidth) {}

  void compute(const char* name, double flops, const std::function<void()>& run) {
    line(name, flops, 1e9, "GFLOP/s", peak_flops_, run);
  }
  void memory(const char* name, double bytes, const std::function<void()>& run) {
    line(name, bytes, 1e9, "GB/s", peak_bandwidth_, run);
  }

 private:
  void line(const char* name, double work, double unit, const char* unit_name, double peak,
            const std::function<void()>& run) {
    const Timing t = time_it(run, repeats_);
    fmt::print("{:<26} {:9.3f} ms  [{:.3f}, {:.3f}]  {:7.1f} {:<8} {:4.0f} % of the ceiling\n", name, t.median_s * 1e3,
               t.low_s * 1e3, t.high_s * 1e3, work / t.median_s / unit, unit_name, 100 * work / t.median_s / peak);
    std::fflush(stdout);
  }

  int repeats_;
  double peak_flops_, peak_bandwidth_;
};

// Largest difference between two results that should agree, relative to the largest value.
double distance(const Tensor& a, const Tensor& b) {
  double worst = 0, size = 0;
  for (int64_t i = 0; i < a.elements(); ++i) {
    worst = std::max(worst, static_cast<double>(std::abs(a.as<float>()[i] - b.as<float>()[i])));
    size = std::max(size, static_cast<double>(std::abs(b.as<float>()[i])));
  }
  return worst / size;
}

void require(const char* what, double error) {
  if (!(error < 1e-4)) throw Error(fmt::format("{} is wrong by {:.2e}: not timing it", what, error));
}

// Attention and the loss agree with plain loops on a few rows; the rest is covered by tests/kernels.
void verify(Context& ctx, Pool& pool) {
  const int64_t tokens = 150, dim = 64;
  const Tensor q = pool.make({1, tokens, 1, dim}), k = pool.make({1, tokens, 1, dim}),
               v = pool.make({1, tokens, 1, dim}), y = pool.make({1, tokens, 1, dim}),
               expected = pool.make({1, tokens, 1, dim}), lse = pool.make({1, 1, tokens});
  attention_forward(ctx, y, lse, q, k, v, 0.125f);
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> p(static_cast<size_t>(t + 1), 0.0), out(static_cast<size_t>(dim), 0.0);
    double sum = 0;
    for (int64_t s = 0; s <= t; ++s) {
      for (int64_t d = 0; d < dim; ++d) p[s] += 0.125 * q.as<float>()[t * dim + d] * k.as<float>()[s * dim + d];
      sum += p[s] = std::exp(p[s]);
    }
    for (int64_t s = 0; s <= t; ++s)
      for (int64_t d = 0; d < dim; ++d) out[d] += p[s] / sum * v.as<float>()[s * dim + d];
    for (int64_t d = 0; d < dim; ++d) expected.as<float>()[t * dim + d] = static_cast<float>(out[d]);
  }
  require("attention_forward", distance(y, expected));

  const Tensor x = pool.make({70, 90}), w = pool.make({50, 90}), out = pool.make({70, 50}), plain = pool.make({70, 50});
  linear_forward(ctx, out, x, w);
  for (int64_t n = 0; n < 70; ++n)
    for (int64_t o = 0; o < 50; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < 90; ++i)
        sum += static_cast<double>(x.as<float>()[n * 90 + i]) * w.as<float>()[o * 90 + i];
      plain.as<float>()[n * 50 + o] = static_cast<float>(sum);
    }
  require("linear_forward", distance(out, plain));
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

void bench_products(Context& ctx, Pool& pool, Report& report, const Options& o) {
  const int64_t rows = o.batch * o.tokens, fused = 2 * o.hidden;
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(fused) * static_cast<double>(o.channels);
  const Tensor x = pool.make({rows, o.channels}), w = pool.make({fused, o.channels}), y = pool.make({rows, fused}),
               dx = pool.make({rows, o.channels}), dw = pool.make({fused, o.channels});
  report.compute("linear_forward", flops, [&] { linear_forward(ctx, y, x, w); });
  report.compute("linear_backward_input", flops, [&] { linear_backward_input(ctx, dx, y, w); });
  report.compute("linear_backward_weight", flops, [&] { linear_backward_weight(ctx, dw, y, x); });
}

void bench_attention(Context& ctx, Pool& pool, Report& report, const Options& o) {
  const int64_t dim = o.channels / o.heads, kv = o.kv_heads * dim;
  // As the engine holds them: columns of one fused projection.
  const auto view = [&](const Tensor& fused, int64_t first, int64_t heads) {
    const int64_t width = fused.dim(1);
    return Tensor(fused.as<float>() + first, {o.batch, o.tokens, heads, dim}, {o.tokens * width, width, dim, 1},
                  Dtype::kF32, Device::kCpu);
  };
  const Tensor qkv = pool.make({o.batch * o.tokens, o.channels + 2 * kv}),
               dqkv = pool.make({o.batch * o.tokens, o.channels + 2 * kv});
  const Tensor q = view(qkv, 0, o.heads), k = view(qkv, o.channels, o.kv_heads),
               v = view(qkv, o.channels + kv, o.kv_heads);
  const Tensor dq = view(dqkv, 0, o.heads), dk = view(dqkv, o.channels, o.kv_heads),
               dv = view(dqkv, o.channels + kv, o.kv_heads);
  const Tensor y = pool.make(q.shape()), dy = pool.make(q.shape()), lse = pool.make({o.batch, o.heads, o.tokens});
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  // Of one product of scores; only pairs that the mask lets through count.
  const double product =
      static_cast<double>(o.batch * o.heads * dim) * static_cast<double>(o.tokens) * static_cast<double>(o.tokens + 1);
  report.compute("attention_forward", 2 * product, [&] { attention_forward(ctx, y, lse, q, k, v, scale); });
  report.compute("attention_backward", 5 * product,
                 [&] { attention_backward(ctx, dq, dk, dv, dy, q, k, v, y, lse, scale); });
  const Tensor cos = pool.make({o.tokens, dim / 2}), sin = pool.make({o.tokens, dim / 2});
  report.memory("rope_forward (q, k)", 2.0 * static_cast<double>(o.batch * o.tokens * (o.channels + kv) * 4), [&] {
    rope_forward(ctx, dq, cos, sin);
    rope_forward(ctx, dk, cos, sin);
  });
}

// One token of a sequence as long as the whole batch, and a chunk of a prompt at its end.
void bench_attention_cached(Context& ctx, Pool& pool, Report& report, const Options& o) {
  const int64_t dim = o.channels / o.heads, positions = o.batch * o.tokens, chunk = std::min<int64_t>(64, positions);
  const Tensor k = pool.make({positions, o.kv_heads, dim}), v = pool.make(k.shape()),
               q = pool.make({chunk, o.heads, dim}), y = pool.make(q.shape());
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  report.memory("attention_cached, 1 query", 2.0 * static_cast<double>(k.bytes()),
                [&] { attention_cached_forward(ctx, y.slice(0, 0, 1), q.slice(0, 0, 1), k, v, scale); });
  const double flops = 4.0 * static_cast<double>(o.heads * dim) * static_cast<double>(chunk) *
                       (static_cast<double>(positions) - static_cast<double>(chunk - 1) / 2);
  report.compute("attention_cached, chunk", flops, [&] { attention_cached_forward(ctx, y, q, k, v, scale); });
}

void bench_lm_head(Context& ctx, Pool& pool, Report& report, const Options& o) {
  const int64_t rows = o.batch * o.tokens;
  const Tensor h = pool.make({rows, o.channels}), w = pool.make({o.vocabulary, o.channels}),
               dh = pool.make({rows, o.channels}), dw = pool.make({o.vocabulary, o.channels}), loss = pool.make({1}),
               lse = pool.make({rows}), ids = pool.make({rows}, Dtype::kI32);
  for (int64_t n = 0; n < rows; ++n)
    ids.as<int32_t>()[n] = static_cast<int32_t>(pool.random().below(static_cast<uint64_t>(o.vocabulary)));
  const double flops = 2.0 * static_cast<double>(rows * o.channels) * static_cast<double>(o.vocabulary);
  report.compute("lm_head_loss_forward", flops, [&] { lm_head_loss_forward(ctx, loss, lse, h, w, ids); });
  report.compute("lm_head_loss_backward", 3 * flops,
                 [&] { lm_head_loss_backward(ctx, dh, dw, h, w, ids, lse, 1e-3f); });
  const double bytes = static_cast<double>(h.bytes());
  report.memory("embedding_forward", 2 * bytes, [&] { embedding_forward(ctx, dh, ids, w); });
  report.memory("embedding_backward", 3 * bytes, [&] { embedding_backward(ctx, dw, dh, ids); });
}

void bench_memory_bound(Context& ctx, Pool& pool, Report& report, const Options& o) {
  const int64_t rows = o.batch * o.tokens;
  const Tensor x = pool.make({rows, o.channels}), y = pool.make({rows, o.channels}), r = pool.make({rows, o.channels}),
               sum = pool.make({rows, o.channels}), w = pool.make({o.channels}), dw = pool.make({o.channels}),
               rrms = pool.make({rows});
  const double bytes = static_cast<double>(x.bytes());
  report.memory("rmsnorm_forward", 2 * bytes, [&] { rmsnorm_forward(ctx, y, rrms, x, w, 1e-5f); });
  report.memory("add_rmsnorm_forward", 4 * bytes, [&] { add_rmsnorm_forward(ctx, y, sum, rrms, x, r, w, 1e-5f); });
  report.memory("rmsnorm_backward", 4 * bytes, [&] { rmsnorm_backward(ctx, r, dw, y, x, w, rrms, r); });
  report.memory("add", 3 * bytes, [&] { add(ctx, y, x, r); });

  const Tensor gate_up = pool.make({rows, 2 * o.hidden}), hidden = pool.make({rows, o.hidden});
  const Tensor gate = gate_up.slice(1, 0, o.hidden), up = gate_up.slice(1, o.hidden, o.hidden);
  const double hidden_bytes = static_cast<double>(hidden.bytes());
  report.memory("swiglu_forward", 3 * hidden_bytes, [&] { swiglu_forward(ctx, hidden, gate, up); });
  report.memory("swiglu_backward", 5 * hidden_bytes, [&] { swiglu_backward(ctx, gate, up, hidden, gate, up); });

  const int64_t parameters = 8 << 20;
  const Tensor p = pool.make({parameters}), m = pool.make({parameters}), v = pool.make({parameters}),
               g = pool.make({parameters}), norm = pool.make({1}), half = pool.make({parameters}, Dtype::kBf16);
  fill_zero(ctx, v);
  AdamWStep step;
  step.learning_rate = 1e-4f;
  const double parameter_bytes = static_cast<double>(p.bytes());
  report.memory("adamw_step", 7 * parameter_bytes, [&] { adamw_step(ctx, p, m, v, g, step); });
  report.memory("squared_norm", parameter_bytes, [&] { squared_norm(ctx, norm, g); });
  report.memory("cast f32 to bf16", 1.5 * parameter_bytes, [&] { cast(ctx, half, g); });
  report.memory("fill_zero", parameter_bytes, [&] { fill_zero(ctx, g); });
}

double matmul_ceiling(Context& ctx, Pool& pool, int repeats) {
  const Tensor a = pool.make({1024, 1024}), b = pool.make({1024, 1024}), c = pool.make({1024, 1024});
  return 2.0 * 1024 * 1024 * 1024 / time_it([&] { linear_backward_input(ctx, c, a, b); }, 2 * repeats).median_s;
}

// The triad of STREAM (McCalpin 1995), a = b + s c, over arrays that no cache holds; plain stores, counted as 3
// streams.
double triad_ceiling(int threads, int repeats) {
  const int64_t count = 32 << 20;
  std::vector<float> a(count), b(count, 1.0f), c(count, 2.0f);
  const auto triad = [to = a.data(), left = b.data(), right = c.data(), count, threads] {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) to[i] = left[i] + 3.0f * right[i];
  };
  return 3.0 * static_cast<double>(count) * sizeof(float) / time_it(triad, repeats).median_s;
}

void bench(const Options& o) {
  const auto backend = make_cpu_backend();
  Context ctx{backend.get(), o.threads, {}, nullptr};
  Pool pool;
  const int64_t rows = o.batch * o.tokens;
  ctx.workspace =
      pool.allocate(std::max({attention_workspace_bytes(ctx, o.batch, std::max<int64_t>(o.tokens, 150), o.heads,
                                                        o.kv_heads, std::max<int64_t>(o.channels / o.heads, 64)),
                              attention_cached_workspace_bytes(ctx, 64, o.heads, o.kv_heads, o.channels / o.heads),
                              lm_head_workspace_bytes(ctx, rows, o.channels, o.vocabulary, Dtype::kF32),
                              rmsnorm_backward_workspace_bytes(ctx, o.channels), squared_norm_workspace_bytes(ctx)}));
  verify(ctx, pool);
  const double flops = matmul_ceiling(ctx, pool, o.repeats), bandwidth = triad_ceiling(o.threads, o.repeats);
  fmt::print("{}, {} threads\nceilings: oneDNN f32 1024^3 {:.1f} GFLOP/s, stream triad {:.1f} GB/s\n", processor(),
             o.threads, flops * 1e-9, bandwidth * 1e-9);
  fmt::print(
      "B={} T={} C={} H={} K={} F={} V={}; median of {} and quartiles; data that stays in cache beats the triad\n",
      o.batch, o.tokens, o.channels, o.heads, o.kv_heads, o.hidden, o.vocabulary, o.repeats);
  Report report(o.repeats, flops, bandwidth);
  bench_products(ctx, pool, report, o);
  bench_attention(ctx, pool, report, o);
  bench_attention_cached(ctx, pool, report, o);
  bench_lm_head(ctx, pool, report, o);
  bench_memory_bound(ctx, pool, report, o);
}

}  // namespace
}  // namespace skippipe

int main(int argc, char** argv) {
  skippipe::Options options;
  CLI::App app("Times every operation and relates it to the machine's ceilings.");
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--batch", options.batch)->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--tokens", options.tokens)->check(CLI::Range(1, 65536))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  fmt::print("command:");
  for (int i = 0; i < argc; ++i) fmt::print(" {}", argv[i]);
  fmt::print("\n");
  try {
    skippipe::bench(options);
  } catch (const skippipe::Error& error) {
    fmt::print(stderr, "bench_kernels: {}\n", error.what());
    return 1;
  }
  return 0;
}
