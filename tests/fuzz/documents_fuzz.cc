// What nodes of a probe tell each other.
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "engine/probe/probe_documents.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skippipe;
  try {
    const nlohmann::json document = parse_json({reinterpret_cast<const char*>(data), size}, "input");
    const JsonReader root(document, "input");
    if (const auto device = root.find("device")) to_json(read_probe_result(*device));
    if (const auto link = root.find("link")) to_json(read_link_measurement(*link));
  } catch (const FileError&) {
  }
  return 0;
}
