#include <string_view>

#include "base/error.h"
#include "engine/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  try {
    const ModelConfig config = parse_model_config({reinterpret_cast<const char*>(data), size}, "input");
    if (!(parse_model_config(model_config_json(config), "again") == config)) __builtin_trap();
  } catch (const FileError&) {
  } catch (const ConfigError&) {
  }
  return 0;
}
