// The option --device, as several verbs have it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/error.h"
#include "engine/model/device.h"

namespace skippipe {

inline DeviceName device_from_option(const std::string& name) {
  try {
    return parse_device(name);
  } catch (const ConfigError& error) {
    throw UsageError("--device: {}", error.what());
  }
}

// `device` holds the default and must outlive the verb.
inline CLI::Option* add_device_option(CLI::App& verb, DeviceName& device) {
  const auto set = [&device](const std::string& name) { device = device_from_option(name); };
  return verb
      .add_option_function<std::string>("--device", set, "cpu, or a GPU: cuda:0 (`skippipe devices` lists them)")
      ->default_str(device.to_string());
}

}  // namespace skippipe
