// The UCX objects of one node, owned: context, worker, endpoints.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace skippipe {

// Gives back the signals that UCX takes when it is loaded: it turns SIGHUP into debug logs and prints a trace of its
// own for those of a crash. What was set before holds again (nohup's, a sanitizer's), except where the environment asks
// for UCX's by name (UCX_DEBUG_SIGNO, UCX_HANDLE_ERRORS). Call it once, early in main.
void give_back_signals_of_ucx();

// What UCX may use.
struct UcxNetwork {
  std::vector<std::string> interfaces;  // of TCP; empty: whatever there is
  bool is_ipv6 = false;                 // prefer an interface's IPv6 addresses
};

// The devices of RDMA networks as UCX names them ("mlx5_0:1"), from the system's list of them.
std::vector<std::string> rdma_devices(const std::filesystem::path& list = "/sys/class/infiniband");

// A UCX context with one worker, for one thread. It uses TCP, which works everywhere, unless the user's UCX_TLS says
// otherwise (UCX_TLS=all for InfiniBand); every UCX_* variable of the environment wins over our settings.
class UcxWorker {
 public:
  // `on_message` is called from progress() with `argument`. Throws RunError naming the call that failed.
  UcxWorker(size_t expected_peers, ucp_am_recv_callback_t on_message, void* argument, const UcxNetwork& network = {});
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
  const std::string over_;  // what it uses, for messages
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
};

}  // namespace skippipe
