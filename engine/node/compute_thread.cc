#include "engine/node/compute_thread.h"

#include <utility>

#include "base/error.h"

namespace skippipe {

ComputeThread::ComputeThread(std::function<void()> done) : done_(std::move(done)), thread_([this] { run(); }) {}

ComputeThread::~ComputeThread() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return state_ != State::kRunning; });
    state_ = State::kStopping;
  }
  changed_.notify_all();
  thread_.join();
}

void ComputeThread::submit(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    SKP_CHECK(state_ == State::kIdle, "a job is under way");
    job_ = std::move(job);
    state_ = State::kRunning;
  }
  changed_.notify_all();
}

bool ComputeThread::collect() {
  std::exception_ptr error;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kFinished) return false;
    state_ = State::kIdle;
    error = std::exchange(error_, nullptr);
  }
  if (error) std::rethrow_exception(error);
  return true;
}

void ComputeThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return state_ == State::kRunning || state_ == State::kStopping; });
    if (state_ == State::kStopping) return;
    const std::function<void()> job = std::move(job_);
    lock.unlock();
    std::exception_ptr error;
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    state_ = State::kFinished;
    // The destructor may be waiting for this job.
    changed_.notify_all();
    lock.unlock();
    done_();
    lock.lock();
  }
}

}  // namespace skippipe
