#include "engine/node/transfers.h"

#include <utility>

#include "base/error.h"

namespace skippipe {

Transfers::Transfers(Runtime& runtime, std::function<void()> wake)
    : runtime_(runtime), wake_(std::move(wake)), uploads_(runtime), downloads_(runtime) {}

Transfers::~Transfers() {
  try {
    runtime_.finish(uploads_.stream.get());
    runtime_.finish(downloads_.stream.get());
  } catch (const Error&) {
    // The device has failed, which whoever waits for its work hears: nothing is under way any more.
  }
}

void Transfers::upload(const Tensor& device, const ConstTensor& host, std::function<void()> done) {
  hold_back(uploads_.stream.get());
  queue(uploads_, device, host, std::move(done));
}

void Transfers::download(const Tensor& host, const ConstTensor& device, std::function<void()> done) {
  queue(downloads_, host, device, std::move(done));
}

void Transfers::hold_back(Stream stream) {
  if (!downloads_.waiting.empty()) runtime_.wait_for(stream, downloads_.stream.get());
}

void Transfers::queue(Queue& direction, const Tensor& to, const ConstTensor& from, std::function<void()> done) {
  SKP_CHECK(to.is_contiguous() && from.is_contiguous() && to.bytes() == from.bytes(), "a transfer of {} bytes to {}",
            from.bytes(), to.bytes());
  direction.waiting.push_back(std::move(done));
  runtime_.copy(direction.stream.get(), to.data(), from.data(), from.bytes());
  runtime_.call(direction.stream.get(), [this, &direction] {
    ++direction.over;
    wake_();
  });
}

bool Transfers::poll() {
  const bool uploaded = poll(uploads_), downloaded = poll(downloads_);
  return uploaded || downloaded;
}

bool Transfers::poll(Queue& direction) {
  if (direction.waiting.empty()) return false;
  bool any = false;
  for (; direction.told < direction.over; ++direction.told, any = true) {
    const std::function<void()> done = std::move(direction.waiting.front());
    direction.waiting.pop_front();
    done();
  }
  // A device that has failed makes no calls.
  if (!any) (void)runtime_.finished(direction.stream.get());
  return any;
}

}  // namespace skippipe
