// The option --dtype, as several verbs have it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kernels/tensor.h"

namespace skippipe {

// What a model computes in, f32 or bf16; `dtype` holds the default and must outlive the verb.
inline CLI::Option* add_dtype_option(CLI::App& verb, Dtype& dtype, const std::string& meaning) {
  const auto set = [&dtype](const std::string& name) { dtype = parse_compute_dtype(name); };
  return verb.add_option_function<std::string>("--dtype", set, meaning)
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->default_str(dtype_name(dtype));
}

}  // namespace skippipe
