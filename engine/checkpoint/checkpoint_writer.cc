#include "engine/checkpoint/checkpoint_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "engine/checkpoint/model_files.h"
#include "kernels/copy.h"

namespace skippipe {
namespace {

namespace fs = std::filesystem;

constexpr char kSnapshotBlock[] = "snapshot";
constexpr int kStates = 3;  // weights and two moments
constexpr std::chrono::seconds kFirstRetry(1), kLongestRetry(60);

// The nodes that share a folder publish one after another. On NFS that takes a file, open for writing. Where there are
// no locks nodes may meet, which publish_checkpoint allows for.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder)
      : fd_(open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (fd_ < 0) throw FileError("{}: cannot open .lock: {}", folder.string(), std::strerror(errno));
    while (flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~FolderLock() { close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

void remove_quietly(const fs::path& folder) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

}  // namespace

void CheckpointProgress::add(uint32_t iteration, uint32_t interval) {
  const uint32_t steps = (iteration - newest) / interval;
  history = newest == 0 || steps >= kHistory ? 1 : (history << steps | 1) & ((uint64_t{1} << kHistory) - 1);
  newest = iteration;
}

bool CheckpointProgress::has(uint32_t iteration, uint32_t interval) const {
  if (iteration == 0 || iteration > newest) return false;
  const uint32_t back = (newest - iteration) / interval;
  return back < kHistory && (history >> back & 1) != 0;
}

std::vector<uint32_t> written_by_all(std::span<const CheckpointProgress> nodes, uint32_t interval) {
  std::vector<uint32_t> iterations;
  const uint32_t newest = std::ranges::min(nodes, {}, &CheckpointProgress::newest).newest;
  for (uint32_t back = 0; back < CheckpointProgress::kHistory && uint64_t{back} * interval < newest; ++back) {
    const uint32_t iteration = newest - back * interval;
    if (std::ranges::all_of(nodes, [&](const CheckpointProgress& node) { return node.has(iteration, interval); }))
      iterations.push_back(iteration);
  }
  std::ranges::reverse(iterations);
  return iterations;
}

void CheckpointWriter::plan_memory(MemoryPlan& plan) {
  plan.add(Region::kCheckpoint, kSnapshotBlock, kStates * plan.bytes(Region::kGradients), "weights and moments, f32");
}

CheckpointWriter::CheckpointWriter(CheckpointSettings settings, Stage& stage, Slab& slab, Logger logger,
                                   std::function<void()> wake)
    : settings_(std::move(settings)), stage_(stage), logger_(std::move(logger)), wake_(std::move(wake)) {
  const MemoryBlock block = slab.take(Region::kCheckpoint, kSnapshotBlock);
  const size_t state_bytes = block.bytes.size() / kStates;
  const auto* gradients = stage.gradients().as<std::byte>();
  for (const Parameter& parameter : stage.parameters()) {
    // As the gradients lie, once for each state.
    std::byte* place = block.bytes.data() + (parameter.gradient.as<std::byte>() - gradients);
    const auto view = [&](size_t state) {
      return Tensor(place + state * state_bytes, parameter.weight.shape(), Dtype::kF32, block.device);
    };
    snapshot_.push_back({parameter.name, view(0), {}, view(1), view(2)});
  }
  thread_ = std::thread([this] { run(); });
}

CheckpointWriter::~CheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointWriter::snapshot(uint32_t iteration) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !writing_ && (!pending_ || !error_.empty()); });
  if (pending_) {
    logger_->warn("the checkpoint of iteration {} is given up for that of iteration {}", *pending_, iteration);
    remove_quietly(partial_checkpoint(settings_.folder / checkpoint_name(*pending_)));
  }
  Context& context = stage_.context();
  const std::vector<Parameter>& live = stage_.parameters();
  for (size_t i = 0; i < live.size(); ++i) {
    copy(context, snapshot_[i].weight, live[i].weight);
    copy(context, snapshot_[i].first_moment, live[i].first_moment);
    copy(context, snapshot_[i].second_moment, live[i].second_moment);
  }
  finish(context);
  pending_ = iteration;
  refused_.reset();
  error_.clear();
  changed_.notify_all();
}

CheckpointProgress CheckpointWriter::progress() const {
  const std::lock_guard lock(mutex_);
  return progress_;
}

bool CheckpointWriter::written(uint32_t iteration) const {
  const std::lock_guard lock(mutex_);
  return last_written_ == iteration;
}

std::string CheckpointWriter::last_error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

bool CheckpointWriter::refused(uint32_t iteration) const {
  const std::lock_guard lock(mutex_);
  return refused_ == iteration;
}

void CheckpointWriter::publish(uint32_t iteration) {
  const std::lock_guard lock(mutex_);
  if (iteration <= published_ || (!to_publish_.empty() && iteration <= to_publish_.back())) return;
  to_publish_.push_back(iteration);
  changed_.notify_all();
}

uint32_t CheckpointWriter::published() const {
  const std::lock_guard lock(mutex_);
  return published_;
}

bool CheckpointWriter::idle() const {
  const std::lock_guard lock(mutex_);
  return !pending_ && to_publish_.empty() && !publishing_;
}

void CheckpointWriter::run() {
  std::chrono::seconds retry = kFirstRetry;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!to_publish_.empty()) {
      const uint32_t iteration = to_publish_.front();
      to_publish_.pop_front();
      publishing_ = true;
      lock.unlock();
      publish_now(iteration);
      lock.lock();
      publishing_ = false;
    } else if (pending_ && error_.empty()) {
      const uint32_t iteration = *pending_;
      writing_ = true;
      lock.unlock();
      std::string error = non_finite_state(snapshot_);
      const bool refused = !error.empty();
      try {
        if (!refused) write(iteration);
      } catch (const std::exception& failure) {
        error = failure.what();
      }
      lock.lock();
      writing_ = false;
      error_ = error;
      if (refused) {
        pending_.reset();
        refused_ = iteration;
        logger_->warn("the checkpoint of iteration {} is not written: {}", iteration, error);
      } else if (error.empty()) {
        pending_.reset();
        last_written_ = iteration;
        if (due(iteration)) progress_.add(iteration, settings_.interval);
        retry = kFirstRetry;
      } else {
        logger_->warn("checkpoint of iteration {}: {}; training goes on, next attempt in {} s", iteration, error,
                      retry.count());
      }
    } else if (pending_) {
      const auto interrupted = [this] { return stopping_ || error_.empty() || !to_publish_.empty(); };
      if (!changed_.wait_for(lock, retry, interrupted)) {
        error_.clear();
        retry = std::min(2 * retry, kLongestRetry);
      }
      continue;
    } else {
      changed_.wait(lock, [this] { return stopping_ || pending_ || !to_publish_.empty(); });
      continue;
    }
    changed_.notify_all();
    lock.unlock();
    wake_();
    lock.lock();
  }
}

void CheckpointWriter::write(uint32_t iteration) {
  const fs::path checkpoint = settings_.folder / checkpoint_name(iteration);
  const OutputPath folder(partial_checkpoint(checkpoint), checkpoint);
  CheckpointManifest manifest = settings_.manifest;
  manifest.iteration = iteration;
  manifest.samples = settings_.data.samples_before(iteration);
  write_checkpoint_description(folder, manifest, stage_.config(), settings_.companions);
  write_checkpoint_part(folder, stage_.layout().index, snapshot_, true);
}

void CheckpointWriter::publish_now(uint32_t iteration) {
  const fs::path checkpoint = settings_.folder / checkpoint_name(iteration);
  try {
    const FolderLock lock(settings_.folder);
    publish_checkpoint(partial_checkpoint(checkpoint), checkpoint);
    remove_old(iteration);
    const std::lock_guard guard(mutex_);
    published_ = iteration;
  } catch (const std::exception& error) {
    if (std::exchange(unpublished_, iteration) != iteration)
      logger_->warn("checkpoint of iteration {}: {}", iteration, error.what());
  }
}

void CheckpointWriter::remove_old(uint32_t newest) const {
  std::vector<uint32_t> iterations = list_checkpoints(settings_.folder);
  std::erase_if(iterations, [&](uint32_t iteration) { return iteration > newest; });
  const size_t old = iterations.size() - std::min<size_t>(iterations.size(), settings_.keep_last);
  for (size_t i = 0; i < old; ++i)
    if (settings_.keep_every == 0 || iterations[i] % settings_.keep_every != 0)
      remove_checkpoint(settings_.folder / checkpoint_name(iterations[i]));
  // Given up, or of a run that was killed.
  for (const uint32_t iteration : list_partial_checkpoints(settings_.folder))
    if (iteration < newest) remove_quietly(partial_checkpoint(settings_.folder / checkpoint_name(iteration)));
  finish_removals(settings_.folder);
}

}  // namespace skippipe
