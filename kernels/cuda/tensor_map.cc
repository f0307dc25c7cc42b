#include "kernels/cuda/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <bit>

#include "kernels/cuda/errors.h"

namespace skippipe::cuda {
namespace {

using Encode = decltype(&::cuTensorMapEncodeTiled);

// From the driver that the runtime has loaded: this program is not linked with it, so that it starts without one.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  SKP_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
#else
  SKP_CUDA(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw_device_error({"cuTensorMapEncodeTiled", __FILE__, __LINE__}, "the driver has no such function",
                       "update NVIDIA's driver to one for CUDA 12 or newer");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

TensorMap make_tensor_map(const Bf16* data, int64_t /*count*/, const TensorMapShape& shape) {
  static const Encode encode = find_encode();
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap) && alignof(CUtensorMap) <= alignof(TensorMap));
  const auto unsigned64 = [](int64_t x) { return static_cast<cuuint64_t>(x); };
  // The driver wants strides of dimensions of one element to be sound, too.
  const auto bytes = [&](int64_t stride, int64_t extent) {
    return unsigned64(extent > 1 ? stride * 2 : shape.head_dim * 2);
  };
  const cuuint64_t extents[] = {unsigned64(shape.head_dim), unsigned64(shape.heads), unsigned64(shape.tokens),
                                unsigned64(shape.batch)};
  const cuuint64_t strides[] = {bytes(shape.head_stride, shape.heads), bytes(shape.token_stride, shape.tokens),
                                bytes(shape.batch_stride, shape.batch)};
  const cuuint32_t box[] = {kPanel, 1, static_cast<cuuint32_t>(shape.box_tokens), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<Bf16*>(data), extents, strides,
                                 box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw_device_error({"cuTensorMapEncodeTiled", __FILE__, __LINE__},
                       "the driver refuses a tensor (CUresult " + std::to_string(static_cast<int>(result)) + ")");
  return std::bit_cast<TensorMap>(map);
}

}  // namespace skippipe::cuda
