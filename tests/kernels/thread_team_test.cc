#include "kernels/cpu/thread_team.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "kernels/matmul.h"

namespace skippipe::testing {
namespace {

// Settings of OpenMP are a thread's own: those that a test makes end with it.
void on_another_thread(const std::function<void()>& work) { std::thread(work).join(); }

// With OMP_DYNAMIC, OpenMP gives no more threads than there are processors, and fewer while these are busy.
void run_where_threads_are_fewer() {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  omp_set_dynamic(1);
  ASSERT_EQ(cpu::measure_team(3), 1);
}

// Columns enough for oneDNN to give each thread some. Each element is the number of its column.
void expect_right_product(Backend& backend, int threads) {
  constexpr int64_t kRows = 64, kInner = 96, kColumns = 512;
  std::vector<float> x(kRows * kInner, 1.0f), w(kColumns * kInner), y(kRows * kColumns, std::nanf(""));
  for (int64_t c = 0; c < kColumns; ++c) w[static_cast<size_t>(c * kInner)] = static_cast<float>(c);
  Context context;
  context.backend = &backend;
  context.threads = threads;
  linear_forward(context, Tensor(y.data(), {kRows, kColumns}, Dtype::kF32),
                 ConstTensor(x.data(), {kRows, kInner}, Dtype::kF32),
                 ConstTensor(w.data(), {kColumns, kInner}, Dtype::kF32));
  int64_t wrong = 0;
  for (int64_t i = 0; i < kRows * kColumns; ++i) wrong += y[static_cast<size_t>(i)] != static_cast<float>(i % kColumns);
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadTeam, ProductsAreRightWhateverOpenMpGives) {
  const auto backend = make_cpu_backend();
  on_another_thread([&] {
    expect_right_product(*backend, 3);
    omp_set_max_active_levels(0);  // the products that it keeps are of three threads
    expect_right_product(*backend, 3);
    omp_set_max_active_levels(1);
    expect_right_product(*backend, 3);
  });
  on_another_thread([&] {
    run_where_threads_are_fewer();
    expect_right_product(*backend, 3);
    EXPECT_EQ(omp_get_dynamic(), 1) << "what libraries need is not left behind";
  });
}

TEST(ThreadTeam, SaysHowManyThreadsThereAreAndWhyTheyAreFewer) {
  EXPECT_EQ(cpu_threads(1).count, 1);
  on_another_thread([] {
    const CpuThreads all = cpu_threads(3);
    EXPECT_EQ(all.count, 3);
    EXPECT_EQ(all.why_fewer, "");
    omp_set_max_active_levels(0);
    const CpuThreads fewer = cpu_threads(3);
    EXPECT_EQ(fewer.count, 1);
    EXPECT_EQ(fewer.why_fewer, "OMP_MAX_ACTIVE_LEVELS is 0");
  });
  on_another_thread([] {
    run_where_threads_are_fewer();
    EXPECT_EQ(cpu_threads(3).count, 3) << "products have them all";
  });
}

TEST(ThreadTeam, IsMeasuredAgainWhereSettingsDiffer) {
  cpu::TeamForLibraries::Known known;
  const auto team_of = [&](int asked) { return cpu::TeamForLibraries(known, asked).size(); };
  on_another_thread([&] {
    const int before = omp_get_max_threads();
    EXPECT_EQ(team_of(3), 3);
    EXPECT_EQ(team_of(2), 2);
    omp_set_max_active_levels(0);
    EXPECT_EQ(team_of(2), 1);
    EXPECT_EQ(omp_get_max_threads(), before);
  });
  on_another_thread([&] { EXPECT_EQ(team_of(2), 2); });
}

}  // namespace
}  // namespace skippipe::testing
