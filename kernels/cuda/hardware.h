// All that our kernels ask of a GPU: threads, memory, warps, matrix instructions, launches. Kernels reach the hardware
// through this header alone. It has a second implementation, tests/simt/include/kernels/cuda/hardware.h, with which
// tests compile the same sources for the CPU and execute them there, checked; what changes here changes there.
//
// A kernel reads and writes device memory through Global and shared memory through Shared, never through plain
// pointers. Collectives (warp_..., shuffle_..., load_matrix_..., multiply_matrices) need all 32 lanes of the warp.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vec.h"

// The namespace of code that is compiled for a GPU, or for the tests' execution of it.
#define SKP_GPU cuda
// `blocks_at_once` per multiprocessor, or as many as hold no more threads than that has.
#define SKP_KERNEL(most_threads, blocks_at_once)  \
  __global__ void __launch_bounds__(most_threads, \
                                    ::skippipe::cuda::internal::blocks_that_fit(most_threads, blocks_at_once))
#define SKP_DEVICE __device__ __forceinline__
#define SKP_UNROLL _Pragma("unroll")
// By `count` only, where whole loops would take too many registers.
#define SKP_UNROLL_BY(count) SKP_INTERNAL_PRAGMA(unroll count)
#define SKP_INTERNAL_PRAGMA(text) _Pragma(#text)

namespace skippipe::cuda {

inline constexpr const char* kBackendName = "cuda";

namespace internal {
constexpr int blocks_that_fit(int threads, int blocks) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1100)
  constexpr int kThreadsAtOnce = 1536;
#else
  constexpr int kThreadsAtOnce = 2048;
#endif
  return blocks * threads <= kThreadsAtOnce ? blocks : kThreadsAtOnce / threads;
}
}  // namespace internal

// ---------------------------------------------------------------------------------------------------- threads

SKP_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
SKP_DEVICE int lane_index() { return thread_index() % kWarp; }
SKP_DEVICE int warp_index() { return thread_index() / kWarp; }
SKP_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
SKP_DEVICE int64_t block_x() { return blockIdx.x; }
SKP_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
SKP_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
SKP_DEVICE int64_t grid_x() { return gridDim.x; }

// Waits for all threads of the block; what they wrote before is there for all after.
SKP_DEVICE void block_sync() { __syncthreads(); }
// The same among `threads` (a multiple of 32) that name the same barrier, 1 to 15.
SKP_DEVICE void barrier_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
SKP_DEVICE void warp_sync() { __syncwarp(); }

// ---------------------------------------------------------------------------------------------------- memory

namespace internal {
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using Type = uint16_t;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
// One access of the hardware for the whole of Value.
template <typename Value>
SKP_DEVICE Value read(const void* address) {
  Value value;
  *reinterpret_cast<typename Word<sizeof(Value)>::Type*>(&value) =
      *static_cast<const typename Word<sizeof(Value)>::Type*>(address);
  return value;
}
template <typename Value>
SKP_DEVICE void write(void* address, const Value& value) {
  *static_cast<typename Word<sizeof(Value)>::Type*>(address) =
      *reinterpret_cast<const typename Word<sizeof(Value)>::Type*>(&value);
}
// In assembly, because the compiler may split what it is free to split. (It keeps loads whole.)
template <typename Value>
SKP_DEVICE void write_global(void* address, const Value& value) {
  if constexpr (sizeof(Value) == 16) {
    const auto word = std::bit_cast<uint4>(value);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(word.x),
                 "r"(word.y), "r"(word.z), "r"(word.w)
                 : "memory");
  } else if constexpr (sizeof(Value) == 8) {
    const auto word = std::bit_cast<uint2>(value);
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(address)), "r"(word.x), "r"(word.y)
                 : "memory");
  } else {
    write(address, value);
  }
}
}  // namespace internal

// Elements in device memory; T is const for those that a kernel only reads. Vectors take one access of 4, 8 or 16 bytes
// and must lie at a multiple of their size.
template <typename T>
class Global {
 public:
  using Element = std::remove_const_t<T>;

  Global() = default;
  // `count` elements from `data` on may be touched, which only the tests' implementation enforces.
  __host__ __device__ Global(T* data, int64_t /*count*/) : data_(data) {}
  // launch() converts on the host, where nvcc would let a function of the device alone end the program.
  template <typename U = T>
  requires(!std::is_const_v<U>) __host__ __device__ operator Global<const U>() const {  // NOLINT
    return {data_, 0};
  }

  __host__ __device__ Global operator+(int64_t elements) const { return {data_ + elements, 0}; }
  SKP_DEVICE Element load(int64_t i) const { return data_[i]; }
  SKP_DEVICE void store(int64_t i, Element value) const { data_[i] = value; }
  template <int N>
  SKP_DEVICE Vec<Element, N> load_vec(int64_t i) const {
    return internal::read<Vec<Element, N>>(data_ + i);
  }
  template <int N>
  SKP_DEVICE void store_vec(int64_t i, const Vec<Element, N>& value) const {
    internal::write_global(data_ + i, value);
  }
  SKP_DEVICE T* unchecked() const { return data_; }  // for this header

 private:
  T* data_ = nullptr;
};

// The same in the block's shared memory. Where two threads touch one element and one of them writes, there must be a
// barrier between (or, within a warp, warp_sync; other collectives do not order memory).
template <typename T>
class Shared {
 public:
  Shared() = default;
  SKP_DEVICE explicit Shared(T* data) : data_(data) {}

  SKP_DEVICE Shared operator+(int elements) const { return Shared(data_ + elements); }
  SKP_DEVICE T load(int i) const { return data_[i]; }
  SKP_DEVICE void store(int i, T value) const { data_[i] = value; }
  template <int N>
  SKP_DEVICE Vec<T, N> load_vec(int i) const {
    return internal::read<Vec<T, N>>(data_ + i);
  }
  template <int N>
  SKP_DEVICE void store_vec(int i, const Vec<T, N>& value) const {
    internal::write(data_ + i, value);
  }
  SKP_DEVICE uint32_t address() const { return static_cast<uint32_t>(__cvta_generic_to_shared(data_)); }
  SKP_DEVICE T* unchecked() const { return data_; }

 private:
  T* data_;
};

// The block's shared memory (as much as the launch says), handed out in pieces that begin at multiples of 128 bytes.
// The first begins at a multiple of 1024.
class SharedMemory {
 public:
  SKP_DEVICE SharedMemory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    next_ = memory;
  }
  template <typename T>
  SKP_DEVICE Shared<T> take(int count) {
    T* data = reinterpret_cast<T*>(next_);
    next_ += shared_bytes<T>(count);
    return Shared<T>(data);
  }

 private:
  unsigned char* next_;
};

// Copies 16 bytes into shared memory without waiting, or, where not `valid`, writes 16 bytes of zeros and reads
// nothing. The bytes are there for the copying thread once copy_async_wait says so, and for others after a barrier
// behind that.
template <typename T>
SKP_DEVICE void copy_async(Shared<T> to, Global<const T> from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address()),
               "l"(__cvta_generic_to_global(from.unchecked())), "r"(valid ? 16 : 0)
               : "memory");
}
// Ends a group of copies.
SKP_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's newest groups are under way.
template <int kPending>
SKP_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Returns what was there before.
SKP_DEVICE uint32_t atomic_add(Global<uint32_t> at, int64_t i, uint32_t value) {
  return atomicAdd(at.unchecked() + i, value);
}
SKP_DEVICE uint32_t atomic_add(Shared<uint32_t> at, int i, uint32_t value) {
  return atomicAdd(at.unchecked() + i, value);
}

// ---------------------------------------------------------------------------------------------------- warps

inline constexpr uint32_t kAllLanes = 0xffffffffu;

// The value of lane (this lane ^ mask), of lane `source`, or of lane (this lane - distance), own below that.
template <typename T>
SKP_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
template <typename T>
SKP_DEVICE T shuffle(T value, int source) {
  return __shfl_sync(kAllLanes, value, source);
}
template <typename T>
SKP_DEVICE T shuffle_up(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
}
// Bit l: what lane l says.
SKP_DEVICE uint32_t ballot(bool yes) { return __ballot_sync(kAllLanes, yes); }
// How many bits are set, and the lowest of them (of at least one).
SKP_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
SKP_DEVICE int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }

// ---------------------------------------------------------------------------------------------------- matrices

// Four 8x8 matrices of 16-bit elements from shared memory: lane l names the 16 bytes of row l % 8 of matrix l / 8,
// which begin at element `at` of `tile`, and gets in r[j] elements (l / 4, 2 * (l % 4)) and the next of matrix j.
// Transposed: elements (2 * (l % 4), l / 4) and (2 * (l % 4) + 1, l / 4).
SKP_DEVICE void load_matrix_x4(uint32_t (&r)[4], Shared<Bf16> tile, int at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(tile.address() + 2 * static_cast<uint32_t>(at))
               : "memory");
}
SKP_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], Shared<Bf16> tile, int at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(tile.address() + 2 * static_cast<uint32_t>(at))
               : "memory");
}

// d (16x8) += a (16x16) b (16x8), bf16 products summed in f32. With g = lane / 4 and p = 2 * (lane % 4), each register
// of a and b two bf16, the first in the low half:
//   a[0] = (g, p..p+1), a[1] = (g+8, p..), a[2] = (g, p+8..), a[3] = (g+8, p+8..);  b[0] = (p..p+1, g), b[1] = (p+8..,
//   g) d[0] = (g, p), d[1] = (g, p+1), d[2] = (g+8, p), d[3] = (g+8, p+1)
SKP_DEVICE void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---------------------------------------------------------------------------------------------------- numbers

SKP_DEVICE float to_float(float x) { return x; }
SKP_DEVICE float to_float(Bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
// Rounds to nearest, ties to even. `low` goes into the low half.
SKP_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
template <typename T>
SKP_DEVICE T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    T result;
    result.bits = static_cast<uint16_t>(pack_bf16(x, 0.0f) & 0xffffu);
    return result;
  }
}
// 2^x with a relative error of 2^-22; 0 for what is below 2^-126.
SKP_DEVICE float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
// 1 / x with a relative error of 2^-23; 0 for |x| above 2^126, infinity below 2^-126.
SKP_DEVICE float fast_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// ---------------------------------------------------------------------------------------------------- launches

// Queues the kernel on the context's stream. Throws DeviceError.
template <typename... Parameters, typename... Arguments>
void launch(const Launch& at, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const CallSite site{at.name, at.file, at.line};
  constexpr int64_t kAlwaysAllowed = 48 * 1024;
  if (at.grid.x > INT32_MAX) check_cuda(cudaErrorInvalidConfiguration, site);
  if (at.shared_bytes > kAlwaysAllowed)
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(at.shared_bytes)),
        site);
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(at.grid.x), static_cast<unsigned>(at.grid.y),
                    static_cast<unsigned>(at.grid.z)};
  config.blockDim = {static_cast<unsigned>(at.threads)};
  config.dynamicSmemBytes = static_cast<size_t>(at.shared_bytes);
  config.stream = static_cast<cudaStream_t>(at.stream);
  // Not <<<>>> and cudaGetLastError, which would also tell of earlier calls' errors.
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), site);
}

}  // namespace skippipe::cuda
