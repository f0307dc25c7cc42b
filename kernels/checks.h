// The argument checks that the free functions share. A backend may rely on what was checked here.
#pragma once

#include <initializer_list>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// What an argument may hold. kReal: f32 or bf16, the same for all of an operation's arguments that are kReal, and one
// that the backend computes in; kAnyReal: either.
enum class Holds { kReal, kAnyReal, kF32, kI32 };

// One operation's arguments under check. Every failure throws a ShapeError or DtypeError that names the operation, the
// argument, what was found and what was expected.
class ArgumentCheck {
 public:
  struct Named {
    const char* name;
    ConstTensor tensor;
  };

  ArgumentCheck(const Context& ctx, const char* operation);

  // Rank and at least one element.
  void rank(const char* name, const ConstTensor& tensor, int expected) const;
  // This very shape, contiguous, non-null (unless it has no elements).
  void dense(const char* name, const ConstTensor& tensor, Holds holds, const Dims& shape);
  // This very shape; the last stride is 1, and the other strides keep rows apart.
  void strided(const char* name, const ConstTensor& tensor, Holds holds, const Dims& shape);
  // No element of `output` may be shared with any of `others` (empty ones are passed over).
  void disjoint(const Named& output, std::initializer_list<Named> others) const;
  // The same view of the same memory, or no shared element.
  void same_or_disjoint(const Named& output, std::initializer_list<Named> others) const;
  // The context's scratch memory holds `bytes` and is aligned to 64.
  void workspace(int64_t bytes) const;

  // Fails with a message of the operation's own.
  [[noreturn]] void fail(const std::string& message) const;

 private:
  void holds(const char* name, const ConstTensor& tensor, Holds holds);
  void agrees(const char* name, Dtype dtype);

  const Context& ctx_;
  const char* operation_;
  const char* first_real_ = nullptr;  // the first kReal argument
  Dtype real_ = Dtype::kF32;          // its dtype
};

}  // namespace skippipe
