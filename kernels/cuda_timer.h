#pragma once

#include <functional>

namespace skippipe {

// Seconds that the device spends on what `queue_work` queues on the stream, between two events. Waits for its end.
// Throws DeviceError, also for what failed in the work.
double cuda_seconds(void* stream, const std::function<void()>& queue_work);

}  // namespace skippipe
