// The TCP control connections between the nodes of a run: who is there, where UCX reaches them, who has gone.
//
// Node i connects to all j < i, at one address after the other that the name of j has, and is connected to by the
// others; both sides open with a hello. Then the connections carry heartbeats and goodbyes. Strangers are kept apart
// until their hello is right: non-blocking, with a limit on their bytes, their time and their number. PROTOCOL.md says
// what happens on each violation.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "comm/control/awake_clock.h"
#include "comm/control/clock_offset.h"
#include "comm/control/connection_attempts.h"
#include "comm/control/control_connection.h"
#include "comm/control/socket.h"
#include "comm/formats/control_frame.h"

namespace skippipe {

struct ControlOptions {
  uint64_t run_id = 0;
  int node = 0;
  std::vector<NodeAddress> addresses;  // of all the nodes
  std::chrono::milliseconds heartbeat_interval{1000};
  std::chrono::milliseconds silence_limit{10000};  // also what a stranger has for its hello
  Logger logger;
};

// What the mesh tells its owner, from inside service(), which the handler must not call.
class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  virtual void on_admitted(int node, std::span<const std::byte> worker_address) = 0;
  virtual void on_goodbye(int node, uint64_t messages_sent) = 0;  // it will send nothing more
  virtual void on_farewell(int node) = 0;                         // it has all our messages
  virtual void on_left(int node) = 0;                             // its connection ended, after its goodbye
  virtual void on_lost(int node, const Status& status) = 0;       // its connection ended or fell silent, without one
};

// Used by one thread, which sleeps on fd() and calls service() when it is readable or at next_timer().
class ControlMesh {
 public:
  // `listeners` listen at our own address.
  ControlMesh(ControlOptions options, std::vector<FileDescriptor> listeners, std::vector<std::byte> worker_address,
              ControlHandler& handler);

  int fd() const { return poller_.get(); }
  Clock::time_point next_timer() const;
  void service();
  // In which silence is measured: it hardly passes while this process does not run.
  Clock::time_point awake_time() { return awake_.now(); }

  bool complete() const;        // all the others were admitted
  std::string missing() const;  // who is not there yet, where, since when it was tried, and why not

  std::optional<ClockOffset> clock_offset(int node) const { return peers_[node].clock.offset(); }
  std::string describe(int node) const;  // "node 3 at 10.0.0.3:7000"

  // Goodbye tells the peer how many messages it was sent; farewell answers its goodbye.
  void say_goodbye(int node, uint64_t messages_sent);
  void say_farewell(int node);
  // Ends the connection; no event follows. No effect on a peer that is gone.
  void drop(int node);

 private:
  struct Peer {
    explicit Peer(const NodeAddress& address) : attempts(address) {}

    std::unique_ptr<ControlConnection> connection;
    bool admitted = false, said_goodbye = false, gone = false;
    ConnectionAttempts attempts;  // where it is ours to connect
    ClockComparison clock;
  };

  bool is_up(const Peer& peer) const { return peer.admitted && peer.connection != nullptr; }
  void connect_due(Clock::time_point now);
  void connect(int node, Clock::time_point now);
  Clock::time_point greeting_limit(const Peer& peer) const;
  Status check_greeting(const Peer& peer, Clock::time_point now) const;
  void accept_strangers(Clock::time_point now);
  void close_waiting(const FileDescriptor& listener);
  void serve_strangers(Clock::time_point now);
  void refuse(const ControlConnection& stranger, const Status& status);
  void serve_greeting(int node, Clock::time_point now);
  void serve_peer(int node, Clock::time_point now);
  Status read_hello(ControlConnection& connection, Clock::time_point now, std::optional<Hello>& hello) const;
  Status check_stranger(const Hello& hello) const;
  void admit(int node, std::unique_ptr<ControlConnection> connection, const Hello& hello, Clock::time_point now);
  Status take_frames(int node);
  void send(int node, ControlKind kind, std::span<const std::byte> body);
  void lose(int node, const std::string& why);
  std::string own_sleep();
  void forgive_silence(Clock::time_point now);
  void look_for_machine_sleep(Clock::time_point now);
  void send_heartbeat(int node);
  void take_frame(int node, const ControlFrame& frame);
  void beat(Clock::time_point now);

  const ControlOptions options_;
  const std::vector<std::byte> own_hello_;
  ControlHandler& handler_;
  std::vector<FileDescriptor> listeners_;
  FileDescriptor spare_;   // given up for a moment where no other is left
  FileDescriptor poller_;  // epoll: readable when service() has something to do
  std::vector<Peer> peers_;
  std::vector<std::unique_ptr<ControlConnection>> strangers_;  // the oldest first
  std::set<std::string> refusals_told_;                        // why, by host
  const std::chrono::system_clock::time_point started_;
  AwakeClock awake_;  // of all times here
  Clock::time_point next_beat_;
  Clock::time_point forgave_{};
  Clock::duration machine_sleep_ = machine_sleep();  // as far as it was noticed
  Clock::duration last_machine_sleep_{0};
  Clock::time_point machine_woke_{};
};

}  // namespace skippipe
