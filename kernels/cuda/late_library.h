// Libraries that are loaded when a function of theirs is first called, and not with the program: loading cuBLASLt takes
// 70 ms, at every start, and machines without a GPU need not have any of them.
#pragma once

#include <string>

namespace skippipe::cuda {

class LateLibrary {
 public:
  // `name` as the loader knows it, such as libcudnn.so.9. Throws DeviceError where there is none. It stays loaded:
  // these libraries keep threads, and memory of the driver.
  explicit LateLibrary(std::string name);
  // Throws DeviceError where the library has no such function.
  void* find(const char* function) const;

 private:
  std::string name_;
  void* handle_;
};

template <typename Found, typename Function>
struct LateFunction;
template <typename Found, typename Result, typename... Arguments>
struct LateFunction<Found, Result (*)(Arguments...)> {
  Result operator()(Arguments... arguments) const {
    static const auto function = reinterpret_cast<Result (*)(Arguments...)>(Found::find());
    return function(arguments...);
  }
};

// Makes `function`, in our namespace, one of the library that `library()` returns. Calls look as they always do.
#define SKP_LATE_FUNCTION(library, function)                                      \
  struct Late_##function : LateFunction<Late_##function, decltype(&::function)> { \
    static void* find() { return library().find(#function); }                     \
  };                                                                              \
  inline constexpr Late_##function function {}

}  // namespace skippipe::cuda
