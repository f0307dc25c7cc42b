// Runs made from a seed: a small model, a random network, random valid paths with skips and swaps.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "comm/transport/transport.h"
#include "engine/run/run.h"

namespace skippipe::testing {

// Deterministic in seed; writes the training tokens into the folder unless they are there.
TrainingRun make_scenario(uint64_t seed, const std::filesystem::path& folder);

bool has_skips(const Plan& plan);
bool has_swaps(const Plan& plan);

// Seeds from here on have nodes on simulated GPUs (or real ones, where the name of a GPU's test backend says so): all
// of them, or some beside others on the CPU, computing in f32 or bf16 with messages in one of the two.
inline constexpr uint64_t kFirstDeviceSeed = 1000;

// What a node of the scenario computes on, and in.
std::string scenario_backend(const TrainingRun& run, int node, const std::string& gpu);
TrainingRun as_node(TrainingRun run, int node);

// What one node did, to be held against an oracle.
struct NodeRecord {
  struct Task {
    TaskKind kind;
    int microbatch;
  };
  struct Iteration {
    std::vector<Task> tasks;       // in the order in which they ran
    std::vector<float> gradients;  // of the stage, summed over its replicas
    double loss = 0;               // as reported to all nodes
    double gradient_norm = 0;
    // Of the validation after it; -1: none.
    double validation_loss = -1, validation_path_loss = -1;
  };
  std::vector<Iteration> iterations;
};

// Runs the node to its end. Throws what Node::run throws. tracer may be null.
NodeRecord run_node(const TrainingRun& run, int node, Transport& transport, Tracer* tracer = nullptr,
                    const std::string& gpu = "simt");

void save_record(const NodeRecord& record, const std::filesystem::path& path);
NodeRecord load_record(const std::filesystem::path& path);

// The oracle: one process and one thread run the same tasks on the same data, a node's in the order of its record, and
// add the replicas' gradients in their order. No machine, no transport, no slots to share. Returns what the records
// should hold.
std::vector<NodeRecord> run_oracle(const TrainingRun& run, const std::vector<NodeRecord>& orders,
                                   const std::string& gpu = "simt");

}  // namespace skippipe::testing
