// Short texts between nodes (JSON: settings, tasks, reports), for work that is not timed to the microsecond.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/transport/transport.h"

namespace skippipe {

// Driven by the events of a transport, as the collectives are, on its thread. Texts of one peer arrive in order. The
// transport is closed before the object ends.
class Documents {
 public:
  static constexpr size_t kMaxBytes = 1 << 20;
  using Handler = std::function<void(int from, std::string text)>;

  // on_document is called from inside the transport's run_once.
  Documents(Transport& transport, Handler on_document);

  // Throws InternalError if the text is longer than kMaxBytes. A text to a peer that is gone is lost.
  void send(int node, std::string text);

  // True if the event was this object's.
  bool on_announced(Ticket ticket, const MessageHeader& header);
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status);

  // Not ok once a peer sent what is no document.
  const Status& status() const { return status_; }

 private:
  struct Announced {
    Ticket ticket;
    size_t bytes;
  };
  struct Incoming {
    std::deque<Announced> waiting;
    bool receiving = false;
    std::string text;  // being received
  };
  void receive_next(Incoming& incoming);

  Transport& transport_;
  const Handler on_document_;
  std::vector<Incoming> incoming_;  // by node
  std::map<Ticket, std::unique_ptr<std::string>> outgoing_;
  Status status_;
};

}  // namespace skippipe
