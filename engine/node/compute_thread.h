// The node's one compute thread: runs one job at a time, so that the event thread stays free for the network.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace skippipe {

// Created, used and destroyed by the event thread; `done` is called on the compute thread after each job.
class ComputeThread {
 public:
  explicit ComputeThread(std::function<void()> done);
  // Waits for the job under way.
  ~ComputeThread();
  ComputeThread(const ComputeThread&) = delete;
  ComputeThread& operator=(const ComputeThread&) = delete;

  // Starts a job; none may be under way or finished but not yet collected.
  void submit(std::function<void()> job);
  // True once for each job that has finished. Rethrows what the job threw.
  bool collect();

 private:
  enum class State { kIdle, kRunning, kFinished, kStopping };
  void run();

  std::function<void()> done_;
  std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kIdle;  // guarded by mutex_
  std::function<void()> job_;   // guarded by mutex_
  std::exception_ptr error_;    // guarded by mutex_
  std::thread thread_;
};

}  // namespace skippipe
