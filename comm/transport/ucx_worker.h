// The UCX objects of one node, owned: context, worker, endpoints.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"

namespace skippipe {

// A UCX context with one worker, for one thread. It uses TCP, which works everywhere, unless the user's UCX_TLS says
// otherwise (UCX_TLS=all for InfiniBand); every UCX_* variable of the environment wins over our settings.
class UcxWorker {
 public:
  // `on_message` is called from progress() with `argument`. Throws RunError naming the call that failed.
  UcxWorker(size_t expected_peers, ucp_am_recv_callback_t on_message, void* argument);
  ~UcxWorker();  // purges what is under way and calls its callbacks
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  ucp_worker_h handle() const { return worker_; }
  int event_fd() const { return event_fd_; }
  std::vector<std::byte> address() const;

  // Does what is due, in bounded time. True if there may be more.
  bool progress();
  // True if event_fd() will become readable when there is something to do; false if there is already.
  bool arm();

  // An endpoint to the worker with this address, in peer error handling mode: `on_error` is called once it has failed.
  [[nodiscard]] Status connect(std::span<const std::byte> address, ucp_err_handler_cb_t on_error, void* argument,
                               ucp_ep_h& endpoint);
  // Ends it at once; its pending sends complete with an error during later progress.
  void close(ucp_ep_h endpoint);

 private:
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
};

}  // namespace skippipe
