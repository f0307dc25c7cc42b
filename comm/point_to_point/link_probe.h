// Measures a link: what a message between two running nodes takes, as training sends it.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "comm/control/awake_clock.h"
#include "comm/transport/transport.h"

namespace skippipe {

struct LinkProbeSettings {
  size_t message_bytes = 1 << 20;                     // of the large messages; the same on all nodes
  int repetitions = 15;                               // round trips, single messages, parts of a stream
  double stream_s = 0.5;                              // each stream lasts at least so long
  std::chrono::milliseconds progress_limit{120'000};  // a peer from which nothing comes for so long has failed
};

// Clocks are not shared: every time is taken by the sender, from sending a message to its peer's reply, which is sent
// when the whole message is there.
struct LinkSamples {
  std::vector<double> round_trip_s;           // of a small message and its empty reply
  std::vector<double> single_s;               // of one large message and its empty reply, with nothing else under way
  int in_flight = 0;                          // large messages under way in the streams
  std::vector<double> stream_bytes_per_s;     // large messages one after another, empty replies
  std::vector<double> both_ways_bytes_per_s;  // each reply as large as its message: what each direction carried
};

// Rates of a stream of messages of `bytes` by the times at which their replies came, with `in_flight` of them under way
// at once. The replies to the first `in_flight` are not counted, and each rate is over at least as many messages: they
// come in bursts. At most `parts` rates. Expects more than in_flight times that do not fall.
std::vector<double> stream_rates(std::span<const double> reply_times_s, int in_flight, size_t bytes, int parts);

// Measures links to peers, and answers their probes; the peer needs one, too. Driven by the events of a transport, as
// the collectives are, on its thread. The transport is closed before the object ends.
class LinkProbe {
 public:
  static constexpr size_t kSmallBytes = 64;
  static constexpr int kMaxInFlight = 64;
  static constexpr size_t kMaxBytesInFlight = size_t{256} << 20;  // or two messages, if these are larger

  LinkProbe(Transport& transport, const LinkProbeSettings& settings);

  // Runs the transport until the link to `peer` is measured: round trips, single messages, streams with one, two, four
  // and more messages in flight until more do not help, and one in both directions. Not ok if the peer is gone, does
  // not answer within the limit, or answers nonsense. Not from inside an event.
  [[nodiscard]] Status measure(int peer, LinkSamples& samples);

  // True if the event was this object's.
  bool on_announced(Ticket ticket, const MessageHeader& header);
  bool on_received(Ticket ticket, const MessageHeader& header, const Status& status);
  bool on_sent(Ticket ticket, const Status& status);
  // Ends a measurement under way: the peer failed or left, or nobody waits for the result any more.
  void cancel(const Status& status);

  // Not ok once a peer sent what is no right probe.
  const Status& status() const { return status_; }

 private:
  // What a reply carries; in the header's iteration.
  enum class Reply : uint32_t { kEmpty = 0, kSame = 1 };
  struct Load {
    size_t bytes;
    Reply reply;
    int in_flight;
    size_t at_least, at_most;  // messages; between these, until `seconds` have passed
    double seconds;
  };
  struct Message {
    Clock::time_point sent;
    std::optional<Clock::time_point> replied;
  };
  struct Exchange {
    int peer;
    Load load;
    std::vector<Message> messages;  // by number
    std::vector<double> replies_s;  // since the start, in the order in which they came
    Clock::time_point start;
    Patience patience;  // with the next reply
    bool under_way = true;
  };
  struct Buffer {
    std::vector<std::byte> bytes;
    std::optional<Ticket> receiving;
    bool free = true;
  };
  struct Announced {
    Ticket ticket;
    MessageHeader header;
  };

  int max_in_flight() const;
  Status exchange(int peer, const Load& load);
  Status measure_singly(int peer, size_t bytes, std::vector<double>& seconds);
  Status measure_stream(int peer, Reply reply, int in_flight, std::vector<double>& rates);
  Status measure_streams(int peer, LinkSamples& samples);
  void send_next();
  void take_reply(const MessageHeader& header);
  void answer(const MessageHeader& header, Buffer& buffer);
  Status check(const MessageHeader& header) const;
  void receive_waiting();
  void release(Buffer& buffer);
  void fail(Status status);

  Transport& transport_;
  const LinkProbeSettings settings_;
  const std::vector<std::byte> content_;  // of all large messages
  std::optional<Exchange> exchange_;      // the last one
  std::deque<Buffer> buffers_;            // addresses stay
  std::deque<Announced> waiting_;         // for a buffer
  std::map<Ticket, Buffer*> sends_;       // under way; with the buffer that a reply is sent from
  Status status_;
};

}  // namespace skippipe
