#include "kernels/cuda_timer.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/errors.h"

namespace skippipe {
namespace {

class Event {
 public:
  Event() { SKP_CUDA(cudaEventCreate(&event_)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

double cuda_seconds(void* stream, const std::function<void()>& queue_work) {
  const Event start, stop;
  SKP_CUDA(cudaEventRecord(start.get(), static_cast<cudaStream_t>(stream)));
  queue_work();
  SKP_CUDA(cudaEventRecord(stop.get(), static_cast<cudaStream_t>(stream)));
  SKP_CUDA(cudaEventSynchronize(stop.get()));
  float milliseconds = 0;
  SKP_CUDA(cudaEventElapsedTime(&milliseconds, start.get(), stop.get()));
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace skippipe
