#include "tools/verbs/cpu_remarks.h"

#include <fmt/format.h>

#include <csignal>
#include <future>
#include <system_error>

#include "base/error.h"
#include "kernels/cpu_backend.h"

namespace skippipe {
namespace {

// On a thread of its own, with which the threads of OpenMP end that it began; signals go to others.
template <typename Work>
auto apart(const ComputeChoice& choice, const Work& work) try {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const struct Restore {
    const sigset_t& mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } restore{before};
  return std::async(std::launch::async, work).get();
} catch (const ConfigError& error) {
  throw ConfigError("{} = {}: {}", choice.option, choice.threads, error.what());
} catch (const std::system_error& error) {
  throw ConfigError("{} = {}: the system makes no thread: {}", choice.option, choice.threads, error.what());
}

CpuThreads threads_of(const ComputeChoice& choice) {
  return apart(choice, [&] { return cpu_threads(choice.threads); });
}

void remark(const std::string& text) { fmt::print(stderr, "note: {}\n", text); }

}  // namespace

int usable_threads(const ComputeChoice& choice) {
  return choice.device.device == Device::kCpu ? threads_of(choice).count : choice.threads;
}

void print_cpu_remarks(const ComputeChoice& choice) {
  if (choice.device.device != Device::kCpu) return;
  const CpuThreads threads = threads_of(choice);
  if (threads.count < choice.threads)
    remark(fmt::format("{} = {}: computing with {}, as {}", choice.option, choice.threads, threads.count,
                       threads.why_fewer));
  const auto backend = make_cpu_backend();
  if (choice.dtype != Dtype::kBf16 || !backend->computes_in(choice.dtype)) return;
  const double rate = apart(choice, [&] { return bf16_over_f32_rate(*backend); });
  if (const std::string slow = describe_slow_bf16(rate); !slow.empty()) remark(slow);
}

}  // namespace skippipe
