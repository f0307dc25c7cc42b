// The outcome of something that a network may refuse in normal life: a peer that is gone, a message that is late.
#pragma once

#include <string>
#include <utility>

namespace skippipe {

enum class StatusCode { kOk, kUnreachable, kPeerGone, kTimeout, kCorrupt, kForeign, kCancelled };

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  // One clear line; empty when ok.
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace skippipe
