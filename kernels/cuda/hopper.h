// What kernels may ask of Hopper GPUs (target 90a) beyond hardware.h: barriers that count bytes, bulk copies of boxes
// of tensors, products by warpgroups, and registers that move from one warpgroup to another. It has a second
// implementation, too: tests/simt/include/kernels/cuda/hopper.h. Source: the PTX ISA, 8.0 and later.
//
// A tile of R rows of 64 * P bf16 lies in shared memory as P panels one behind the other, each of R rows of 64 elements
// (128 bytes), R a multiple of 8. The chunk c of 16 bytes of row r lies at chunk c ^ (r % 8) of its row ("128-byte
// swizzle"), so a tile begins at a multiple of kTileAlignment bytes. Bulk copies write tiles so, and products read
// them.
#pragma once

#include "kernels/cuda/hardware.h"
#include "kernels/cuda/tensor_map.h"

// For parameters of kernels that are tensor maps.
#define SKP_GRID_CONSTANT __grid_constant__

namespace skippipe::cuda {

// Whether this is being compiled for what has all this. Other targets leave the bodies of such kernels empty.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kCompilesForHopper = true;
#else
inline constexpr bool kCompilesForHopper = false;
#endif

inline constexpr int kWarpgroup = 128;  // threads
inline constexpr int kTileAlignment = 1024;

// ---------------------------------------------------------------------------------------------------- barriers

// Barriers in shared memory. A phase ends when as many threads have arrived as init says and as many bytes have been
// copied as arrivals told it to expect; the next phase begins then. What threads did before they arrived, and what was
// copied, is there for those that have waited for the end of that phase.
class MemoryBarriers {
 public:
  SKP_DEVICE explicit MemoryBarriers(Shared<uint64_t> words) : words_(words) {}

  // By one thread, before publish() by the same and a block_sync.
  SKP_DEVICE void init(int i, int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(i)), "r"(arrivals) : "memory");
  }
  // Makes what this thread has initialized known to bulk copies.
  SKP_DEVICE static void publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
  SKP_DEVICE void arrive(int i) const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(i)) : "memory");
  }
  // Arrives, and makes the phase under way wait for so many bytes more.
  SKP_DEVICE void arrive_and_expect(int i, int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(i)), "r"(bytes) : "memory");
  }
  // Waits until the phase under way is not of this parity: phases are 0, 1, 0, ... So parity 1 passes a new barrier.
  SKP_DEVICE void wait(int i, int parity) const {
    uint32_t done;
    do {
      asm volatile(
          "{\n"
          ".reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.b32 %0, 1, 0, done;\n"
          "}"
          : "=r"(done)
          : "r"(address(i)), "r"(parity)
          : "memory");
    } while (done == 0);
  }
  SKP_DEVICE uint32_t address(int i) const {
    return words_.address() + 8 * static_cast<uint32_t>(i);
  }  // for this header

 private:
  Shared<uint64_t> words_;
};

// Arrives at a barrier of barrier_sync without waiting there.
SKP_DEVICE void barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// What this thread has written to shared memory is there for bulk copies and products behind the next barrier.
SKP_DEVICE void fence_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---------------------------------------------------------------------------------------------------- bulk copies

// Maps of tensors (tensor_map.h) reach kernels as parameters that are SKP_GRID_CONSTANT.

// Where a box begins. What lies behind the last token or column is read as zero.
struct BoxOrigin {
  int batch, token, head, column;
};
// Begins to copy a box to a panel, and tells barrier i when its bytes (all of them, those behind the end, too) are
// there.
SKP_DEVICE void copy_box(Shared<Bf16> panel, const TensorMap& from, const BoxOrigin& at, const MemoryBarriers& barriers,
                         int i) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(panel.address()),
      "l"(reinterpret_cast<uint64_t>(&from)), "r"(barriers.address(i)), "r"(at.column), "r"(at.head), "r"(at.token),
      "r"(at.batch)
      : "memory");
}
SKP_DEVICE void prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

// ---------------------------------------------------------------------------------------------------- registers

// The warpgroup's threads may hold so many registers from here on: at first all have the same, as the launch says; who
// needs few gives some back, who needs many waits for them. By all warps of the warpgroup; a multiple of 8.
template <int kRegisters>
SKP_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
SKP_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---------------------------------------------------------------------------------------------------- products

// Products of a warpgroup run while it goes on. Their registers (sums, and left operands if those are in registers) are
// named to warpgroup_fence when the warpgroup has written or read them, and before a product uses them; then not
// touched until warpgroup_wait, which is given them, too. The 64 rows of a warpgroup's matrices are 16 of each warp;
// within a warp registers are as multiply_matrices has them: sums [n][e] for 8 columns each, left operands [e] for 16
// columns.

namespace internal {
// The compiler may move no use of a register over this.
SKP_DEVICE void pin(float& x) { asm volatile("" : "+f"(x)::"memory"); }
SKP_DEVICE void pin(uint32_t& x) { asm volatile("" : "+r"(x)::"memory"); }
template <typename T, int N>
SKP_DEVICE void pin(T (&x)[N]) {
  SKP_UNROLL
  for (int i = 0; i < N; ++i) pin(x[i]);
}
}  // namespace internal

template <typename... Registers>
SKP_DEVICE void warpgroup_fence(Registers&... registers) {
  (internal::pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Ends a group of products.
SKP_DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending of the newest groups are under way; `registers`: of those that have ended.
template <int kPending, typename... Registers>
SKP_DEVICE void warpgroup_wait(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  (internal::pin(registers), ...);
}

// An operand in shared memory.
class MatrixDescriptor {
 public:
  // Rows of a tile from element `at` of its storage on, which is one of the first row of 8 of a panel, the first of 16
  // columns. The product sums over those 16 columns.
  SKP_DEVICE static MatrixDescriptor rows(Shared<Bf16> tile, int at) { return {tile, at, 1, kEightRows}; }
  // 16 rows from element `at` on, the first of a panel's row, over which the product sums; all columns, in panels that
  // are `panel_elements` apart.
  SKP_DEVICE static MatrixDescriptor columns(Shared<Bf16> tile, int at, int panel_elements) {
    return {tile, at, panel_elements / 8, kEightRows};
  }
  SKP_DEVICE uint64_t bits() const { return bits_; }

 private:
  static constexpr int kEightRows = 8 * kPanel / 8;  // in units of 16 bytes, as all of a descriptor
  // leading: from one panel to the next, where both are read; stride: from 8 rows to the next 8.
  SKP_DEVICE MatrixDescriptor(Shared<Bf16> tile, int at, int leading, int stride)
      : bits_(static_cast<uint64_t>((tile.address() + 2 * static_cast<uint32_t>(at)) >> 4 & 0x3fff) |
              static_cast<uint64_t>(leading) << 16 | static_cast<uint64_t>(stride) << 32 | uint64_t{1} << 62) {}
  uint64_t bits_;
};

namespace internal {

#define SKP_REGISTERS_4(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SKP_REGISTERS_16(d, n) \
  SKP_REGISTERS_4(d, n), SKP_REGISTERS_4(d, n + 1), SKP_REGISTERS_4(d, n + 2), SKP_REGISTERS_4(d, n + 3)
#define SKP_REGISTERS_32(d) SKP_REGISTERS_16(d, 0), SKP_REGISTERS_16(d, 4)
#define SKP_REGISTERS_64(d) SKP_REGISTERS_32(d), SKP_REGISTERS_16(d, 8), SKP_REGISTERS_16(d, 12)
#define SKP_NAMES_32                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define SKP_NAMES_64                                                                                                 \
  SKP_NAMES_32                                                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// The operands behind the sums are numbered from `count` on, which is why they are named by their numbers.
#define SKP_WGMMA(columns, names, add, operands)                                                \
  "{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n" columns \
  "k16.f32.bf16.bf16 {" names "}, " operands ";\n}"

SKP_DEVICE void multiply(float (&d)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(SKP_WGMMA("64", SKP_NAMES_32, "%34", "%32, %33, add, 1, 1, 0, 0")
               : SKP_REGISTERS_32(d)
               : "l"(a), "l"(b), "r"(add));
}
SKP_DEVICE void multiply(float (&d)[16][4], uint64_t a, uint64_t b, int add) {
  asm volatile(SKP_WGMMA("128", SKP_NAMES_64, "%66", "%64, %65, add, 1, 1, 0, 0")
               : SKP_REGISTERS_64(d)
               : "l"(a), "l"(b), "r"(add));
}
SKP_DEVICE void multiply(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile(SKP_WGMMA("64", SKP_NAMES_32, "%37", "{%32, %33, %34, %35}, %36, add, 1, 1, 1")
               : SKP_REGISTERS_32(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
SKP_DEVICE void multiply(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, int add) {
  asm volatile(SKP_WGMMA("128", SKP_NAMES_64, "%69", "{%64, %65, %66, %67}, %68, add, 1, 1, 1")
               : SKP_REGISTERS_64(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
#undef SKP_REGISTERS_4
#undef SKP_REGISTERS_16
#undef SKP_REGISTERS_32
#undef SKP_REGISTERS_64
#undef SKP_NAMES_32
#undef SKP_NAMES_64
#undef SKP_WGMMA

}  // namespace internal

// d (64 x 8n) = a b^T, or += where `add`: 64 rows of a tile and 8n rows of another, 16 columns of both. n is 8 or 16.
template <int kColumnTiles>
SKP_DEVICE void warpgroup_multiply_rows(float (&d)[kColumnTiles][4], MatrixDescriptor a, MatrixDescriptor b, bool add) {
  internal::multiply(d, a.bits(), b.bits(), add ? 1 : 0);
}
// d (64 x 8n) = a b, or += where `add`: a in registers, b 16 rows of 8n columns of a tile (MatrixDescriptor::columns).
template <int kColumnTiles>
SKP_DEVICE void warpgroup_multiply(float (&d)[kColumnTiles][4], const uint32_t (&a)[4], MatrixDescriptor b, bool add) {
  internal::multiply(d, a, b.bits(), add ? 1 : 0);
}

}  // namespace skippipe::cuda
