// The errors that skippipe throws. Broken contracts, bad configuration and bad files throw a subclass of Error whose
// message names the file, field or node, what was found and what was expected. What a network does in normal life
// (a peer gone, a message late) is a Status (base/status.h) instead.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "base/format.h"

namespace skippipe {

// One line for the user; `skippipe` prints it and exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Declares a subclass that formats its message: throw ShapeError("y is {}, expected {}", a, b).
#define SKP_DEFINE_ERROR(Name, Base)                                                     \
  class Name : public Base {                                                             \
   public:                                                                               \
    explicit Name(const std::string& message) : Base(message) {}                         \
    template <typename First, typename... Rest>                                          \
    Name(format_string<First, Rest...> text, First&& first, Rest&&... rest)              \
        : Base(format(text, std::forward<First>(first), std::forward<Rest>(rest)...)) {} \
  }

SKP_DEFINE_ERROR(InternalError, Error);  // a broken invariant of ours: a bug
SKP_DEFINE_ERROR(ShapeError, Error);     // a tensor's shape or strides break an operation's contract
SKP_DEFINE_ERROR(DtypeError, Error);     // a tensor's element type does
SKP_DEFINE_ERROR(ConfigError, Error);    // model configuration, run file, command-line values
SKP_DEFINE_ERROR(FileError, Error);      // unreadable, truncated or lying files
SKP_DEFINE_ERROR(PlanError, Error);      // a network or plan that breaks a rule
SKP_DEFINE_ERROR(MemoryError, Error);    // a model that does not fit
SKP_DEFINE_ERROR(DeviceError, Error);    // a GPU, its driver or its libraries failed
SKP_DEFINE_ERROR(RunError, Error);       // a run that had to end: a node died, a peer was never reached
SKP_DEFINE_ERROR(PeerError, RunError);   // ... because of another node, which knows more: exit code 3
SKP_DEFINE_ERROR(UsageError, Error);     // wrong use of the command line: exit code 2

namespace internal {
[[noreturn]] void throw_check_failure(const char* condition, const char* file, int line, const std::string& message);
}

// Always on. For invariants of our own code; bad input throws the error class that fits it.
#define SKP_CHECK(condition, ...)                                                                                    \
  do {                                                                                                               \
    if (!(condition)) [[unlikely]]                                                                                   \
      ::skippipe::internal::throw_check_failure(#condition, __FILE__, __LINE__, ::skippipe::format("" __VA_ARGS__)); \
  } while (false)

}  // namespace skippipe
