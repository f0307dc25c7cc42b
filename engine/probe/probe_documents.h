// What a device and a link measured, as JSON: nodes tell it to the one that gathers.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/json_reader.h"
#include "engine/probe/link_measurement.h"
#include "engine/probe/probe.h"

namespace skippipe {

nlohmann::json to_json(const ProbeResult& result);
nlohmann::json to_json(const LinkMeasurement& measurement);

// Read what to_json wrote. Throw FileError for anything else, and for figures that no network file could hold.
ProbeResult read_probe_result(const JsonReader& json);
LinkMeasurement read_link_measurement(const JsonReader& json);

}  // namespace skippipe
