// From a dtype to the C++ type of its elements.
#pragma once

#include "kernels/bf16.h"
#include "kernels/tensor.h"

namespace skippipe {

// body(Element{}) with Element float or Bf16: one body, compiled for both.
template <typename Body>
void with_element(Dtype dtype, const Body& body) {
  if (dtype == Dtype::kBf16) {
    body(Bf16{});
  } else {
    body(float{});
  }
}

}  // namespace skippipe
