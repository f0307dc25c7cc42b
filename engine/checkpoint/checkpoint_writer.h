// Writes a node's part of its run's checkpoints in the background, while training goes on.
//
// One replica of each stage has a writer. Which checkpoints exist is agreed without messages of their own: with every
// iteration's statistics a writer tells what it has written (CheckpointProgress); what all have written becomes a
// checkpoint, by renaming, in each folder that has parts of it. A part that can't be written (a full disk) is tried
// again until the next checkpoint is due, then given up for that one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "engine/checkpoint/checkpoint_files.h"
#include "engine/files/sampler.h"
#include "engine/model/memory.h"
#include "engine/model/stage.h"

namespace skippipe {

// The checkpoints that a node has written, of those due every few iterations.
struct CheckpointProgress {
  static constexpr int kHistory = 52;  // what a double carries exactly

  uint32_t newest = 0;   // iteration of the newest one written; 0: none
  uint64_t history = 0;  // bit j: the one j intervals before the newest is written

  void add(uint32_t iteration, uint32_t interval);
  bool has(uint32_t iteration, uint32_t interval) const;
};
// The iterations that all have written, ascending.
std::vector<uint32_t> written_by_all(std::span<const CheckpointProgress> nodes, uint32_t interval);

struct CheckpointSettings {
  std::filesystem::path folder;  // of all the run's checkpoints
  uint32_t interval = 0;         // iterations between checkpoints
  uint32_t keep_last = 1;        // newest ones to keep
  uint32_t keep_every = 0;       // also keep those whose iteration is a multiple; 0: none
  SamplerShape data;             // how the run reads its data
  CheckpointManifest manifest;   // its iteration and samples are set for each
  CompanionFiles companions;
};

// Two threads use it: that of the stage's tasks takes snapshots, the node's event thread asks and publishes. The third
// is its own.
class CheckpointWriter {
 public:
  // Registers the snapshot, for which the stage's memory must have been planned before.
  static void plan_memory(MemoryPlan& plan);

  // Stage and slab outlive it. `wake` is called, on the writer's thread, when something is done.
  CheckpointWriter(CheckpointSettings settings, Stage& stage, Slab& slab, Logger logger, std::function<void()> wake);
  // Waits for the file under way; a part that failed is not tried again.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  bool due(uint32_t iteration) const { return iteration % settings_.interval == 0; }
  // Copies the stage's state after so many optimizer steps and begins to write it. Waits while an earlier part is being
  // written, not while it fails.
  void snapshot(uint32_t iteration);
  CheckpointProgress progress() const;
  // The part of this iteration is written; or why it could not be, at the last attempt.
  bool written(uint32_t iteration) const;
  std::string last_error() const;
  // The state of this iteration is not finite, so that it replaces no checkpoint: last_error says what.
  bool refused(uint32_t iteration) const;
  // All nodes have written it: makes it a checkpoint and removes what need not be kept. Done once idle().
  void publish(uint32_t iteration);
  uint32_t published() const;  // iteration of the newest; 0: none
  bool idle() const;           // nothing to write or publish

 private:
  void run();
  void write(uint32_t iteration);
  void publish_now(uint32_t iteration);
  void remove_old(uint32_t newest) const;

  const CheckpointSettings settings_;
  Stage& stage_;
  std::vector<Parameter> snapshot_;  // the stage's parameters in the snapshot's memory, on the host
  const Logger logger_;
  const std::function<void()> wake_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::optional<uint32_t> pending_;  // in the snapshot, not yet written
  bool writing_ = false;
  bool stopping_ = false;
  std::string error_;  // of the last attempt; empty after a success
  CheckpointProgress progress_;
  uint32_t last_written_ = 0;
  std::optional<uint32_t> refused_;
  std::deque<uint32_t> to_publish_;
  bool publishing_ = false;
  uint32_t published_ = 0;

  uint32_t unpublished_ = 0;  // the last that was told to be so; of the writer's thread
  std::thread thread_;
};

}  // namespace skippipe
