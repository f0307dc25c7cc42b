// What a run's output folder says of the run: run.json, written at its start, read by reports.
//
//   {"format": "skippipe-run", "version": 1, "run_id": "00112233aabbccdd",
//    "run_file": [["run.seed", "1"], ...],     every field with its value as TOML
//    "model": {...}, "network": {...}, "plan": {...},    the documents that the run file names
//    "memory": [[{"region": "weights", "name": "...", "bytes": 4096, "note": "..."}, ...], ...]}    per node
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/memory.h"
#include "engine/run/run.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

struct RunDescription {
  std::string run_id;  // 16 hexadecimal digits
  std::vector<std::pair<std::string, std::string>> run_file;
  std::vector<std::pair<std::string, std::string>> model;  // config.json's fields that are no lists or objects
  Network network;
  Plan plan;
  std::vector<MemoryPlan> memory;  // by node
};

std::string run_id_text(uint64_t run_id);

// Writes run.json into the run's output folder; memory is that of nodes on a device like the backend's, as the one
// that writes does not know of the others'. Throws FileError.
void write_run_description(const TrainingRun& run, Backend& backend);
// Reads it from a run's output folder. Throws FileError.
RunDescription load_run_description(const std::filesystem::path& run_folder);
// The same of a run.json of any name.
RunDescription load_run_description_file(const std::filesystem::path& path);

}  // namespace skippipe
