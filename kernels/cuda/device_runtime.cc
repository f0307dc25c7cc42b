#include "kernels/cuda/device_runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/errors.h"
#include "kernels/host_runtime.h"
#ifdef SKIPPIPE_HAS_NCCL
#include "kernels/cuda/nccl_communicator.h"
#endif

namespace skippipe::cuda {
namespace {

class Event {
 public:
  explicit Event(unsigned flags) { SKP_CUDA(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

cudaStream_t cuda_stream(Stream stream) { return static_cast<cudaStream_t>(stream); }
size_t taken_bytes(int64_t bytes) { return static_cast<size_t>(std::max<int64_t>(bytes, 1)); }

class CapturedGraph final : public Graph {
 public:
  explicit CapturedGraph(cudaGraph_t graph) { SKP_CUDA(cudaGraphInstantiateWithFlags(&executable_, graph, 0)); }
  ~CapturedGraph() override { (void)cudaGraphExecDestroy(executable_); }

  void replay(Stream stream) override { SKP_CUDA(cudaGraphLaunch(executable_, cuda_stream(stream))); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// What a stream records, until it ends; also where recording fails.
class Capture {
 public:
  explicit Capture(Stream stream) : stream_(cuda_stream(stream)) {
    SKP_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  }
  ~Capture() {
    if (!ended_) {
      (void)cudaStreamEndCapture(stream_, &graph_);
      (void)cudaGetLastError();  // that recording failed is known
    }
    if (graph_ != nullptr) (void)cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaGraph_t end() {
    ended_ = true;
    SKP_CUDA(cudaStreamEndCapture(stream_, &graph_));
    return graph_;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool ended_ = false;
};

void run_and_delete(void* notify) {
  const std::unique_ptr<std::function<void()>> owned(static_cast<std::function<void()>*>(notify));
  (*owned)();
}

class DeviceRuntime final : public Runtime {
 public:
  explicit DeviceRuntime(int device) : device_(device) { use_on_this_thread(); }

  void use_on_this_thread() override { SKP_CUDA(cudaSetDevice(device_)); }

  // An error here is one of an earlier call, which another call will report.
  void release(Place place, void* memory, int64_t) noexcept override {
    (void)(place == Place::kDevice ? cudaFree(memory) : cudaFreeHost(memory));
  }

  AvailableMemory available(Place place) override {
    if (place == Place::kHost) return read_host_memory().tightest();
    size_t free = 0, all = 0;
    SKP_CUDA(cudaMemGetInfo(&free, &all));
    return {static_cast<int64_t>(free), "free on the GPU"};
  }
  AvailableMemory available_to_all(Place place) override {
    return place == Place::kHost ? read_host_memory().shared : available(place);
  }

  Stream make_stream() override {
    cudaStream_t stream = nullptr;
    SKP_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
  void destroy_stream(Stream stream) noexcept override { (void)cudaStreamDestroy(cuda_stream(stream)); }

  void copy(Stream stream, void* to, const void* from, int64_t bytes) override {
    SKP_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, cuda_stream(stream)));
  }

  // A stream waits for the event as it was recorded last, so that one event serves all.
  void wait_for(Stream stream, Stream other) override {
    const std::lock_guard lock(mutex_);
    SKP_CUDA(cudaEventRecord(event_.get(), cuda_stream(other)));
    SKP_CUDA(cudaStreamWaitEvent(cuda_stream(stream), event_.get(), 0));
  }

  // Once the device has failed it makes no calls, and what they hold is never freed.
  void call(Stream stream, std::function<void()> notify) override {
    cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
    SKP_CUDA(cudaStreamIsCapturing(cuda_stream(stream), &recording));
    if (recording != cudaStreamCaptureStatusNone)  // each replay would make the call, which is deleted with the first
      throw DeviceError("a stream that records a graph takes no calls");
    auto owned = std::make_unique<std::function<void()>>(std::move(notify));
    SKP_CUDA(cudaLaunchHostFunc(cuda_stream(stream), run_and_delete, owned.get()));
    (void)owned.release();
  }

  void finish(Stream stream) override { SKP_CUDA(cudaStreamSynchronize(cuda_stream(stream))); }

  bool finished(Stream stream) override {
    const cudaError_t code = cudaStreamQuery(cuda_stream(stream));
    if (code == cudaErrorNotReady) {
      (void)cudaGetLastError();  // no error, but libraries that ask for the last one would take it for theirs
      return false;
    }
    check_cuda(code, {"cudaStreamQuery", __FILE__, __LINE__});
    return true;
  }

  double seconds(Stream stream, const std::function<void()>& queue_work) override {
    const Event start(cudaEventBlockingSync), stop(cudaEventBlockingSync);
    SKP_CUDA(cudaEventRecord(start.get(), cuda_stream(stream)));
    queue_work();
    SKP_CUDA(cudaEventRecord(stop.get(), cuda_stream(stream)));
    SKP_CUDA(cudaEventSynchronize(stop.get()));
    float milliseconds = 0;
    SKP_CUDA(cudaEventElapsedTime(&milliseconds, start.get(), stop.get()));
    return 1e-3 * static_cast<double>(milliseconds);
  }

  std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& work) override {
    Capture capture(stream);
    work();
    return std::make_unique<CapturedGraph>(capture.end());
  }

#ifdef SKIPPIPE_HAS_NCCL
  std::unique_ptr<CommunicatorLibrary> load_communicators() override { return load_nccl(*this); }
#endif

 private:
  void* do_allocate(Place place, int64_t bytes) override {
    const size_t taken = taken_bytes(bytes);
    void* memory = nullptr;
    const cudaError_t code =
        place == Place::kDevice ? cudaMalloc(&memory, taken) : cudaHostAlloc(&memory, taken, cudaHostAllocPortable);
    if (code == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw MemoryError("device {} refused {} bytes {}", device_, bytes,
                        place == Place::kDevice ? "of its memory" : "of pinned memory on the host");
    }
    check_cuda(code, {place == Place::kDevice ? "cudaMalloc" : "cudaHostAlloc", __FILE__, __LINE__});
    if (place == Place::kHost) return std::memset(memory, 0, taken);
    // Streams do not wait for the default stream, so it is waited for here.
    SKP_CUDA(cudaMemset(memory, 0, taken));
    SKP_CUDA(cudaStreamSynchronize(nullptr));
    return memory;
  }

  const int device_;
  std::mutex mutex_;
  Event event_{cudaEventDisableTiming};
};

}  // namespace

std::unique_ptr<Runtime> make_device_runtime(int device) {
  // A wish: where the device is in use already it can't be changed.
  SKP_CUDA(cudaSetDevice(device));
  if (cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync) != cudaSuccess) (void)cudaGetLastError();
  return std::make_unique<DeviceRuntime>(device);
}

}  // namespace skippipe::cuda
