#include "kernels/cuda/cudnn_graph.h"

#include <string>

#include "base/error.h"

namespace skippipe::cuda {
namespace {

bool is_refusal(cudnnStatus_t status) { return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED; }

const char* advice_for(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_NOT_INITIALIZED:
      return "the driver may be older than this program's CUDA, or the device's memory full";
    case CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH:
    case CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED:
      return "all libcudnn*.so on the library path must be of one version";
    default:
      return "CUDNN_LOGLEVEL_DBG=3 CUDNN_LOGDEST_DBG=stderr tells more";
  }
}

std::string last_error() {
  std::array<char, 512> text{};
  cudnnGetLastErrorString(text.data(), text.size());
  return text.data();
}

// Best first. cuDNN leaves out those that cannot run the graph.
std::vector<CudnnObject> engine_configurations(const CudnnObject& graph, const CudnnObject& device) {
  CudnnObject heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.descriptor());
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device.descriptor());
  std::vector<CudnnObject> configurations;
  if (!heuristics.try_finalize()) return configurations;

  const auto get = [&](int64_t room, cudnnBackendDescriptor_t* descriptors) {
    int64_t count = 0;
    SKP_CUDNN(cudnnBackendGetAttribute(heuristics.descriptor(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, room, &count, descriptors));
    return count;
  };
  std::vector<cudnnBackendDescriptor_t> descriptors;
  for (int64_t i = 0, count = get(0, nullptr); i < count; ++i)
    descriptors.push_back(configurations.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).descriptor());
  // Fewer than it first said: only now it looks which can.
  const int64_t usable = get(static_cast<int64_t>(descriptors.size()), descriptors.data());
  configurations.erase(configurations.begin() + usable, configurations.end());
  return configurations;
}

int64_t workspace_bytes_of(const CudnnObject& plan) {
  int64_t bytes = 0, count = 0;
  SKP_CUDNN(cudnnBackendGetAttribute(plan.descriptor(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                     &count, &bytes));
  return bytes;
}

}  // namespace

void check_cudnn(cudnnStatus_t status, const CallSite& site) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw_device_error(site, std::string(cudnnGetErrorString(status)) + " (" + last_error() + ")", advice_for(status));
}

CudnnObject::CudnnObject(cudnnBackendDescriptorType_t type) {
  SKP_CUDNN(cudnnBackendCreateDescriptor(type, &descriptor_));
}

CudnnObject::~CudnnObject() {
  if (descriptor_ != nullptr) cudnnBackendDestroyDescriptor(descriptor_);
}

void CudnnObject::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                      const void* values) {
  SKP_CUDNN(cudnnBackendSetAttribute(descriptor_, name, type, count, values));
}

void CudnnObject::finalize() { SKP_CUDNN(cudnnBackendFinalize(descriptor_)); }

bool CudnnObject::try_finalize() {
  const cudnnStatus_t status = cudnnBackendFinalize(descriptor_);
  if (is_refusal(status)) return false;
  check_cudnn(status, {"cudnnBackendFinalize", __FILE__, __LINE__});
  return true;
}

CudnnExtents dense_strides(const CudnnExtents& extents) {
  return {extents[1] * extents[2] * extents[3], extents[2] * extents[3], extents[3], 1};
}

CudnnTensor CudnnGraph::memory(int64_t id, const CudnnExtents& extents, const CudnnExtents& strides,
                               cudnnDataType_t type) {
  return tensor(extents, strides, type, id, false, false);
}

CudnnTensor CudnnGraph::scalar(int64_t id) {
  return tensor({1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_FLOAT, id, false, true);
}

CudnnTensor CudnnGraph::value(const CudnnExtents& extents, cudnnDataType_t type) {
  return value(extents, dense_strides(extents), type);
}

CudnnTensor CudnnGraph::value(const CudnnExtents& extents, const CudnnExtents& strides, cudnnDataType_t type) {
  return tensor(extents, strides, type, next_value_++, true, false);
}

CudnnTensor CudnnGraph::tensor(const CudnnExtents& extents, const CudnnExtents& strides, cudnnDataType_t type,
                               int64_t id, bool is_value, bool is_scalar) {
  CudnnObject object(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  object.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  object.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  object.set<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS, extents);
  object.set<int64_t>(CUDNN_ATTR_TENSOR_STRIDES, strides);
  object.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, is_scalar ? int64_t{sizeof(float)} : int64_t{16});
  object.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_value);
  object.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, is_scalar);
  object.finalize();
  return {keep(std::move(object)), extents};
}

void CudnnGraph::pointwise(const CudnnTensor& y, cudnnPointwiseMode_t mode, std::initializer_list<CudnnTensor> inputs,
                           cudnnDataType_t computed_in, std::optional<int64_t> axis) {
  constexpr std::array kInputs = {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                  CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
  SKP_CHECK(inputs.size() <= kInputs.size());
  CudnnObject description(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  description.set(CUDNN_ATTR_POINTWISE_MODE, mode);
  description.set(CUDNN_ATTR_POINTWISE_MATH_PREC, computed_in);
  if (axis) description.set(CUDNN_ATTR_POINTWISE_AXIS, *axis);
  description.finalize();
  CudnnObject operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, keep(std::move(description)));
  for (size_t i = 0; i < inputs.size(); ++i) operation.set(kInputs[i], inputs.begin()[i].descriptor);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y.descriptor);
  append(std::move(operation));
}

void CudnnGraph::reduce(const CudnnTensor& y, cudnnReduceTensorOp_t op, const CudnnTensor& x) {
  CudnnObject description(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  description.set(CUDNN_ATTR_REDUCTION_OPERATOR, op);
  description.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  description.finalize();
  CudnnObject operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, keep(std::move(description)));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.descriptor);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.descriptor);
  append(std::move(operation));
}

void CudnnGraph::multiply(const CudnnTensor& c, const CudnnTensor& a, const CudnnTensor& b) {
  CudnnObject description(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  description.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  description.finalize();
  CudnnObject operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, keep(std::move(description)));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.descriptor);
  append(std::move(operation));
}

void CudnnGraph::reshape(const CudnnTensor& y, const CudnnTensor& x) {
  CudnnObject operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.descriptor);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.descriptor);
  append(std::move(operation));
}

cudnnBackendDescriptor_t CudnnGraph::keep(CudnnObject object) {
  return objects_.emplace_back(std::move(object)).descriptor();
}

void CudnnGraph::append(CudnnObject operation) {
  operation.finalize();
  operations_.push_back(keep(std::move(operation)));
}

std::optional<CudnnPlan> make_cudnn_plan(CudnnGraph graph, const CudnnObject& device) {
  CudnnObject operations(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  operations.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, graph.operations());
  if (!operations.try_finalize()) return std::nullopt;
  for (CudnnObject& configuration : engine_configurations(operations, device)) {
    CudnnObject plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration.descriptor());
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device.descriptor());
    if (!plan.try_finalize()) continue;
    const int64_t workspace_bytes = workspace_bytes_of(plan);
    return CudnnPlan{std::move(graph), std::move(operations), std::move(configuration), std::move(plan),
                     workspace_bytes};
  }
  return std::nullopt;
}

void execute_cudnn_plan(cudnnHandle_t handle, const CudnnPlan& plan, std::initializer_list<CudnnBinding> bindings,
                        void* workspace) {
  constexpr size_t kMost = 16;
  SKP_CHECK(bindings.size() <= kMost);
  std::array<int64_t, kMost> ids{};
  std::array<void*, kMost> addresses{};
  for (size_t i = 0; i < bindings.size(); ++i) {
    ids[i] = bindings.begin()[i].id;
    addresses[i] = const_cast<void*>(bindings.begin()[i].address);  // the API does not know const
  }
  const auto count = static_cast<int64_t>(bindings.size());
  CudnnObject pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, addresses.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize();
  SKP_CUDNN(cudnnBackendExecute(handle, plan.plan.descriptor(), pack.descriptor()));
}

}  // namespace skippipe::cuda
