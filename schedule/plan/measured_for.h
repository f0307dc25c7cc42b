// The model and microbatch whose seconds a network file holds: what its measurements are good for.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/json_reader.h"

namespace skippipe {

// What the seconds of a layer, a loss and a sample depend on, beside the node.
struct MeasuredFor {
  // Of the model, as its config.json calls them.
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  // Of the run.
  int64_t samples = 0;  // of a microbatch
  int64_t tokens = 0;   // of a sample
  std::string dtype;    // that the model is computed in

  bool operator==(const MeasuredFor&) const = default;
};

// "hidden_size 48 (here 4096), tokens 32 (here 2048)": what differs, with the measured value first; empty: nothing.
std::string describe_difference(const MeasuredFor& measured, const MeasuredFor& here);

// The field `measured_for` of a network file; schedule/FILES.md documents it. Throws FileError.
MeasuredFor read_measured_for(const JsonReader& json);
nlohmann::ordered_json to_json(const MeasuredFor& measured);

}  // namespace skippipe
