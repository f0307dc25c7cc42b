#include "tools/bench_kernels/device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/format.h"
#include "kernels/bf16.h"
#include "kernels/cuda_backend.h"
#include "kernels/elementwise.h"

namespace skippipe::bench {
namespace {

constexpr int64_t kPatternElements = (1 << 20) + 64;  // no power of two, so that tensors don't repeat one another
constexpr int64_t kFlushElements = 64 << 20;          // 256 MiB

template <typename T>
std::vector<std::byte> random_bytes(Random& random) {
  std::vector<std::byte> bytes(kPatternElements * sizeof(T));
  for (size_t i = 0; i < bytes.size(); i += sizeof(T)) {
    const T value(static_cast<float>(random.uniform(-1, 1)));
    std::memcpy(&bytes[i], &value, sizeof(T));
  }
  return bytes;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

class Cpu final : public BenchDevice {
 public:
  Cpu(std::unique_ptr<testing::TestDevice> memory, int threads)
      : BenchDevice(std::move(memory), nullptr, nullptr, format("{}, {} threads", processor(), threads), threads) {}

  // By all threads: one alone does not fill the memory's bandwidth.
  void copy(void* to, const void* from, int64_t bytes) override {
    constexpr int64_t kBlock = 1 << 20;
    [[maybe_unused]] const int threads = context().threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < bytes; begin += kBlock)
      std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
                  static_cast<size_t>(std::min(kBlock, bytes - begin)));
  }
  int runs_per_repetition() const override { return 1; }
};

class Gpu final : public BenchDevice {
 public:
  Gpu(std::unique_ptr<testing::TestDevice> memory, std::unique_ptr<Backend> attention_library, const CudaDevice& device)
      : BenchDevice(std::move(memory), std::move(attention_library),
                    device.has_hopper_kernels ? make_cuda_backend(device.index, AttentionKernels::kPortable) : nullptr,
                    format("{}, {} multiprocessors, {:.1f} GB", device.name, device.multiprocessors,
                           1e-9 * static_cast<double>(device.memory_bytes)),
                    1) {}

  void copy(void* to, const void* from, int64_t bytes) override {
    backend().runtime().copy(context().stream, to, from, bytes);
  }
  int runs_per_repetition() const override { return 3; }
};

// A build or machine without cuDNN has no such peer, which is no reason to measure nothing.
std::unique_ptr<Backend> make_attention_library() {
  try {
    return make_cuda_backend(0, AttentionKernels::kCudnn);
  } catch (const DeviceError& error) {
    std::fprintf(stderr, "bench_kernels: attention is timed without cuDNN beside it: %s\n", error.what());
    return nullptr;
  }
}

}  // namespace

BenchDevice::BenchDevice(std::unique_ptr<testing::TestDevice> memory, std::unique_ptr<Backend> attention_library,
                         std::unique_ptr<Backend> portable_attention, std::string description, int threads)
    : memory_(std::move(memory)),
      attention_library_(std::move(attention_library)),
      portable_attention_(std::move(portable_attention)),
      description_(std::move(description)),
      threads_(threads),
      random_f32_(upload(random_bytes<float>(random_))),
      random_bf16_(upload(random_bytes<Bf16>(random_))),
      nan_(upload(std::vector<std::byte>(1 << 20, std::byte{0xff}))) {}

double BenchDevice::seconds(const std::function<void()>& queue_work) {
  return backend().runtime().seconds(context().stream, queue_work);
}

BenchDevice::Pattern BenchDevice::upload(const std::vector<std::byte>& bytes) {
  Pattern pattern{memory_->allocate(bytes.size()), static_cast<int64_t>(bytes.size())};
  memory_->upload(pattern.memory, bytes);
  return pattern;
}

void BenchDevice::tile(const Tensor& x, const Pattern& pattern, int64_t offset) {
  const int64_t bytes = x.bytes();
  for (int64_t done = 0; done < bytes; offset = 0) {
    const int64_t count = std::min(bytes - done, pattern.bytes - offset);
    copy(static_cast<std::byte*>(x.data()) + done, pattern.memory.get() + offset, count);
    done += count;
  }
}

void BenchDevice::fill_random(const Tensor& x) {
  const Pattern& pattern = x.dtype() == Dtype::kBf16 ? random_bf16_ : random_f32_;
  constexpr int64_t kStep = 64;
  tile(x, pattern, kStep * static_cast<int64_t>(random_.below(static_cast<uint64_t>(pattern.bytes / kStep))));
}

void BenchDevice::fill_nan(const Tensor& x) { tile(x, nan_, 0); }

void BenchDevice::flush_caches() {
  if (!flushed_) flushed_ = memory_->allocate(kFlushElements * sizeof(float));
  Context ctx = context();
  fill_zero(ctx, Tensor(flushed_.get(), {kFlushElements}, Dtype::kF32, backend().device()));
}

std::unique_ptr<BenchDevice> make_bench_device(const std::string& backend, int threads, std::string& why_none) {
  auto memory = testing::make_test_device(backend, why_none);
  if (!memory) return nullptr;
  if (memory->backend().device() == Device::kCpu) return std::make_unique<Cpu>(std::move(memory), threads);
  return std::make_unique<Gpu>(std::move(memory), make_attention_library(), find_cuda_devices().list.at(0));
}

}  // namespace skippipe::bench
