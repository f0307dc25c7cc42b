#include "comm/transport/ucx_worker.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr int kMaxProgressCalls = 64;

void require(ucs_status_t status, const char* call) {
  if (status != UCS_OK) throw RunError("UCX: {} failed: {}", call, ucs_status_string(status));
}

bool user_set(const char* key) { return std::getenv(fmt::format("UCX_{}", key).c_str()) != nullptr; }

void set_default(ucp_config_t* config, const char* key, const char* value) {
  if (!user_set(key)) require(ucp_config_modify(config, key, value), fmt::format("setting {}", key).c_str());
}

// UCX knows one list for networks of all kinds: what is to be kept must be named.
std::string device_list(const UcxNetwork& network) {
  std::vector<std::string> devices = network.interfaces;
  const std::vector<std::string> rdma = rdma_devices();
  devices.insert(devices.end(), rdma.begin(), rdma.end());
  return fmt::format("{}", fmt::join(devices, ","));
}

// For a message.
std::string over_devices(const UcxNetwork& network) {
  if (const char* devices = std::getenv("UCX_NET_DEVICES")) return fmt::format(" over UCX_NET_DEVICES={}", devices);
  return network.interfaces.empty() ? "" : " over " + device_list(network);
}

// What the user may have set wrong: UCX itself is silent (LOG_LEVEL), and its status says little.
std::string user_settings() {
  std::string list;
  for (const char* key : {"UCX_NET_DEVICES", "UCX_TLS"})
    if (const char* value = std::getenv(key))
      list += fmt::format("{}{}={}", list.empty() ? " with " : ", ", key, value);
  return list;
}

ucp_context_h make_context(size_t expected_peers, const UcxNetwork& network) {
  // A peer that goes away is our Status, not a line of UCX's on the user's terminal.
  if (!user_set("LOG_LEVEL")) ucs_global_opts_set_value("LOG_LEVEL", "fatal");
  ucp_config_t* config = nullptr;
  require(ucp_config_read(nullptr, nullptr, &config), "ucp_config_read");
  // Not shared memory: its senders poll at full speed while a queue is full, and with sleeping receivers it moves large
  // messages at a quarter of TCP's rate (tools/bench_transport with UCX_TLS=self,posix and without).
  set_default(config, "TLS", "self,tcp");
  set_default(config, "MM_ERROR_HANDLING", "y");  // else UCX_TLS=self,posix finds no transport that notices failures
  // Else UCX uses whichever interface comes first in its own order, such as a docker0 that leads nowhere.
  if (!network.interfaces.empty()) set_default(config, "NET_DEVICES", device_list(network).c_str());
  // Of UCX_TCP_AF_PRIO: this call knows the keys of a transport without its name.
  if (network.is_ipv6 && !user_set("TCP_AF_PRIO"))
    require(ucp_config_modify(config, "AF_PRIO", "inet6,inet"), "setting AF_PRIO");

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.estimated_num_eps = expected_peers;
  ucp_context_h context = nullptr;
  const ucs_status_t status = ucp_init(&params, config, &context);
  ucp_config_release(config);
  require(status, fmt::format("ucp_init{}", user_settings()).c_str());
  return context;
}

}  // namespace

void give_back_signals_of_ucx() {
  const auto give_back = [](int signal) {
    struct sigaction current {};
    const bool is_taken =
        sigaction(signal, nullptr, &current) == 0 &&
        ((current.sa_flags & SA_SIGINFO) != 0 || (current.sa_handler != SIG_DFL && current.sa_handler != SIG_IGN));
    if (is_taken) ucs_debug_disable_signal(signal);
  };
  if (!user_set("DEBUG_SIGNO")) give_back(static_cast<int>(ucs_global_opts.debug_signo));
  if (user_set("HANDLE_ERRORS") || user_set("ERROR_SIGNALS")) return;
  std::for_each_n(ucs_global_opts.error_signals.signals, ucs_global_opts.error_signals.count, give_back);
}

std::vector<std::string> rdma_devices(const std::filesystem::path& list) {
  std::vector<std::string> devices;
  std::error_code none;  // no such folder, no such devices
  for (const auto& device : std::filesystem::directory_iterator(list, none))
    for (const auto& port : std::filesystem::directory_iterator(device.path() / "ports", none))
      devices.push_back(device.path().filename().string() + ":" + port.path().filename().string());
  std::ranges::sort(devices);
  return devices;
}

UcxWorker::UcxWorker(size_t expected_peers, ucp_am_recv_callback_t on_message, void* argument,
                     const UcxNetwork& network)
    : over_(over_devices(network)), context_(make_context(expected_peers, network)) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  ucs_status_t status = ucp_worker_create(context_, &params, &worker_);
  if (status != UCS_OK) ucp_cleanup(context_);
  require(status, "ucp_worker_create");

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = 0;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG | UCP_AM_FLAG_PERSISTENT_DATA;
  handler.cb = on_message;
  handler.arg = argument;
  status = ucp_worker_set_am_recv_handler(worker_, &handler);
  if (status == UCS_OK) status = ucp_worker_get_efd(worker_, &event_fd_);
  if (status == UCS_OK) return;
  ucp_worker_destroy(worker_);
  ucp_cleanup(context_);
  require(status, "setting up the worker");
}

UcxWorker::~UcxWorker() {
  ucp_worker_destroy(worker_);
  ucp_cleanup(context_);
}

std::vector<std::byte> UcxWorker::address() const {
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  require(ucp_worker_get_address(worker_, &address, &bytes), "ucp_worker_get_address");
  const auto* first = reinterpret_cast<const std::byte*>(address);
  std::vector<std::byte> copy(first, first + bytes);
  ucp_worker_release_address(worker_, address);
  return copy;
}

bool UcxWorker::progress() {
  for (int i = 0; i < kMaxProgressCalls; ++i) {
    if (ucp_worker_progress(worker_) == 0) return false;
  }
  return true;
}

bool UcxWorker::arm() {
  const ucs_status_t status = ucp_worker_arm(worker_);
  if (status == UCS_ERR_BUSY) return false;
  require(status, "ucp_worker_arm");
  return true;
}

Status UcxWorker::connect(std::span<const std::byte> address, ucp_err_handler_cb_t on_error, void* argument,
                          ucp_ep_h& endpoint) {
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = on_error, .arg = argument};
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status == UCS_OK) return {};
  endpoint = nullptr;
  return {StatusCode::kUnreachable, fmt::format("UCX can't reach it{}: {}", over_, ucs_status_string(status))};
}

void UcxWorker::close(ucp_ep_h endpoint) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
  if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

}  // namespace skippipe
