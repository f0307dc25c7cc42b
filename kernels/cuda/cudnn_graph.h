// cuDNN's backend API: graphs of operations, and the plans that run them. For host sources only.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/errors.h"

namespace skippipe::cuda {

// Throws DeviceError unless `status` is success.
void check_cudnn(cudnnStatus_t status, const CallSite& site);
#define SKP_CUDNN(call) ::skippipe::cuda::check_cudnn((call), {#call, __FILE__, __LINE__})

// What cuDNN calls the type of an attribute's value.
constexpr auto cudnn_type(bool) { return CUDNN_TYPE_BOOLEAN; }
constexpr auto cudnn_type(int32_t) { return CUDNN_TYPE_INT32; }
constexpr auto cudnn_type(int64_t) { return CUDNN_TYPE_INT64; }
constexpr auto cudnn_type(cudnnDataType_t) { return CUDNN_TYPE_DATA_TYPE; }
constexpr auto cudnn_type(cudnnPointwiseMode_t) { return CUDNN_TYPE_POINTWISE_MODE; }
constexpr auto cudnn_type(cudnnReduceTensorOp_t) { return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE; }
constexpr auto cudnn_type(cudnnBackendHeurMode_t) { return CUDNN_TYPE_HEUR_MODE; }
constexpr auto cudnn_type(cudnnBackendDescriptor_t) { return CUDNN_TYPE_BACKEND_DESCRIPTOR; }

// An object of the API: its attributes are set, then it is finalized and stays as it is.
class CudnnObject {
 public:
  explicit CudnnObject(cudnnBackendDescriptorType_t type);
  CudnnObject(CudnnObject&& other) noexcept : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  CudnnObject& operator=(CudnnObject&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~CudnnObject();

  cudnnBackendDescriptor_t descriptor() const { return descriptor_; }

  template <typename T>
  void set(cudnnBackendAttributeName_t name, std::span<const T> values) {
    set(name, cudnn_type(T{}), static_cast<int64_t>(values.size()), values.data());
  }
  template <typename T>
  void set(cudnnBackendAttributeName_t name, const T& value) {
    set(name, std::span<const T>(&value, 1));
  }
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values);
  void finalize();
  // False if cuDNN says that it does not do that.
  bool try_finalize();

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

using CudnnExtents = std::array<int64_t, 4>;

struct CudnnTensor {
  cudnnBackendDescriptor_t descriptor;
  CudnnExtents extents;
};

// A graph of operations over tensors of four dimensions, which live as long as it does.
class CudnnGraph {
 public:
  // In the device's memory, 16-byte aligned. Executions say where each `id` (1 to 99) is.
  CudnnTensor memory(int64_t id, const CudnnExtents& extents, const CudnnExtents& strides, cudnnDataType_t type);
  // An f32 in the host's memory, read when an execution is queued.
  CudnnTensor scalar(int64_t id);
  // Only in the graph; a kernel may never hold all of it at once.
  CudnnTensor value(const CudnnExtents& extents, cudnnDataType_t type = CUDNN_DATA_FLOAT);
  CudnnTensor value(const CudnnExtents& extents, const CudnnExtents& strides, cudnnDataType_t type = CUDNN_DATA_FLOAT);

  // y = mode(inputs); cuDNN calls the inputs x, b and t. `axis` is for modes that have one.
  void pointwise(const CudnnTensor& y, cudnnPointwiseMode_t mode, std::initializer_list<CudnnTensor> inputs,
                 cudnnDataType_t computed_in = CUDNN_DATA_FLOAT, std::optional<int64_t> axis = std::nullopt);
  // Over the axes along which y is shorter than x.
  void reduce(const CudnnTensor& y, cudnnReduceTensorOp_t op, const CudnnTensor& x);
  // c = a b over the last two axes. b's heads may be fewer than a's.
  void multiply(const CudnnTensor& c, const CudnnTensor& a, const CudnnTensor& b);
  // The same elements in another shape.
  void reshape(const CudnnTensor& y, const CudnnTensor& x);

  std::span<const cudnnBackendDescriptor_t> operations() const { return operations_; }

 private:
  CudnnTensor tensor(const CudnnExtents& extents, const CudnnExtents& strides, cudnnDataType_t type, int64_t id,
                     bool is_value, bool is_scalar);
  cudnnBackendDescriptor_t keep(CudnnObject object);
  void append(CudnnObject operation);

  std::vector<CudnnObject> objects_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  int64_t next_value_ = 100;
};

CudnnExtents dense_strides(const CudnnExtents& extents);

struct CudnnPlan {
  // What the plan was made of: the documentation does not say whether it keeps copies.
  CudnnGraph graph;
  CudnnObject operations, configuration;

  CudnnObject plan;
  int64_t workspace_bytes;
};

// The graph on a device (a CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), by the first engine of cuDNN's list that can; nullopt
// if none can. Its kernels are compiled here: this takes up to a second. Throws DeviceError.
std::optional<CudnnPlan> make_cudnn_plan(CudnnGraph graph, const CudnnObject& device);

struct CudnnBinding {
  int64_t id;
  const void* address;
};
// Queues the plan on the handle's stream.
void execute_cudnn_plan(cudnnHandle_t handle, const CudnnPlan& plan, std::initializer_list<CudnnBinding> bindings,
                        void* workspace);

}  // namespace skippipe::cuda
